"""The laws of a rollout, as a table.

1. A rollout is in exactly one phase; it moves only along an edge of TRANSITIONS, and `advance` raises on any other.
2. Every phase but `queued` has a deadline; every path leads to an ended phase; ended phases have no way out.
3. Until `shifting` no request reaches B; from `shifting` on none that arrives reaches A, unless it returns.
4. A keeps running, as large as it was, until the rollout has ended (strategy `recreate` aside, which says so). What the
   traffic has left only shrinks; if a kept A is to serve again at a larger scale, it grows first.

The picture in docs/rollouts.md is drawn from this table by scripts/gen_rollout_docs.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from seaway.model import ENDED, Phase, RolloutStatus, Step

TRANSITIONS: Mapping[Phase, Mapping[Phase, str]] = {
    Phase.QUEUED: {
        Phase.PREPARING: "its turn, with a release command",
        Phase.CLEARING: "its turn, strategy recreate",
        Phase.STARTING: "its turn",
        Phase.CANCELLED: "cancelled, or superseded by a newer release",
    },
    Phase.PREPARING: {
        Phase.CLEARING: "release command succeeded, strategy recreate",
        Phase.STARTING: "release command succeeded",
        Phase.FAILED: "release command failed or took too long",
        Phase.CANCELLED: "cancelled",
    },
    Phase.CLEARING: {
        Phase.STARTING: "nothing but B may run, and nothing else does",
        Phase.RESTORING: "cancelled, or what ran did not stop in time",
        Phase.FAILED: "what ran did not stop in time, and there is no A",
        Phase.CANCELLED: "cancelled, and there is no A",
    },
    Phase.STARTING: {
        Phase.VERIFYING: "every instance of B is ready",
        Phase.FAILED: "B crashed or was not ready in time",
        Phase.CANCELLED: "cancelled",
        Phase.RESTORING: "failed or cancelled, strategy recreate",
    },
    Phase.VERIFYING: {
        Phase.SHIFTING: "B stayed ready and every router sees it healthy",
        Phase.FAILED: "B or a router was not ready in time",
        Phase.CANCELLED: "cancelled",
        Phase.RESTORING: "failed or cancelled, strategy recreate",
    },
    Phase.SHIFTING: {
        Phase.KEEPING: "every router sends new requests to B",
        Phase.RETURNING: "failed or cancelled",
        Phase.RESTORING: "failed or cancelled, strategy recreate",
        Phase.FAILED: "failed, and there is no A",
        Phase.CANCELLED: "cancelled, and there is no A",
    },
    Phase.KEEPING: {
        Phase.SUCCEEDED: "B proved itself, was promoted, or a newer release waits",
        Phase.RETURNING: "B became unhealthy, or cancelled",
        Phase.RESTORING: "B became unhealthy or cancelled, strategy recreate",
        Phase.FAILED: "B became unhealthy, with no healthy A to return to: B stays",
        Phase.CANCELLED: "cancelled, with no healthy A to return to: B stays",
    },
    Phase.RETURNING: {
        Phase.ROLLED_BACK: "every router sends new requests to A",
        Phase.CANCELLED: "every router sends new requests to A, after a cancel",
        Phase.FAILED: "the routers did not acknowledge in time",
    },
    Phase.RESTORING: {
        Phase.ROLLED_BACK: "A serves again",
        Phase.CANCELLED: "A serves again, after a cancel",
        Phase.FAILED: "A did not come back in time",
    },
    Phase.SUCCEEDED: {},
    Phase.ROLLED_BACK: {},
    Phase.CANCELLED: {},
    Phase.FAILED: {},
}


class NotInTable(Exception):
    """A transition that the table does not have; nothing was changed."""


def advance(
    status: RolloutStatus, to: Phase, reason: str, now: datetime, deadline: datetime | None = None
) -> RolloutStatus:
    """Return the status after moving to phase `to`; raise NotInTable if there is no such edge."""
    if to not in TRANSITIONS[status.phase]:
        raise NotInTable(f"no transition from {status.phase} to {to}")
    return status.model_copy(
        update={
            "phase": to,
            "reason": reason,
            "entered_at": now,
            "deadline": None if to in ENDED else deadline,
            "history": (*status.history, Step(phase=to, at=now, reason=reason)),
        }
    )


def draw_mermaid() -> str:
    """Return the table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> queued"]
    for phase, edges in TRANSITIONS.items():
        lines += [f"    {_id(phase)} --> {_id(to)}: {why}" for to, why in edges.items()]
        if not edges:
            lines.append(f"    {_id(phase)} --> [*]")
    return "\n".join(lines) + "\n"


def _id(phase: Phase) -> str:
    return phase.value.replace("-", "_")

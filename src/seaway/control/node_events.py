"""What happened to nodes, as events: each told once, and remembered by them across restarts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from seaway.health.facts import NodeVerdict, NodeVerdicts
from seaway.model import Event, EventSpec, NodeState
from seaway.store.base import Store

Tell = Callable[[EventSpec, str], Awaitable[None]]

KEEP_LOSSES = 20  # per node; more than any policy counts
PLATFORM = "nodes"
"""What events are about that concern all nodes together."""


@dataclass
class NodeHistory:
    """What events say of one node."""

    losses: tuple[datetime, ...] = ()
    lost_since: datetime | None = None  # it was lost then and has not been back
    back_at: datetime | None = None
    held_at: datetime | None = None  # when it was last told that the node is held

    def take(self, reason: str, at: datetime) -> None:
        """Note one event."""
        if reason == "NodeLost":
            self.losses = (*self.losses, at)[-KEEP_LOSSES:]
            self.lost_since = at
        elif reason == "NodeBack":
            self.lost_since, self.back_at = None, at
        elif reason == "NodeHeld":
            self.held_at = at

    @property
    def is_hold_told(self) -> bool:
        """Whether it was told that the node is held since it was last lost."""
        return self.held_at is not None and (not self.losses or self.held_at >= self.losses[-1])


class NodeEvents:
    """Tells what became of nodes; `load` first."""

    def __init__(self, store: Store, tell: Tell) -> None:
        self._store = store
        self._tell = tell
        self._nodes: dict[str, NodeHistory] = {}
        self.outage = ""  # what was told of an outage that is not over

    async def load(self) -> None:
        """Read what was told before; raises StoreError."""
        nodes: dict[str, NodeHistory] = {}
        outage = ""
        for event in sorted((await self._store.list(Event)).documents, key=lambda event: event.name):
            kind, _, name = event.spec.about.partition(" ")
            if kind == "node":
                nodes.setdefault(name, NodeHistory()).take(event.spec.reason, event.spec.at)
            elif event.spec.about == PLATFORM:
                outage = event.spec.message if event.spec.reason == "ReplacementsStopped" else ""
        self._nodes, self.outage = nodes, outage

    @property
    def is_anyone_away(self) -> bool:
        """Whether a node was lost of which it is not told that it is back."""
        return any(history.lost_since is not None for history in self._nodes.values())

    def of(self, name: str) -> NodeHistory:
        """Return the history of a node."""
        return self._nodes.setdefault(name, NodeHistory())

    async def note(self, verdicts: NodeVerdicts, known: set[str], now: datetime) -> None:
        """Tell what is new. `known`: nodes that have answered this process for long enough to be called back."""
        for name, verdict in verdicts.nodes.items():
            await self._note_node(name, verdict, name in known, now)
        if verdicts.outage and not self.outage:
            await self._record(PLATFORM, "ReplacementsStopped", verdicts.outage, now)
        elif self.outage and not verdicts.outage:
            await self._record(
                PLATFORM, "ReplacementsResumed", "enough nodes are back: lost instances are replaced", now
            )
        self.outage = verdicts.outage

    async def _note_node(self, name: str, verdict: NodeVerdict, known: bool, now: datetime) -> None:
        history = self.of(name)
        if verdict.state is NodeState.LOST:
            if history.lost_since is None:
                await self._record_node(name, "NodeLost", verdict.why, now)
            return
        if history.lost_since is not None and known and verdict.state is not NodeState.SUSPECT:
            away = round((now - history.lost_since).total_seconds())
            await self._record_node(name, "NodeBack", f"node {name} answers again, after {away} s", now)
        if verdict.state is NodeState.HELD and not history.is_hold_told:
            await self._record_node(name, "NodeHeld", f"node {name}: {verdict.hold}", now)

    async def _record_node(self, name: str, reason: str, message: str, now: datetime) -> None:
        await self._record(f"node {name}", reason, message, now)
        self.of(name).take(reason, now)

    async def _record(self, about: str, reason: str, message: str, now: datetime) -> None:
        await self._tell(EventSpec(at=now, about=about, reason=reason, message=message), "")

"""How the rollout under way goes on: for each phase, what ends it well, what ends it badly, and what it waits for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from seaway.model import WEB, Phase, Rollout, RolloutStatus, Strategy
from seaway.model.quoting import MARK, hide_values
from seaway.rollout.deadlines import find_deadline, find_growth_deadline, list_to_clear
from seaway.rollout.facts import Facts
from seaway.rollout.sentences import (
    advise_without,
    describe_holder,
    describe_routers,
    describe_unreachable,
    describe_unready,
    describe_written,
    find_broken,
    find_fault,
    is_full,
    is_serving,
)
from seaway.rollout.transitions import advance
from seaway.rollout.wanted import BEFORE_SHIFT, find_others, grows_first

PAUSE_LIMIT = timedelta(hours=24)  # a forgotten pause ends as if it had been cancelled
LOOK_INTERVAL = timedelta(seconds=1)


@dataclass(frozen=True)
class Verdict:
    """What a phase says now: `go` on to the next, `fail`, or wait (neither) for `reason`."""

    reason: str
    go: bool = False
    fail: bool = False


def progress_rollout(
    facts: Facts, rollout: Rollout, newer: int | None, *, begin: bool = False
) -> tuple[RolloutStatus, datetime | None]:
    """Return the rollout's next status and when to look again. `newer`: the release that waits behind it."""
    status, now = rollout.status, facts.now
    if begin:
        return _enter_work(facts, rollout, "its turn"), None
    if status.phase is Phase.KEEPING and status.verdict:
        return _grow(facts, rollout)
    paused = rollout.spec.paused and not rollout.spec.promote and not rollout.spec.cancel
    if rollout.spec.cancel and status.phase not in (Phase.RETURNING, Phase.RESTORING):
        by = rollout.spec.cancelled_by or "a user"
        return _undo(facts, rollout, f"cancelled by {by}", cancelled=True), None
    verdict = _judge(facts, rollout, newer)
    if verdict.fail:
        return _undo(facts, rollout, verdict.reason, cancelled=False), None
    if verdict.go and not (paused and status.phase in (Phase.VERIFYING, Phase.KEEPING)):
        return _go_on(facts, rollout, verdict.reason), None
    deadline = status.deadline
    if paused and status.entered_at is not None and deadline is not None:
        deadline = max(deadline, status.entered_at + PAUSE_LIMIT)
    blind = not facts.observed and status.phase not in BEFORE_SHIFT
    if deadline is not None and now >= deadline and not blind:
        setting = f" (`{_SETTINGS[status.phase]}` of [rollout])" if status.phase in _SETTINGS else ""
        advice = advise_without(facts, rollout.spec.target) if status.phase in _STARTS else ""
        why = f"gave up after {_seconds(status, now)} s of {status.phase}{setting}: {verdict.reason}{advice}"
        return _undo(facts, rollout, why, cancelled=paused), None
    reason = f"paused ({verdict.reason}); resume, promote or cancel it" if paused else verdict.reason
    again = min(t for t in (deadline, now + LOOK_INTERVAL) if t is not None)
    return status.model_copy(update={"reason": reason}), again


_SETTINGS = {
    Phase.PREPARING: "release_timeout",
    Phase.STARTING: "start_timeout",
    Phase.VERIFYING: "router_timeout",
    Phase.SHIFTING: "router_timeout",
}
"""Which setting of an app gives a phase more time."""
_STARTS = frozenset({Phase.STARTING, Phase.VERIFYING})


def _seconds(status: RolloutStatus, now: datetime) -> int:
    return round((now - status.entered_at).total_seconds()) if status.entered_at else 0


def _judge(facts: Facts, rollout: Rollout, newer: int | None) -> Verdict:
    phase = rollout.status.phase
    if rollout.spec.target not in facts.releases:
        return Verdict(f"v{rollout.spec.target} is not there any more", fail=phase not in _BACK)
    if not facts.observed:
        return Verdict("the engine does not answer; what runs goes on")
    match phase:
        case Phase.PREPARING:
            return _judge_release_command(facts, rollout)
        case Phase.CLEARING:
            return _judge_cleared(facts, rollout)
        case Phase.STARTING:
            return _judge_start(facts, rollout)
        case Phase.VERIFYING:
            return _judge_readiness(facts, rollout)
        case Phase.SHIFTING:
            fault = find_fault(facts, rollout) if is_serving(facts, rollout.status.base) else ""
            return Verdict(fault, fail=True) if fault else _judge_shift(facts, rollout.spec.target)
        case Phase.KEEPING:
            return _judge_kept(facts, rollout, newer)
        case Phase.RETURNING:
            return _judge_shift(facts, rollout.status.base)
        case _:
            return _judge_restored(facts, rollout)


_BACK = frozenset({Phase.RETURNING, Phase.RESTORING})


def _judge_release_command(facts: Facts, rollout: Rollout) -> Verdict:
    release = facts.releases[rollout.spec.target]
    task = facts.tasks.get(f"{facts.app.name}-v{rollout.spec.target}-release")
    command = release.release_command
    if task is None or not task.done:
        waits = f" (not started yet: {task.reason})" if task and task.reason and task.started_at is None else ""
        return Verdict(f"runs the release command of v{rollout.spec.target}: {command}{waits}")
    if task.exit_code == 0:
        return Verdict(f"the release command succeeded{describe_written(task)}", go=True)
    said, mark, quoted = task.reason.partition(MARK)
    detail = said + mark + hide_values(quoted, release.config) or f"exit code {task.exit_code}"
    return Verdict(f"the release command of v{rollout.spec.target} failed: {detail}", fail=True)


def _judge_cleared(facts: Facts, rollout: Rollout) -> Verdict:
    """Nothing but the target may run: neither A nor what an earlier rollout left behind.

    What was told to stop on a lost node may still run. Only a user can know better, and says so by promoting.
    """
    target = rollout.spec.target
    others = find_others(facts, target, rollout.spec.promote)
    if others:
        hint = describe_unreachable(facts, others)
        return Verdict(f"waits for {_name(others)} to stop before v{target} starts" + (f": {hint}" if hint else ""))
    return Verdict("nothing else runs", go=True)


def _name(releases: Iterable[int]) -> str:
    return ", ".join(f"v{number}" for number in releases)


def _judge_start(facts: Facts, rollout: Rollout) -> Verdict:
    target = rollout.spec.target
    broken = find_broken(facts, target)
    crashing = [i for i in facts.live(target) if i.state == "crashing"]
    if crashing and broken:
        return Verdict(broken, fail=True)
    if is_full(facts, target):
        return Verdict(f"every instance of v{target} is ready", go=True)
    return Verdict(describe_unready(facts, target))


def _judge_readiness(facts: Facts, rollout: Rollout) -> Verdict:
    target = rollout.spec.target
    policy = facts.releases[target].rollout
    started = _judge_start(facts, rollout)
    if not started.go:
        return started
    young = [
        i
        for i in facts.live(target)
        if i.serving and i.ready_since and facts.now - i.ready_since < timedelta(seconds=policy.min_ready)
    ]
    if young:
        return Verdict(f"v{target} is ready; it has to stay so for {policy.min_ready:g} s")
    web = frozenset(i.id for i in facts.live(target, WEB) if i.serving)
    lacking = describe_routers(facts.routers, web)
    if lacking:
        refused = any(router.rejected for router in facts.routers)
        return Verdict(lacking, fail=refused)
    return Verdict(f"v{target} is ready and every router sees it healthy", go=True)


def _judge_shift(facts: Facts, holder: int | None) -> Verdict:
    """The traffic is with `holder` once documents say so and every live router has acknowledged them."""
    wanted = {holder: 100} if holder is not None else {}
    if facts.app.status.traffic != wanted:
        return Verdict(f"moves the traffic to v{holder}")
    refused = next((router for router in facts.routers if router.rejected), None)
    if refused:
        return Verdict(f"{refused.name} refused the routes: {refused.rejected}", fail=facts.active is not None)
    late = [router.name for router in facts.routers if not router.applied]
    if late:
        return Verdict(f"waiting for {', '.join(late)} to acknowledge the routes")
    return Verdict(describe_holder(facts, holder), go=True)


def _judge_kept(facts: Facts, rollout: Rollout, newer: int | None) -> Verdict:
    target, base = rollout.spec.target, rollout.status.base
    settled = facts.app.status.current == target and facts.app.status.traffic == {target: 100}
    fault, serves = find_fault(facts, rollout), describe_holder(facts, target)
    if fault:
        return Verdict(fault, fail=True)
    if not settled:
        return Verdict(serves)
    if rollout.spec.promote:
        return Verdict(f"v{target} was promoted", go=True)
    if newer is not None:
        return Verdict(f"{serves}; v{newer} is next", go=True)
    if base is None or rollout.spec.strategy is Strategy.RECREATE:
        return Verdict(serves, go=True)
    keep = facts.releases[target].rollout.keep
    entered = rollout.status.entered_at or facts.now
    if facts.now >= entered + timedelta(seconds=keep):
        return Verdict(f"v{target} proved itself for {keep:g} s", go=True)
    return Verdict(f"{serves}; v{base} is kept for {keep:g} s for instant return")


def _judge_restored(facts: Facts, rollout: Rollout) -> Verdict:
    base = rollout.status.base
    if base is None or base not in facts.releases:
        return Verdict("there was no release before", go=True)
    others = find_others(facts, base, rollout.spec.promote)
    if others:
        return Verdict(f"waits for {_name(others)} to stop before v{base} starts again")
    if not is_full(facts, base):
        return Verdict(describe_unready(facts, base))
    if facts.app.status.traffic != {base: 100} or facts.app.status.current != base:
        return Verdict(f"moves the traffic back to v{base}")
    web = frozenset(i.id for i in facts.live(base, WEB) if i.id not in facts.app.status.drains)
    if WEB in facts.releases[base].processes and len(web) < facts.count(base, WEB):
        return Verdict(f"puts v{base} back into rotation")
    lacking = describe_routers(facts.routers, web)
    return Verdict(lacking or f"v{base} serves again", go=not lacking)


def _enter_work(facts: Facts, rollout: Rollout, reason: str) -> RolloutStatus:
    """Enter clearing (recreate, and something runs) or starting."""
    target = rollout.spec.target
    if rollout.spec.strategy is Strategy.RECREATE and (others := list_to_clear(facts, rollout)):
        return _enter(facts, rollout, Phase.CLEARING, f"{_name(others)} stops before v{target} starts ({reason})")
    return _enter(facts, rollout, Phase.STARTING, f"v{target} starts ({reason})")


def _enter(facts: Facts, rollout: Rollout, phase: Phase, reason: str) -> RolloutStatus:
    """Enter a phase that has a deadline."""
    return advance(rollout.status, phase, reason, facts.now, find_deadline(facts, rollout, phase))


def _go_on(facts: Facts, rollout: Rollout, reason: str) -> RolloutStatus:
    status, now, target = rollout.status, facts.now, rollout.spec.target
    match status.phase:
        case Phase.PREPARING:
            return _enter_work(facts, rollout, reason)
        case Phase.CLEARING:
            return _enter(facts, rollout, Phase.STARTING, f"v{target} starts ({reason})")
        case Phase.STARTING:
            return _enter(facts, rollout, Phase.VERIFYING, reason)
        case Phase.VERIFYING:
            return _enter(facts, rollout, Phase.SHIFTING, f"moves the traffic to v{target}")
        case Phase.SHIFTING:
            return _enter(facts, rollout, Phase.KEEPING, reason)
        case Phase.KEEPING:
            return advance(status, Phase.SUCCEEDED, reason, now)
        case _:
            end = Phase.CANCELLED if status.verdict == "cancelled" else Phase.ROLLED_BACK
            return advance(status, end, f"{status.verdict_reason}; {reason}", now)


def _undo(facts: Facts, rollout: Rollout, why: str, *, cancelled: bool) -> RolloutStatus:
    """End the rollout, or start the way back to A; `why` is kept for the end."""
    status, now, base = rollout.status, facts.now, rollout.status.base
    end = Phase.CANCELLED if cancelled else Phase.FAILED
    status = status.model_copy(update={"verdict": "cancelled" if cancelled else "failed", "verdict_reason": why})
    phase, recreate = status.phase, rollout.spec.strategy is Strategy.RECREATE
    if phase in _BACK:
        return advance(status, Phase.FAILED, f"{rollout.status.verdict_reason}; then {why}", now)
    grows = grows_first(facts, rollout)  # as it was before the verdict
    rollout = rollout.model_copy(update={"status": status})
    if recreate and base is not None and phase is not Phase.PREPARING:
        return _enter(facts, rollout, Phase.RESTORING, f"{why}; v{base} starts again")
    if phase is Phase.SHIFTING and base is not None:
        return _return(facts, rollout, base, why)
    if phase is Phase.KEEPING:
        if not grows:
            return _leave(facts, rollout, "there is no healthy release to return to")
        limit = find_growth_deadline(facts, rollout)
        return status.model_copy(update={"reason": f"{why}; v{base} grows before it serves again", "deadline": limit})
    keeps = f"; v{base} serves on" if base is not None and is_serving(facts, base) else ""
    return advance(status, end, why + keeps, now)


def _grow(facts: Facts, rollout: Rollout) -> tuple[RolloutStatus, datetime | None]:
    """Wait for A, which was kept smaller than is wanted by now; B serves meanwhile."""
    status, base, now = rollout.status, rollout.status.base, facts.now
    again = now + LOOK_INTERVAL
    if not facts.observed or base is None:
        return status.model_copy(update={"reason": "the engine does not answer; what runs goes on"}), again
    if not grows_first(facts, rollout):
        return _leave(facts, rollout, "there is no healthy release to return to"), None
    lacking = describe_unready(facts, base)
    if status.deadline is None or now < status.deadline:
        reason = f"{status.verdict_reason}; the traffic returns once v{base} has grown ({lacking})"
        return status.model_copy(update={"reason": reason}), min(again, status.deadline or again)
    late = f"v{base} did not grow in time (`start_timeout` of [rollout]; {lacking})"
    return _leave(facts, rollout, late, may_return=status.verdict == "failed"), None


def _leave(facts: Facts, rollout: Rollout, otherwise: str, *, may_return: bool = True) -> RolloutStatus:
    """Go back from a kept A's successor if A serves and the traffic `may_return`; else B stays, for `otherwise`."""
    status, base, why = rollout.status, rollout.status.base, rollout.status.verdict_reason
    if may_return and base is not None and is_serving(facts, base):
        return _return(facts, rollout, base, why)
    end = Phase.CANCELLED if status.verdict == "cancelled" else Phase.FAILED
    return advance(status, end, f"{why}; v{rollout.spec.target} stays, as {otherwise}", facts.now)


def _return(facts: Facts, rollout: Rollout, base: int, why: str) -> RolloutStatus:
    return _enter(facts, rollout, Phase.RETURNING, f"{why}; the traffic returns to v{base}")

"""One app's facts in, one plan out. The control loop calls `decide` and applies what it returns; nothing else acts.

Each step acts on stored documents only: a phase is written first and acted upon when it is read back. So a crash
between any two writes loses nothing, and the next call goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from seaway.model import (
    AppStatus,
    EventSpec,
    Meta,
    Phase,
    Rollout,
    RolloutSpec,
    RolloutStatus,
    Step,
    Task,
    release_name,
)
from seaway.rollout.deadlines import find_deadline
from seaway.rollout.facts import Facts, Plan
from seaway.rollout.instances import has_ended, settle_instances
from seaway.rollout.progress import progress_rollout
from seaway.rollout.sentences import describe_app, is_webless
from seaway.rollout.transitions import advance
from seaway.rollout.wanted import want_current, want_traffic

EVENT_REASONS = {
    Phase.PREPARING: "RolloutPreparing",
    Phase.CLEARING: "RolloutClearing",
    Phase.STARTING: "RolloutStarted",
    Phase.VERIFYING: "RolloutVerifying",
    Phase.SHIFTING: "RolloutShifting",
    Phase.KEEPING: "RolloutShifted",
    Phase.RETURNING: "RolloutReturning",
    Phase.RESTORING: "RolloutRestoring",
    Phase.SUCCEEDED: "RolloutSucceeded",
    Phase.ROLLED_BACK: "RolloutRolledBack",
    Phase.CANCELLED: "RolloutCancelled",
    Phase.FAILED: "RolloutFailed",
}


def decide(facts: Facts) -> Plan:
    """Return what to do about the app now, and when to look again if nothing changes before."""
    if facts.app.spec.destroy:
        return _destroy(facts)
    settled = settle_instances(facts) if facts.observed else None
    statuses, again = _decide_rollouts(facts)
    app_status = facts.app.status.model_copy(
        update={
            "traffic": want_traffic(facts),
            "current": want_current(facts),
            "drains": dict(settled.drains) if settled else facts.app.status.drains,
        }
    )
    app_status = _describe(facts, app_status)
    return Plan(
        apply=settled.apply if settled else (),
        remove=settled.remove if settled else (),
        start_tasks=_start_tasks(facts),
        remove_tasks=_remove_tasks(facts),
        create_rollouts=_create_rollouts(facts),
        rollout_status=statuses,
        app_status=app_status if app_status != facts.app.status else None,
        events=tuple(_tell(facts, statuses)),
        look_again=min(
            (t for t in (again, settled.look_again if settled else facts.now + timedelta(seconds=1)) if t),
            default=None,
        ),
    )


def _describe(facts: Facts, status: AppStatus) -> AppStatus:
    """Say how the app is by what is decided now: who serves from this pass on is not told a pass later."""
    state, reason = describe_app(replace(facts, app=facts.app.model_copy(update={"status": status})))
    return status.model_copy(update={"state": state, "reason": reason, "webless": is_webless(facts, status.current)})


def _decide_rollouts(facts: Facts) -> tuple[dict[str, RolloutStatus], datetime | None]:
    """Return the changed statuses: the active rollout's progress, and the queue's."""
    changed: dict[str, RolloutStatus] = {}
    again: datetime | None = None
    queued = sorted(
        (r for r in facts.rollouts if r.status.phase is Phase.QUEUED), key=lambda r: r.spec.target, reverse=True
    )
    for rollout in queued[1:]:
        why = f"superseded by v{queued[0].spec.target} before it started"
        changed[rollout.name] = advance(rollout.status, Phase.CANCELLED, why, facts.now)
    active = facts.active
    if active is not None:
        newer = queued[0].spec.target if queued else None
        status, again = progress_rollout(facts, active, newer)
        if status != active.status:
            changed[active.name] = status
    if queued and (active is None or queued[0].spec.cancel):
        changed[queued[0].name] = _take_turn(facts, queued[0])
    return changed, again


def _take_turn(facts: Facts, rollout: Rollout) -> RolloutStatus:
    now, target = facts.now, rollout.spec.target
    if rollout.spec.cancel:
        return advance(rollout.status, Phase.CANCELLED, f"cancelled by {rollout.spec.cancelled_by or 'a user'}", now)
    release = facts.releases.get(target)
    if release is None or release.image is None:
        return advance(rollout.status, Phase.CANCELLED, f"v{target} is not there any more", now)
    if not facts.observed:
        return rollout.status.model_copy(update={"reason": "the engine does not answer; begins when it does"})
    status = rollout.status.model_copy(update={"base": facts.app.status.current})
    rollout = rollout.model_copy(update={"status": status})
    if release.release_command:
        reason = f"runs the release command of v{target}: {release.release_command}"
        return advance(status, Phase.PREPARING, reason, now, find_deadline(facts, rollout, Phase.PREPARING))
    return progress_rollout(facts, rollout, None, begin=True)[0]


def _create_rollouts(facts: Facts) -> tuple[Rollout, ...]:
    """Return a queued rollout for each release that has none and is newer than all that have."""
    newest = max((r.spec.target for r in facts.rollouts), default=0)
    return tuple(
        Rollout(
            meta=Meta(
                name=release_name(facts.app.name, number),
                labels={"app": facts.app.name, "team": facts.app.spec.team},
            ),
            spec=RolloutSpec(app=facts.app.name, target=number, strategy=release.rollout.strategy),
        )
        for number, release in sorted(facts.releases.items())
        if number > newest and release.image is not None
    )


def task_id(app: str, release: int) -> str:
    """Name of the task that runs a release's release command."""
    return f"{app}-v{release}-release"


def _start_tasks(facts: Facts) -> tuple[Task, ...]:
    active = facts.active
    if active is None or active.status.phase is not Phase.PREPARING or not facts.observed:
        return ()
    release = facts.releases.get(active.spec.target)
    name = task_id(facts.app.name, active.spec.target)
    if release is None or release.image is None or release.release_command is None or name in facts.tasks:
        return ()
    task = Task(
        id=name,
        app=facts.app.name,
        team=facts.app.spec.team,
        release=active.spec.target,
        image=release.image,
        command=release.release_command,
        env=release.config,
        timeout=release.rollout.release_timeout,
        process="release",
        mounts=release.mounts,
        limits=release.task_limits,
    )
    return (task,)


def _remove_tasks(facts: Facts) -> tuple[str, ...]:
    active = facts.active
    running = (
        task_id(facts.app.name, active.spec.target)
        if active is not None and active.status.phase is Phase.PREPARING
        else None
    )
    prefix = {task_id(facts.app.name, number) for number in facts.releases}
    return tuple(sorted(name for name in facts.tasks if name in prefix and name != running))


def _tell(facts: Facts, statuses: dict[str, RolloutStatus]) -> Iterable[EventSpec]:
    """Yield an event for each phase that is entered."""
    before = {rollout.name: len(rollout.status.history) for rollout in facts.rollouts}
    for name, status in statuses.items():
        for step in status.history[before[name] :]:
            yield _describe_step(facts.app.name, name, step)


def tell_again(app: str, rollouts: Sequence[Rollout]) -> tuple[EventSpec, ...]:
    """Return the events of the newest steps: what a crash between the writes of statuses and of events loses.

    All steps of one pass have its time; those before it were told before the next pass wrote anything.
    """
    newest = max((step.at for rollout in rollouts for step in rollout.status.history), default=None)
    return tuple(
        _describe_step(app, rollout.name, step)
        for rollout in rollouts
        for step in rollout.status.history
        if step.at == newest
    )


def _describe_step(app: str, rollout: str, step: Step) -> EventSpec:
    return EventSpec(
        at=step.at, app=app, about=f"rollout {rollout}", reason=EVENT_REASONS[step.phase], message=step.reason
    )


def _destroy(facts: Facts) -> Plan:
    """Take everything down, then the documents."""
    again = facts.now + timedelta(seconds=1)
    if not facts.observed:
        return Plan(look_again=again)
    settled = settle_instances(facts)
    status = facts.app.status.model_copy(update={"traffic": {}, "drains": dict(settled.drains)})
    status = _describe(facts, status)
    left = any(not has_ended(i) for i in facts.instances)
    done = not left and not facts.workloads and not facts.tasks
    return Plan(
        apply=settled.apply,
        remove=settled.remove,
        remove_tasks=tuple(sorted(facts.tasks)),
        app_status=status if status != facts.app.status else None,
        delete=done,
        look_again=None if done else settled.look_again or again,
    )

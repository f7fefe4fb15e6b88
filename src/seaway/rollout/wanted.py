"""What the stored phase of a rollout asks for: which releases run, which gets the traffic, which is current.

Everything here follows from documents alone, so a control loop that was killed at any moment and starts again
wants exactly the same.
"""

from __future__ import annotations

from seaway.model import InstanceState, Phase, Rollout, Strategy, WorkloadKey
from seaway.rollout.facts import Facts
from seaway.rollout.sentences import find_fault, is_full, is_serving

BEFORE_SHIFT = frozenset({Phase.PREPARING, Phase.CLEARING, Phase.STARTING, Phase.VERIFYING})
ON_TARGET = frozenset({Phase.SHIFTING, Phase.KEEPING})
GOING_BACK = frozenset({Phase.RETURNING, Phase.RESTORING})


def want_releases(facts: Facts) -> frozenset[int]:
    """Return the releases whose instances are to run at full size."""
    rollout = facts.active
    if facts.app.spec.destroy:
        return frozenset()
    if rollout is None:
        current = facts.app.status.current
        return frozenset({current}) if current is not None and current in facts.releases else frozenset()
    base, target, phase = rollout.status.base, rollout.spec.target, rollout.status.phase
    if rollout.spec.strategy is Strategy.RECREATE:
        wanted = _want_exclusive(facts, rollout)
    elif phase is Phase.PREPARING:
        wanted = {base}
    else:
        wanted = {base, target}
    return frozenset(n for n in wanted if n is not None and n in facts.releases)


def _want_exclusive(facts: Facts, rollout: Rollout) -> set[int | None]:
    """Strategy recreate: never A and B together; in between there is neither."""
    phase, base, target = rollout.status.phase, rollout.status.base, rollout.spec.target
    restores = phase is Phase.RESTORING and base is not None and not find_others(facts, base, rollout.spec.promote)
    if phase is Phase.PREPARING or restores:
        return {base}
    return set() if phase in (Phase.CLEARING, Phase.RESTORING) else {target}


def want_count(facts: Facts, key: WorkloadKey) -> int:
    """Return how many instances of a process of a wanted release are to run.

    A release that the traffic has left (A while it is kept, B while the traffic returns) only shrinks: a larger scale
    is meant for the one that serves.
    """
    count, told = facts.count(key.release, key.process), facts.workload(key)
    return min(count, told.count) if told is not None and key.release == _find_left(facts) else count


def _find_left(facts: Facts) -> int | None:
    rollout = facts.active
    if rollout is None:
        return None
    if rollout.status.phase is Phase.RETURNING:
        return rollout.spec.target
    return rollout.status.base if rollout.status.phase is Phase.KEEPING and not rollout.status.verdict else None


def grows_first(facts: Facts, rollout: Rollout) -> bool:
    """Whether the way back waits: A was kept smaller than is wanted by now, and is not ready at that size.

    Where A serves and B does not, nothing is waited for.
    """
    base, phase = rollout.status.base, rollout.status.phase
    if phase is not Phase.KEEPING or base is None or base not in facts.releases or is_full(facts, base):
        return False
    if is_serving(facts, base) and not is_serving(facts, rollout.spec.target):
        return False
    return bool(rollout.status.verdict) or _is_held_small(facts, base)


def _is_held_small(facts: Facts, release: int) -> bool:
    keys = (WorkloadKey(app=facts.app.name, release=release, process=p) for p in facts.releases[release].processes)
    told = [(workload, key) for key in keys if (workload := facts.workload(key))]
    return any(workload.count < facts.count(release, key.process) for workload, key in told)


def want_traffic(facts: Facts) -> dict[int, int]:
    """Return the weights that the routers are to have, by release."""
    rollout = facts.active
    if rollout is None or facts.app.spec.destroy:
        holder = facts.app.status.current
    elif rollout.status.phase in ON_TARGET:
        holder = rollout.spec.target
    else:
        holder = rollout.status.base
    return {holder: 100} if holder is not None and holder in facts.releases else {}


def choose_traffic(facts: Facts) -> dict[int, int]:
    """Return the weights to publish in this pass.

    They are what documents ask for, but a pass that is about to return the traffic to A sends nobody to B any more: a
    router that was late for B would otherwise be led from what serves to what does not.
    """
    rollout = facts.active
    if facts.app.spec.destroy:
        return facts.app.status.traffic
    if rollout is not None and rollout.status.phase in ON_TARGET and find_fault(facts, rollout):
        base = rollout.status.base
        if base is not None and is_serving(facts, base) and not grows_first(facts, rollout):
            return {base: 100}
    return want_traffic(facts)


def want_current(facts: Facts) -> int | None:
    """Return the release that counts as the one that serves."""
    rollout = facts.active
    if rollout is not None and rollout.status.phase is Phase.KEEPING:
        return rollout.spec.target
    if rollout is not None and rollout.status.phase in GOING_BACK:
        return rollout.status.base
    return facts.app.status.current


def find_others(facts: Facts, release: int, all_the_same: bool = False) -> list[int]:
    """Return the releases other than this one that still run, or that the engine was told to run.

    Instances that are being stopped count, and so do workloads whose instances are not seen yet, and what may run
    on a lost node, unless somebody said to go on all the same.
    """
    running = {
        i.key.release
        for i in facts.instances
        if i.state is not InstanceState.STOPPED and not (i.unreachable and all_the_same)
    }
    running |= {w.key.release for w in facts.workloads if w.count > 0}
    return sorted(running - {release})

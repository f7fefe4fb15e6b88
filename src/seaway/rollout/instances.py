"""Which instances stay, which are drained and which may stop: the order of traffic, instance by instance.

A web instance stops only after it was marked as draining, every live router acknowledged that, and it has no
request in flight by a count taken after the acknowledgement (or its time limit passed). The same road serves a
finished rollout, a smaller scale, a cancel and a destroyed app.

An instance on a lost node answers nobody, so nothing is waited for: it is told to stop at once, and another takes its
place. Two exceptions: in an outage nothing is replaced, and what must not run twice (strategy recreate) never is,
because it may still run there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from seaway.model import WEB, Drain, Instance, InstanceState, NodeState, Phase, Workload, WorkloadKey
from seaway.rollout.facts import GONE, Facts
from seaway.rollout.wanted import want_count, want_releases

COUNT_MARGIN = timedelta(milliseconds=200)  # an acknowledged change reaches Envoy's worker threads within this
UNACKNOWLEDGED_LIMIT = timedelta(seconds=30)  # beyond the drain limit, for a router that never acknowledges


@dataclass(frozen=True)
class Settled:
    """Engine calls, and the drains to record."""

    apply: tuple[Workload, ...] = ()
    remove: tuple[WorkloadKey, ...] = ()
    drains: tuple[tuple[str, Drain], ...] = ()
    look_again: datetime | None = None


def settle_instances(facts: Facts) -> Settled:
    """Return what moves the observed instances towards the wanted ones without taking any from a request."""
    wanted = want_releases(facts)
    known = {w.key for w in facts.workloads}
    keys = known | {i.key for i in facts.instances if i.state not in GONE}
    keys |= {
        WorkloadKey(app=facts.app.name, release=n, process=process)
        for n in wanted
        for process in facts.releases[n].processes
    }
    total = Settled()
    for key in sorted(keys, key=str):
        one = _settle(facts, key, wanted=key.release in wanted, existing=facts.workload(key))
        total = Settled(total.apply + one.apply, total.remove + one.remove, total.drains + one.drains)
    if total.drains:
        total = replace(total, look_again=facts.now + timedelta(seconds=0.5))
    return total


def _settle(facts: Facts, key: WorkloadKey, *, wanted: bool, existing: Workload | None) -> Settled:
    release = facts.releases.get(key.release)
    process = release.processes.get(key.process) if release else None
    if release is None or process is None or release.image is None:
        return Settled(remove=(key,))
    count = _count_startable(facts, key) if wanted else 0
    lost = _choose_replaced(facts, key) if wanted else []
    live = [i for i in facts.live(key.release, key.process) if i not in lost]
    spare = _choose_spare(live, count, facts.app.status.drains)
    drains: list[tuple[str, Drain]] = []
    retire = [i.id for i in facts.instances if i.key == key and i.state is InstanceState.STOPPING]
    retire += [i.id for i in lost]
    for instance in spare:
        if key.process != WEB or instance.state is InstanceState.LOST:
            retire.append(instance.id)
        elif wanted or _may_leave_rotation(facts, key.release):
            drain = _mark(facts, instance, release.rollout.drain, wanted)
            drains.append((instance.id, drain))
            if is_drained(facts, instance, drain):
                retire.append(instance.id)
    if not wanted and not any(i.key == key and not has_ended(i) for i in facts.instances):
        return Settled(remove=(key,) if existing else ())
    workload = Workload(
        key=key,
        team=facts.app.spec.team,
        count=count,
        retire=tuple(sorted(retire)),
        image=release.image,
        process=process,
        env=release.config,
        routed=key.process == WEB,
        mounts=release.mounts,
        host=existing.host if existing else facts.host,  # fixed for a key: a new domain is that of the next release
    )
    return Settled(apply=() if workload == existing else (workload,), drains=tuple(drains))


def has_ended(instance: Instance) -> bool:
    """Whether nothing more is to be done or waited for: it stopped, or it was told to on a node that is lost."""
    return instance.state is InstanceState.STOPPED or (
        instance.state is InstanceState.STOPPING and instance.unreachable
    )


def _count_startable(facts: Facts, key: WorkloadKey) -> int:
    """Return how many may run: what runs stays, and none starts beside one that may still run on a lost node."""
    count, live = want_count(facts, key), len(facts.live(key.release, key.process))
    doubtful = facts.doubtful(key.release, key.process)
    free = 0 if any(i.key.release != key.release for i in doubtful) else count - len(doubtful)
    return max(min(live, count), free)


def _choose_replaced(facts: Facts, key: WorkloadKey) -> list[Instance]:
    """Return the instances on lost nodes in whose place others are to start."""
    if facts.outage or facts.is_exclusive(key.release):
        return []
    return [i for i in facts.live(key.release, key.process) if i.state is InstanceState.LOST]


def _choose_spare(live: list[Instance], count: int, drains: dict[str, Drain]) -> list[Instance]:
    """Return those beyond `count`: undrained, ready, older ones on nodes that answer stay."""

    def rank(instance: Instance) -> tuple[object, ...]:
        suspect = instance.node_state is NodeState.SUSPECT
        return instance.id in drains, not instance.serving, suspect, instance.created_at, instance.id

    return sorted(live, key=rank)[count:]


def _may_leave_rotation(facts: Facts, release: int) -> bool:
    """Whether instances of an unwanted release may be taken out: nobody is sent to it, or nobody shall be."""
    clearing = facts.active is not None and facts.active.status.phase in (Phase.CLEARING, Phase.RESTORING)
    return facts.app.spec.destroy or clearing or facts.app.status.traffic.get(release, 0) == 0


def _mark(facts: Facts, instance: Instance, limit: float, wanted: bool) -> Drain:
    drain = facts.app.status.drains.get(instance.id)
    if drain is None:
        why = "fewer instances are wanted" if wanted else f"v{instance.key.release} is not wanted any more"
        return Drain(since=facts.now, limit=facts.now + timedelta(seconds=limit), why=why)
    if drain.out_at is None and all(router.applied for router in facts.routers):
        return drain.model_copy(update={"out_at": facts.now})
    return drain


def is_drained(facts: Facts, instance: Instance, drain: Drain) -> bool:
    """Whether the instance may stop: out of every live router, with nothing in flight or its limit passed."""
    stored = facts.app.status.drains.get(instance.id)
    if stored is None:
        return False
    applied = all(router.applied for router in facts.routers)
    if facts.now >= drain.limit:
        return applied or facts.now >= drain.limit + UNACKNOWLEDGED_LIMIT
    if stored.out_at is None or not applied:
        return False
    counted_from = stored.out_at + COUNT_MARGIN
    return all(
        router.busy_at is not None and router.busy_at >= counted_from and router.busy.get(instance.id, 0) == 0
        for router in facts.routers
    )

"""A world for the real reconciler: an engine, routers and users that misbehave by a seeded dice.

Nothing here decides: the reconciler and the decisions are the product's own. The world checks, at the moment it
happens, that no instance is stopped while a router may still send to it or a request is in flight on it, and
that no router is sent to an instance that was never healthy.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from seaway.engine.base import EngineUnavailable
from seaway.engine.memory import Behaviour, MemoryEngine
from seaway.model import (
    WEB,
    App,
    EventSpec,
    Instance,
    InstanceState,
    Observation,
    Release,
    Task,
    Workload,
    WorkloadKey,
)
from seaway.rollout.facts import RouterFacts
from seaway.store.base import D
from seaway.store.memory import MemoryStore

START = datetime(2026, 1, 1, tzinfo=UTC)
GONE = (InstanceState.STOPPING, InstanceState.STOPPED)


class Crash(Exception):
    """The control plane dies here."""


@dataclass(frozen=True)
class Table:
    """What a router holds of the app: weights, endpoints that take new requests, and those that drain."""

    weights: tuple[tuple[int, int], ...] = ()
    endpoints: frozenset[tuple[int, str]] = frozenset()
    draining: frozenset[tuple[int, str]] = frozenset()

    def rotation(self) -> set[str]:
        """Instances that may get a new request."""
        weights = dict(self.weights)
        return {i for release, i in self.endpoints if weights.get(release, 0) > 0}


@dataclass
class SimRouter:
    """A router that applies what it is sent some time later."""

    name: str
    wanted: Table = Table()
    applied: Table = Table()
    checked: set[str] = field(default_factory=set)  # instances its own health checks found good
    in_flight: set[str] = field(default_factory=set)  # instances with a request of this router on them
    lasting: set[str] = field(default_factory=set)  # those whose request ends with them: a WebSocket, a download
    busy: dict[str, int] = field(default_factory=dict)  # what it last reported of that, and when
    busy_at: datetime | None = None
    away: bool = False  # it hears of nothing and says nothing
    refusal: str = ""  # why its Envoy takes no new routes


class World(MemoryEngine):
    """Engine, Routes and clock in one, driven by `step`."""

    def __init__(self, seed: int, *, hostile: bool, **engine: Any) -> None:
        """`engine`: how a MemoryEngine is made."""
        super().__init__(clock=lambda: self.now, **engine)
        self.dice = random.Random(seed)
        self.hostile = hostile
        self.calm = False
        self.exclusive = self.dice.random() < 0.3  # a world in which apps are deployed with `recreate` at times
        self.now = START
        self.seen: dict[str, Instance] = {}  # also those that are forgotten, as they were last
        self.healthy_once: set[str] = set()
        self.bad_releases: set[int] = set()  # crash at every start
        self.stuck_releases: set[int] = set()  # never become ready
        self.exclusive_releases: set[int] = set()  # deployed with `recreate`: never beside another one
        self.left: set[int | None] = set()  # releases that the traffic has left: they may shrink, never grow
        self.routers = [SimRouter("router-0"), SimRouter("router-1")]
        self.snapshot = Observation()
        self.events: list[EventSpec] = []
        self.drain_limits: dict[str, datetime] = {}
        self.violations: list[str] = []
        self.lasting = 0.02  # how many requests last until they are cut off
        self.stop_time = 0.0  # seconds that an instance takes to stop, at the least
        self.stops_at: dict[str, datetime] = {}
        self.disturbed = False  # an instance died by itself: rotation may be smaller than promised

    def chance(self, probability: float) -> bool:
        """Roll the dice; a calm world never misbehaves."""
        return not self.calm and self.dice.random() < probability

    # The engine
    def find_behaviour(self, key: WorkloadKey) -> Behaviour:
        """Return what becomes of a release's instances."""
        if key.release in self.bad_releases:
            return "crash"
        return "slow" if key.release in self.stuck_releases else super().find_behaviour(key)

    async def apply(self, workload: Workload) -> None:
        self._maybe_crash()
        before = self.workloads.get(workload.key)
        if workload.key.release in self.left and before is not None and workload.count > before.count:
            self.violations.append(f"{workload.key} grows from {before.count} though the traffic has left it")
        self._check_alone(workload)
        await super().apply(workload)
        self._maybe_crash()

    def _check_alone(self, workload: Workload) -> None:
        """What is to run alone starts beside nothing, nor does what comes back where such a one was tried."""
        key = workload.key
        alike = [i for i in self.instances.values() if i.key.process == key.process]
        live = [i for i in alike if i.key == key and i.state not in GONE and i.id not in workload.retire]
        others = {i.id for i in alike if i.key != key and i.state is not InstanceState.STOPPED}
        later = self.exclusive_releases - set(range(key.release))
        alone = key.release in self.exclusive_releases or any(self.seen[name].key.release in later for name in others)
        if workload.count > 0 and not live and alone and not self.may_start_beside(others):
            self.violations.append(f"{key} starts while {sorted(others)} still run")

    def may_start_beside(self, others: set[str]) -> bool:
        """Whether an instance that must not run twice may start while these are not known to have stopped."""
        return not others

    async def remove(self, key: WorkloadKey) -> None:
        self._maybe_crash()
        await super().remove(key)
        self._maybe_crash()

    async def observe(self) -> Observation:
        if self.chance(0.03 if self.hostile else 0):
            raise EngineUnavailable("the world says no")
        now = await super().observe()
        if not self.chance(0.2):  # otherwise: stale, the instances of an earlier moment
            self.snapshot = now
        return self.snapshot.model_copy(update={"workloads": now.workloads})

    async def start_task(self, task: Task) -> None:
        self._maybe_crash()
        await super().start_task(task)
        self._maybe_crash()

    def run_task(self, task: Task) -> int | None:
        """It may take a while, and fail."""
        if not (self.calm or self.chance(0.5)):
            return None
        return 1 if self.chance(0.3) else super().run_task(task)

    def stop(self, instance: Instance, reason: str) -> None:
        if instance.key.process == WEB and instance.state is InstanceState.RUNNING:
            for router in self.routers:
                if instance.id in router.applied.rotation():
                    self.violations.append(f"{instance.id} was stopped while {router.name} sends to it")
                if instance.id in router.in_flight and self.now < self.drain_limits.get(instance.id, self.now):
                    self.violations.append(f"{instance.id} was stopped with a request of {router.name} on it")
        self.stops_at[instance.id] = self.now + timedelta(seconds=self.stop_time)
        super().stop(instance, reason)

    def is_due(self, instance: Instance) -> bool:
        stops = instance.state is InstanceState.STOPPING
        if stops and self.now < self.stops_at.get(instance.id, self.now):
            return False
        return self.calm or self.chance(0.5)

    def _set(self, instance: Instance, **changes: Any) -> None:
        super()._set(instance, **changes)
        self.seen[instance.id] = self.instances[instance.id]
        if self.seen[instance.id].serving:
            self.healthy_once.add(instance.id)

    def _maybe_crash(self) -> None:
        if self.hostile and self.chance(0.03):
            raise Crash

    # The routers
    def publish(
        self, app: App, releases: Mapping[int, Release], instances: Sequence[Instance], now: datetime
    ) -> tuple[RouterFacts, ...]:
        drains = app.status.drains
        self.drain_limits |= {name: drain.limit for name, drain in drains.items()}
        serving = [i for i in instances if i.key.process == WEB and i.serving]
        table = Table(
            weights=tuple(sorted(app.status.traffic.items())),
            endpoints=frozenset((i.key.release, i.id) for i in serving if i.id not in drains),
            draining=frozenset((i.key.release, i.id) for i in instances if i.id in drains),
        )
        for name in table.rotation() - self.healthy_once:
            self.violations.append(f"{name} was never healthy and is in the routes")
        facts = []
        for router in self.routers:
            router.wanted = table
            facts.append(
                RouterFacts(
                    name=router.name,
                    applied=router.applied == table,
                    rejected=router.refusal if router.applied != table else "",
                    healthy=frozenset(router.checked),
                    busy=dict(router.busy),
                    busy_at=router.busy_at,
                )
            )
        return tuple(facts)

    def withdraw(self, app: str) -> None:
        for router in self.routers:
            router.wanted = Table()

    async def tell(self, event: EventSpec, team: str) -> None:
        """Hear an event; who says that a release serves has to be right about every router, when it is news."""
        self._maybe_crash()
        if event in self.events:
            return
        self.events.append(event)
        said = re.search(r"v(\d+) serves (again|on|all traffic)", event.message)
        ended = ("RolloutSucceeded", "RolloutRolledBack", "RolloutCancelled", "RolloutFailed")
        if said is None or event.reason not in ended or self.disturbed:
            return
        for router in self.routers:
            sent_to = {self.seen[i].key.release for i in router.applied.rotation() & router.checked}
            if sent_to != {int(said[1])} and self.instances:
                self.violations.append(f"{event.message!r}, but {router.name} sends to {sent_to}")

    # Time
    def step(self) -> None:
        """Let some time pass and things happen."""
        self.now += timedelta(seconds=self.dice.choice([0.05, 0.3, 1, 3]) if not self.calm else 1)
        for router in self.routers:
            self._step_router(router)
        for instance in list(self.instances.values()):
            self._may_die(instance)
        self.tick()

    def _step_router(self, router: SimRouter) -> None:
        if router.away:
            return
        if not router.refusal and (self.calm or self.chance(0.6)):
            router.applied = router.wanted
        if self.calm or self.chance(0.4):
            router.checked = {i for _, i in router.applied.endpoints if self.seen[i].serving}
        router.lasting = {name for name in router.lasting if self.seen[name].state not in GONE}
        router.lasting |= {name for name in sorted(router.applied.rotation()) if self._lasts()}
        router.in_flight = {name for name in sorted(router.in_flight) if self.chance(0.6)} | router.lasting
        router.in_flight |= {name for name in sorted(router.applied.rotation()) if self.chance(0.5)}
        if self.calm or self.chance(0.7):
            router.busy, router.busy_at = dict.fromkeys(router.in_flight, 1), self.now

    def _lasts(self) -> bool:
        """Whether a request lasts until it is cut off."""
        return self.lasting == 1 or self.chance(self.lasting)

    def _may_die(self, instance: Instance) -> None:
        """Let what runs die at times."""
        if instance.state is InstanceState.RUNNING and self.hostile and self.chance(0.01):
            self.disturbed = True
            self.crash(instance.id)


class CrashingStore(MemoryStore):
    """A store whose caller dies before or after some of its writes, as the world's dice says."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def _put(self, document: D) -> D:
        self._world._maybe_crash()
        stored = super()._put(document)
        self._world._maybe_crash()
        return stored

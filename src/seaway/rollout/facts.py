"""What a decision about one app is made from, and what it comes out as: values only."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime

from seaway.model import (
    App,
    AppStatus,
    EventSpec,
    Instance,
    InstanceState,
    ReleaseSpec,
    Rollout,
    RolloutStatus,
    Strategy,
    Task,
    TaskState,
    Workload,
    WorkloadKey,
)

GONE = frozenset({InstanceState.STOPPING, InstanceState.STOPPED})
"""States of instances that were told to stop; they no longer count."""


def count_wanted(app: App, spec: ReleaseSpec, process: str) -> int:
    """Return how many instances of a release's process are wanted: the app's word, else the release's."""
    return app.spec.scale.get(process, spec.count(process))


@dataclass(frozen=True)
class RouterFacts:
    """One live router, as far as one app is concerned.

    `applied`: Envoy has acknowledged everything that the documents and instances of these facts amount to.
    `healthy`: instance ids its own checks find healthy. `busy`: requests in flight per instance id, counted at
    `busy_at`; an instance that is missing there has none.
    """

    name: str
    applied: bool
    rejected: str = ""
    healthy: Set[str] = frozenset()
    busy: Mapping[str, int] = field(default_factory=dict)
    busy_at: datetime | None = None


@dataclass(frozen=True)
class Facts:
    """Everything known about one app at `now`; `observed` False: the engine did not answer, instances are unknown.

    `outage`: why instances on lost nodes are not replaced now; "" if they are. `refused`: of which workloads the
    cluster takes no more instances, and why. `host`: the app's own.
    """

    now: datetime
    app: App
    releases: Mapping[int, ReleaseSpec]
    rollouts: tuple[Rollout, ...] = ()
    observed: bool = True
    instances: tuple[Instance, ...] = ()
    workloads: tuple[Workload, ...] = ()
    tasks: Mapping[str, TaskState] = field(default_factory=dict)
    routers: tuple[RouterFacts, ...] = ()
    outage: str = ""
    refused: Mapping[WorkloadKey, str] = field(default_factory=dict)
    host: str = ""

    @property
    def active(self) -> Rollout | None:
        """The rollout under way, if any (there is never more than one)."""
        for rollout in self.rollouts:
            if not rollout.ended and rollout.status.phase != "queued":
                return rollout
        return None

    def count(self, release: int, process: str) -> int:
        """Return how many instances of a process are wanted."""
        return count_wanted(self.app, self.releases[release], process)

    def is_exclusive(self, release: int) -> bool:
        """Whether instances of a release must not run twice: what may still run on a lost node is not replaced."""
        return release in self.releases and self.releases[release].rollout.strategy is Strategy.RECREATE

    def workload(self, key: WorkloadKey) -> Workload | None:
        """Return what the engine was last told to run, if anything."""
        return next((w for w in self.workloads if w.key == key), None)

    def doubtful(self, release: int, process: str) -> list[Instance]:
        """Return what may still run, and beside which no instance of a release may start.

        That is on lost nodes, of a release or beside one that must not run twice. A lost instance of the release itself
        that was not told to stop is none: it still holds its own place. And when no rollout is under way, whatever is
        left of a later one with `recreate`, wherever it is: however that ended, the release before waits for it.
        Promoting a rollout says that somebody knows better.
        """
        if self.active is not None and self.active.spec.promote:
            return []
        return [
            i
            for i in self.instances
            if i.key.process == process
            and i.state is not InstanceState.STOPPED
            and (
                (
                    i.unreachable
                    and (i.key.release != release or i.state is InstanceState.STOPPING)
                    and (self.is_exclusive(release) or self.is_exclusive(i.key.release))
                )
                or (self.active is None and i.key.release > release and self.is_exclusive(i.key.release))
            )
        ]

    def live(self, release: int, process: str | None = None) -> list[Instance]:
        """Return the instances of a release (and process) that were not told to stop."""
        return [
            i
            for i in self.instances
            if i.key.release == release and (process is None or i.key.process == process) and i.state not in GONE
        ]


@dataclass(frozen=True)
class Plan:
    """What to do now. Engine calls come first, then documents; each is safe to lose and to repeat."""

    apply: tuple[Workload, ...] = ()
    remove: tuple[WorkloadKey, ...] = ()
    start_tasks: tuple[Task, ...] = ()
    remove_tasks: tuple[str, ...] = ()
    create_rollouts: tuple[Rollout, ...] = ()
    rollout_status: Mapping[str, RolloutStatus] = field(default_factory=dict)
    app_status: AppStatus | None = None
    events: tuple[EventSpec, ...] = ()
    delete: bool = False
    look_again: datetime | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (
            self.apply
            or self.remove
            or self.start_tasks
            or self.remove_tasks
            or self.create_rollouts
            or self.rollout_status
            or self.app_status
            or self.delete
        )

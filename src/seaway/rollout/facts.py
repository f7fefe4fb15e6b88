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
    Task,
    TaskState,
    Workload,
    WorkloadKey,
)

GONE = frozenset({InstanceState.STOPPING, InstanceState.STOPPED})
"""States of instances that were told to stop; they no longer count."""


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
    """Everything known about one app at `now`; `observed` False: the engine did not answer, instances are unknown."""

    now: datetime
    app: App
    releases: Mapping[int, ReleaseSpec]
    rollouts: tuple[Rollout, ...] = ()
    observed: bool = True
    instances: tuple[Instance, ...] = ()
    workloads: tuple[Workload, ...] = ()
    tasks: Mapping[str, TaskState] = field(default_factory=dict)
    routers: tuple[RouterFacts, ...] = ()

    @property
    def active(self) -> Rollout | None:
        """The rollout under way, if any (there is never more than one)."""
        for rollout in self.rollouts:
            if not rollout.ended and rollout.status.phase != "queued":
                return rollout
        return None

    def count(self, release: int, process: str) -> int:
        """Return how many instances are wanted of a process: the app's word, else the release's, else 1."""
        spec = self.releases[release]
        return self.app.spec.scale.get(process, spec.scale.get(process, 1))

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

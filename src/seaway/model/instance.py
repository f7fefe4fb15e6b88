"""What engines are told (Workload, Task) and what they observe (Instance, Node): values, never stored."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from seaway.model.app import Process
from seaway.model.base import Frozen, Seconds


class WorkloadKey(Frozen):
    """One process type of one release."""

    app: str
    release: int
    process: str

    def __str__(self) -> str:
        return f"{self.app}.v{self.release}.{self.process}"

    def __hash__(self) -> int:
        return hash((self.app, self.release, self.process))


class Workload(Frozen):
    """Wanted: `count` instances of a process of a release, besides those in `retire`, which are to stop.

    Level-triggered: applying the same workload again changes nothing. Everything but count and retire
    is fixed for a key; an engine may rely on that.
    """

    key: WorkloadKey
    team: str
    count: int
    retire: tuple[str, ...] = ()
    image: str
    process: Process
    env: dict[str, str] = {}  # config; the engine adds PORT and SEAWAY_*
    routed: bool = False  # gets a PORT and takes traffic (the web process)


class InstanceState(StrEnum):
    """Where an instance is. Only RUNNING with `ready` may take traffic."""

    PENDING = "pending"  # accepted, nothing runs yet
    STARTING = "starting"  # runs, its startup check has not passed yet
    RUNNING = "running"
    BACKOFF = "backoff"  # exited, waits for its next start
    CRASHING = "crashing"  # exited repeatedly, or never became healthy; waits longer
    STOPPING = "stopping"  # was told to stop
    STOPPED = "stopped"  # gone; shown for a while, then forgotten
    LOST = "lost"  # its node does not answer


class Instance(Frozen):
    """One running copy of a process of a release, as an engine sees it now."""

    id: str
    key: WorkloadKey
    node: str
    state: InstanceState
    ready: bool = False
    reason: str = ""
    address: str | None = None  # where routers reach it
    port: int | None = None
    created_at: datetime
    started_at: datetime | None = None  # of the process that runs now
    ready_since: datetime | None = None
    restarts: int = 0
    exit_code: int | None = None  # of the last process that ended; -N: signal N
    killed: bool = False  # its stop needed SIGKILL: it had not ended within its grace
    cpu: float = 0.0  # cores used, averaged over the last sampling interval
    memory: int = 0  # resident bytes

    @property
    def serving(self) -> bool:
        """Whether it may take traffic by its own account."""
        return self.ready and self.state is InstanceState.RUNNING


class Node(Frozen):
    """A machine that carries instances."""

    name: str
    ready: bool
    reason: str = ""
    address: str = "127.0.0.1"
    cores: float = 0.0
    memory: int = 0


class Task(Frozen):
    """A one-off: runs once to its end with an app's image and config; idempotent by id."""

    id: str  # starts with the app's name
    app: str
    team: str
    release: int
    image: str
    command: str
    env: dict[str, str] = {}
    timeout: Seconds = 600.0
    process: str = "run"  # label in the logs: "run" or "release"


class TaskState(Frozen):
    """What became of a task."""

    id: str
    app: str
    done: bool = False
    exit_code: int | None = None  # -N: ended by signal N
    reason: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None


class Observation(Frozen):
    """All an engine sees at one moment. `workloads` are the keys it was told to keep."""

    nodes: tuple[Node, ...] = ()
    instances: tuple[Instance, ...] = ()
    workloads: tuple[Workload, ...] = ()
    tasks: tuple[TaskState, ...] = ()

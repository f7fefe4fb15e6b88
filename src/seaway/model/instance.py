"""What engines are told (Workload, Task) and what they observe (Instance, Node): values, never stored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from pydantic import Field, PrivateAttr

from seaway.model.app import Limits, Mount, Process
from seaway.model.base import Frozen, Seconds


class WorkloadKey(Frozen):
    """One process type of one release."""

    app: str
    release: int
    process: str

    def __str__(self) -> str:
        return f"{self.app}.v{self.release}.{self.process}"

    def __eq__(self, other: object) -> bool:  # in every pass; pydantic's own takes two to four times as long
        if not isinstance(other, WorkloadKey):
            return NotImplemented
        return (self.release, self.process, self.app) == (other.release, other.process, other.app)

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
    routed: bool = False  # takes traffic, and so has to listen on its PORT (the web process)
    mounts: tuple[Mount, ...] = ()
    host: str = ""  # the app's own, named by HTTP checks; "": they name the instance's address


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


class NodeState(StrEnum):
    """What Seaway itself makes of a node, see seaway.health."""

    WELL = "well"
    SUSPECT = "suspect"  # silent for a moment: others are preferred
    LOST = "lost"  # dead as far as anybody can tell: its instances are replaced
    HELD = "held"  # back, but it was lost too often: nothing new is placed there for a while


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
    cpu: float | None = None  # cores used, averaged over the last sampling interval; None: nobody measures it
    memory: int | None = None  # bytes, without what the kernel can drop at once; None: nobody measures it
    memory_kills: int = 0  # of its processes that were killed for lack of memory, since its main one began
    over_disk: bool = False  # it was ended last because its files took more of the disk than they may
    node_state: NodeState = NodeState.WELL  # Seaway's verdict of its node; engines leave it alone

    @property
    def unreachable(self) -> bool:
        """Whether its node is lost: it may still run there, and nobody can tell."""
        return self.node_state is NodeState.LOST or self.state is InstanceState.LOST

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
    renewed_at: datetime | None = None  # when its agent last said that it lives; None: it has no such habit
    held: str = ""  # why nothing new is placed on it; "": it is not held
    available: int | None = None  # bytes of memory that more instances may have now; None: its scheduler knows
    unprotected: str = ""  # why apps on it are not protected from each other; "": they are
    unlimited: str = ""  # which limits of instances do not hold on it and why; "": all do
    agent_port: int = 0  # where its agent (a kubelet) listens at `address`; 0: unknown


class Terminal(Frozen):
    """The terminal that a command has, as it is drawn where its caller sits."""

    rows: int = Field(default=24, ge=1, le=2**15)
    columns: int = Field(default=80, ge=1, le=2**15)
    kind: str = Field(default="xterm", pattern=r"^[A-Za-z0-9._+-]{1,64}$")  # TERM


class Streams(Frozen):
    """How somebody who waits for a command is connected with it.

    `reads`: what it reads from standard input comes from there; without, nothing does.
    """

    reads: bool = False
    terminal: Terminal | None = None  # instead of three pipes


class Offsets(Frozen):
    """Places in what a command writes, in bytes from its beginning."""

    stdout: int = 0
    stderr: int = 0


class Task(Frozen):
    """A one-off: runs once to its end with an app's image and config; idempotent by id."""

    id: str  # starts with the app's name
    app: str
    team: str
    release: int
    image: str
    command: str
    env: dict[str, str] = {}
    stdin: str | None = None  # base64 of what it reads from standard input; None: nothing (/dev/null)
    timeout: Seconds = 600.0
    process: str = "run"  # label in the logs: "run" or "release"
    mounts: tuple[Mount, ...] = ()
    limits: Limits = Limits()
    attached: bool = False  # somebody waits for it, and it ends with them
    streams: Streams | None = None  # None: its output goes to the logs alone


class TaskState(Frozen):
    """What became of a task."""

    id: str
    app: str
    done: bool = False
    exit_code: int | None = None  # -N: ended by signal N
    reason: str = ""
    attached: bool = False  # as its Task
    output_ends: Offsets | None = None  # when it is done and had streams: how much there is to be read from them
    wrote: tuple[str, ...] = ()  # files of its copy of the app that it left new or changed: some, where known
    started_at: datetime | None = None
    ended_at: datetime | None = None


class Refusal(Frozen):
    """Why an engine's cluster takes no more instances of a workload now, such as a quota that is used up."""

    key: WorkloadKey
    reason: str


@dataclass
class AppPart:
    """What an observation has of one app."""

    instances: list[Instance] = field(default_factory=list)
    workloads: list[Workload] = field(default_factory=list)
    tasks: dict[str, TaskState] = field(default_factory=dict)
    refused: dict[WorkloadKey, str] = field(default_factory=dict)


class Observation(Frozen):
    """All an engine sees at one moment. `workloads` are the keys it was told to keep."""

    nodes: tuple[Node, ...] = ()
    instances: tuple[Instance, ...] = ()
    workloads: tuple[Workload, ...] = ()
    tasks: tuple[TaskState, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    outage: str = ""  # why instances on lost nodes are not replaced: too many nodes vanished at once
    _sorted: tuple[tuple[object, ...], Mapping[str, AppPart]] = PrivateAttr(default=((), {}))

    def part(self, app: str) -> AppPart:
        """Return what there is of one app; the first call sorts everything by app, for all later ones."""
        now = (self.instances, self.workloads, self.tasks, self.refusals)
        if len(self._sorted[0]) != len(now) or any(a is not b for a, b in zip(self._sorted[0], now, strict=True)):
            self._sorted = (now, self._sort())  # a changed copy has what its original sorted
        return self._sorted[1].get(app) or AppPart()

    def _sort(self) -> Mapping[str, AppPart]:
        found: defaultdict[str, AppPart] = defaultdict(AppPart)
        for instance in self.instances:
            found[instance.key.app].instances.append(instance)
        for workload in self.workloads:
            found[workload.key.app].workloads.append(workload)
        for task in self.tasks:
            found[task.app].tasks[task.id] = task
        for refusal in self.refusals:
            found[refusal.key.app].refused[refusal.key] = refusal.reason
        return dict(found)

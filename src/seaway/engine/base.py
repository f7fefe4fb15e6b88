"""The engine contract. Implementations pass tests/contract/test_engine.py: memory (tests), local, Kubernetes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from seaway.model import Observation, Offsets, Task, Terminal, Workload, WorkloadKey


class EngineError(Exception):
    """The engine refused or could not do it; the message says what to do next."""


class EngineUnavailable(EngineError):
    """The engine does not answer now; what it runs goes on. Try again later."""


class StreamsGone(EngineError):
    """Nobody can read on, or write on, where the caller asked to: it never will be possible again."""


@dataclass(frozen=True)
class Output:
    """Bytes that a command wrote, and where they stand among all that it wrote there."""

    stream: str  # "stdout" or "stderr"; a terminal is the former
    offset: int
    data: bytes


class Engine(Protocol):
    """Makes instances be. Level-triggered: every call is idempotent; every method may raise EngineUnavailable.

    An engine restarts what exits by itself, with growing delays, and says so; it never starts or stops an
    instance of its own accord otherwise.
    """

    async def apply(self, workload: Workload) -> None:
        """Want `count` instances besides `retire`; missing ones start, retired ones stop with their grace.

        Instances beyond count that are not named in `retire` are left alone: who stops is the caller's choice.
        """
        ...

    async def remove(self, key: WorkloadKey) -> None:
        """Want nothing of this workload: all its instances stop with their grace. Unknown keys are fine."""
        ...

    async def observe(self) -> Observation:
        """Return everything there is now."""
        ...

    def watch(self) -> AsyncGenerator[str, None]:
        """Yield the name of an app whenever something of it may have changed ("" for nodes: anything may have).

        Names may repeat; after a broken connection the iterator yields "" and goes on.
        """
        ...

    async def start_task(self, task: Task) -> None:
        """Run a one-off; a task with an id that exists is left as it is.

        It starts once and with all of its `stdin`, or not at all.
        """
        ...

    async def remove_task(self, task_id: str) -> None:
        """Forget a task; if it still runs it is killed. Unknown ids are fine."""
        ...


class TeamJudge(Protocol):
    """What an engine whose teams have places of their own knows before anything of a team is made."""

    async def judge_team(self, team: str) -> str:
        """Say in one sentence why nothing of this team can run here, and what to do; "" if it can.

        Raises EngineUnavailable when that cannot be known now.
        """
        ...


@runtime_checkable
class NodeControl(Protocol):
    """What an engine with several nodes can do besides: keep new instances off a node. Idempotent.

    Both raise EngineUnavailable when the cluster does not answer. That they return is proof that it does.
    """

    async def hold_node(self, name: str, reason: str) -> None:
        """Place nothing new on the node until it is released; what runs there stays. `Node.held` is then `reason`."""
        ...

    async def release_node(self, name: str) -> None:
        """Let new instances be placed there again, unless somebody else holds the node. Unknown names are fine."""
        ...


class StreamControl(Protocol):
    """What an engine can do whose tasks may have `streams`; only for one that has, and whose `started_at` is known.

    All of it raises EngineUnavailable, after which the same call may be made again, and StreamsGone.
    """

    def read_output(self, task_id: str, begin: Offsets) -> AsyncGenerator[Output, None]:
        """Yield what the command writes, from these positions on, until it has ended and all of it was given.

        Whoever reads slowly slows the command down. Offsets leave out what cannot be had any more. Of two readers the
        later one gets it.
        """
        ...

    async def write_input(self, task_id: str, offset: int, data: bytes, *, end: bool = False) -> None:
        """Give the command what stands at `offset` of its input, and its `end` after that; return when it has room.

        What was given before is not given again.
        """
        ...

    async def resize(self, task_id: str, terminal: Terminal) -> None:
        """Tell the command's terminal that it is drawn in another size now."""
        ...

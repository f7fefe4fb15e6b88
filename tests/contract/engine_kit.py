"""What the engine contract needs of each engine: make one, make workloads that behave so, break an instance."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psutil

from seaway.engine.base import Engine, EngineUnavailable
from seaway.engine.local.agent import Agent
from seaway.engine.local.base import Timings
from seaway.engine.local.client import LocalEngine
from seaway.engine.local.kin import Kin
from seaway.engine.memory import Behaviour, MemoryEngine
from seaway.home import Home
from seaway.logs.base import LogLine, LogQuery
from seaway.logs.collector import FileLogCollector
from seaway.logs.reader import FileLogReader
from seaway.logs.segments import Limits
from seaway.model import Health, Instance, InstanceState, Process, Task, TaskState, Workload, WorkloadKey
from tests.contract.local_agent import FolderUnpacker

T = TypeVar("T")
K = TypeVar("K", bound="LocalKit")
REPOSITORY = Path(__file__).parents[2]
IMAGES = Path(__file__).parent
PROCESS = ("health", "stop_grace", "memory", "cpu", "pids", "disk")  # fields of a process that tests set
patience = 1.0  # how much longer everything may take: a cluster is slower than a process
FAST = Timings(
    first_delay=0.1,
    longest_delay=0.3,
    settle=0.1,
    first_word=0.2,
    sample_interval=0.3,
    disk_interval=0.2,
    show_stopped=30.0,
)


async def eventually(look: Callable[[], Awaitable[T | None]], limit: float = 10.0, every: float = 0.02) -> T:
    """Return what `look` returns once it is neither None nor False; TimeoutError after `limit` seconds (x patience)."""
    async with asyncio.timeout(limit * patience):
        while True:
            found = await look()
            if found is not None and found is not False and found not in ("", []):
                return found
            await asyncio.sleep(every)


class EngineKit(Protocol):
    """One engine under test."""

    @property
    def engine(self) -> Engine:
        """The engine."""
        ...

    async def close(self) -> None:
        """Stop everything and leave nothing behind."""
        ...

    def workload(self, behaviour: Behaviour, count: int = 1, release: int = 1, **process: Any) -> Workload:
        """Return a routed workload of app "shop" whose instances behave so; silent ones are given up after 0.5 s."""
        ...

    def task(self, task_id: str, code: int) -> Task:
        """Return a one-off that ends with the code."""
        ...

    async def kill(self, instance: Instance) -> None:
        """End the instance's process from outside."""
        ...

    async def check_exit_code(self, instance: Instance, code: int) -> None:
        """Check that it says how it ended last, unless nobody was there to see that."""
        ...


def make_workload(command: str, count: int = 1, release: int = 1, *, process: str = "web", **more: Any) -> Workload:
    """Return a workload of app "shop" that runs the command in the test image."""
    own = {name: more.pop(name) for name in PROCESS if name in more}
    return Workload(
        key=WorkloadKey(app="shop", release=release, process=process), team="crew", count=count, image="sha256:image",
        process=Process(command=command, **own), routed=more.pop("routed", process == "web"), **more,
    )  # fmt: skip


def make_task(task_id: str, command: str, **more: Any) -> Task:
    """Return a one-off of app "shop"."""
    return Task(id=task_id, app="shop", team="crew", release=1, image="sha256:image", command=command, **more)


class MemoryKit:
    """An engine in memory."""

    def __init__(self, make_engine: Callable[..., MemoryEngine] = MemoryEngine) -> None:
        self.engine = make_engine(
            behave=lambda w: w.process.command,
            run_task=lambda task: int(task.command),
            auto=True,
        )

    async def close(self) -> None:
        """Nothing runs."""

    def workload(self, behaviour: Behaviour, count: int = 1, release: int = 1, **process: Any) -> Workload:
        """The command is the behaviour."""
        return make_workload(behaviour, count, release, **process)

    def task(self, task_id: str, code: int) -> Task:
        """The command is the code."""
        return make_task(task_id, str(code))

    async def kill(self, instance: Instance) -> None:
        """Crash it."""
        self.engine.crash(instance.id)

    async def check_exit_code(self, instance: Instance, code: int) -> None:
        """Everything is seen."""
        assert instance.exit_code == code


class LocalKit:
    """The local engine: real apps, the agent in this process (see ProcessKit for one that can be killed)."""

    def __init__(
        self, root: Path, timings: Timings = FAST, limits: Limits | None = None, *, as_ordinary_user: bool = False
    ) -> None:
        """`as_ordinary_user`: without control groups and user ids for apps, as such a user mostly has it."""
        self.home = Home(root / "home").create()
        self.engine = LocalEngine(self.home)
        self.timings = timings
        self.unpacker = FolderUnpacker(IMAGES)
        self.reader = FileLogReader(self.home)
        self._limits = limits
        self._is_ordinary = as_ordinary_user
        self._agent: Agent | None = None

    async def start(self) -> None:
        """Start the agent."""
        collector = FileLogCollector(self.home, self._limits)
        kin, protect = (Kin(self.home.root), False) if self._is_ordinary else (None, True)
        self._agent = Agent(self.home, self.unpacker, collector, "node-1", self.timings, kin=kin, protect=protect)
        await self._agent.start()

    async def end_agent(self) -> None:
        """End the agent as SIGTERM would; instances run on."""
        assert self._agent is not None
        await self._agent.close()
        assert not self._agent.failed.is_set()
        self._agent = None

    async def close(self) -> None:
        """Stop everything, end the agent, and check that no process is left."""
        try:
            async with asyncio.timeout(30):
                await self.engine.stop_all()
            await self.end_agent()
            await self.engine.close()
        finally:  # a test that failed half-way leaves nothing either
            left = find_processes(str(self.home.root))
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        assert not left, left

    def workload(self, behaviour: str, count: int = 1, release: int = 1, **process: Any) -> Workload:
        """Run the test app so."""
        process.setdefault("health", Health(start_timeout=0.5 if behaviour == "silent" else 20.0))
        process.setdefault("stop_grace", 2.0)
        return make_workload(f"python app.py {behaviour}", count, release, **process)

    def task(self, task_id: str, code: int) -> Task:
        """A shell that exits."""
        return make_task(task_id, f"exit {code}")

    async def kill(self, instance: Instance) -> None:
        """kill -9 the app itself, not its leader."""
        os.kill(find_app(instance.id).pid, signal.SIGKILL)

    async def check_exit_code(self, instance: Instance, code: int) -> None:
        """Its leader is there to see it."""
        assert instance.exit_code == code

    async def list_living(self) -> list[Instance]:
        """Return the instances that neither stop nor have stopped."""
        gone = (InstanceState.STOPPING, InstanceState.STOPPED)
        return [i for i in (await self.engine.observe()).instances if i.state not in gone]

    async def await_instance(self, good: Callable[[Instance], bool], limit: float = 20.0) -> Instance:
        """Return the first instance that is as wanted."""

        async def look() -> Instance | None:
            return next((i for i in (await self.engine.observe()).instances if good(i)), None)

        return await eventually(look, limit)

    async def await_serving(self) -> Instance:
        """Return the first instance that serves."""
        return await self.await_instance(lambda i: i.serving)

    async def await_task(self) -> TaskState:
        """Return the first task that is done."""

        async def look() -> TaskState | None:
            return next((t for t in (await self.engine.observe()).tasks if t.done), None)

        return await eventually(look, 20)

    async def read_logs(self, **query: Any) -> list[LogLine]:
        """Return the lines of app "shop"."""
        return [line async for line in self.reader.read(LogQuery(app="shop", tail=None, **query))]


@contextlib.asynccontextmanager
async def running(kit: K) -> AsyncIterator[K]:
    """Start a local engine; stop everything at the end, also of a test that failed."""
    await kit.start()
    try:
        yield kit
    finally:
        await kit.close()


class ProcessKit(LocalKit):
    """The local engine with its agent as a process of its own."""

    process: subprocess.Popen[bytes]

    async def start(self) -> None:
        """Start the agent and wait until it answers."""
        command = [sys.executable, "-m", "tests.contract.local_agent", "--home", str(self.home.root)]
        command += ["--images", str(IMAGES), "--timings", json.dumps(asdict(self.timings))]
        command += ["--as-ordinary-user"] if self._is_ordinary else []
        with (self.home.root / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: ASYNC220 - some ms
                command, cwd=REPOSITORY, stdout=log, stderr=log
            )

        async def look() -> bool:
            assert self.process.poll() is None, (self.home.root / "agent.log").read_text()
            try:
                return bool(await self.engine.ping())
            except EngineUnavailable:
                return False

        await eventually(look, limit=30)

    def kill_agent(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(20)

    async def end_agent(self) -> None:
        """SIGTERM."""
        self.process.terminate()
        assert self.process.wait(20) == 0


def find_processes(text: str) -> list[psutil.Process]:
    """Return the processes (not this one) whose environment mentions the text in TMPDIR."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("TMPDIR", "").startswith(text):
                found.append(process)
        except psutil.Error:
            continue
    return found


def find_members(instance_id: str) -> list[psutil.Process]:
    """Return the processes that carry the instance's id."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SEAWAY_INSTANCE") == instance_id:
                found.append(process)
        except psutil.Error:
            continue
    return found


def find_app(instance_id: str) -> psutil.Process:
    """Return the process that is an instance's app, not one in which something begins."""
    limit = time.monotonic() + 5
    while time.monotonic() < limit:
        for process in find_members(instance_id):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "python" in process.name() and "app.py" in process.cmdline():
                    return process
    raise AssertionError(f"{instance_id} runs no app")

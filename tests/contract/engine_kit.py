"""What the engine contract needs of each engine: make one, make workloads that behave so, break an instance."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psutil

from seaway.engine.base import Engine, EngineUnavailable
from seaway.engine.local.base import Timings
from seaway.engine.local.client import LocalEngine
from seaway.engine.memory import Behaviour, MemoryEngine
from seaway.home import Home
from seaway.model import Health, Instance, Process, Task, Workload, WorkloadKey

T = TypeVar("T")
REPOSITORY = Path(__file__).parents[2]
IMAGES = Path(__file__).parent
FAST = Timings(first_delay=0.1, longest_delay=0.3, settle=0.1, sample_interval=0.3, show_stopped=30.0)


async def eventually(look: Callable[[], Awaitable[T | None]], limit: float = 10.0, every: float = 0.02) -> T:
    """Return what `look` returns once it is neither None nor False; TimeoutError after `limit` seconds."""
    async with asyncio.timeout(limit):
        while True:
            found = await look()
            if found is not None and found is not False:
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


def make_workload(command: str, count: int = 1, release: int = 1, *, process: str = "web", **more: Any) -> Workload:
    """Return a workload of app "shop" that runs the command in the test image."""
    own = {name: more.pop(name) for name in ("health", "stop_grace") if name in more}
    return Workload(
        key=WorkloadKey(app="shop", release=release, process=process), team="crew", count=count, image="sha256:image",
        process=Process(command=command, **own), routed=more.pop("routed", process == "web"), **more,
    )  # fmt: skip


def make_task(task_id: str, command: str, **more: Any) -> Task:
    """Return a one-off of app "shop"."""
    return Task(id=task_id, app="shop", team="crew", release=1, image="sha256:image", command=command, **more)


class MemoryKit:
    """The in-memory engine."""

    def __init__(self) -> None:
        self.engine = MemoryEngine(
            behave=lambda w: w.process.command,  # type: ignore[arg-type,return-value]
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


class LocalKit:
    """The local engine: a real agent process, real apps."""

    def __init__(self, root: Path, timings: Timings = FAST) -> None:
        self.home = Home(root / "home").create()
        self.engine = LocalEngine(self.home)
        self.timings = timings
        self.agent: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the agent."""
        command = [sys.executable, "-m", "tests.contract.local_agent", "--home", str(self.home.root)]
        command += ["--images", str(IMAGES), "--timings", json.dumps(asdict(self.timings))]
        with (self.home.root / "agent.log").open("ab") as log:
            self.agent = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log)

    async def wait(self) -> None:
        """Return once the agent answers."""

        async def look() -> bool:
            try:
                return bool(await self.engine.ping())
            except EngineUnavailable:
                assert self.agent is None or self.agent.poll() is None, "the agent has ended"
                return False

        await eventually(look, limit=20)

    def end_agent(self, number: int = signal.SIGKILL) -> int:
        """Send the agent a signal and wait for its end; return its exit code."""
        assert self.agent is not None
        self.agent.send_signal(number)
        return self.agent.wait(20)

    async def close(self) -> None:
        """Stop everything, end the agent, and check that no process is left."""
        assert self.agent is not None
        if self.agent.poll() is None:
            async with asyncio.timeout(30):
                await self.engine.stop_all()
            assert self.end_agent(signal.SIGTERM) == 0
        await self.engine.close()
        left = find_processes(str(self.home.root))
        assert not left, left

    def workload(self, behaviour: Behaviour, count: int = 1, release: int = 1, **process: Any) -> Workload:
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


def find_processes(text: str) -> list[str]:
    """Return the command lines of processes (not this one) whose environment mentions the text in TMPDIR."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("TMPDIR", "").startswith(text):
                found.append(" ".join(process.cmdline()))
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
    """Return the Python process of an instance."""
    limit = time.monotonic() + 5
    while time.monotonic() < limit:
        for process in find_members(instance_id):
            if process.is_running() and "python" in process.name():
                return process
    raise AssertionError(f"{instance_id} runs no app")

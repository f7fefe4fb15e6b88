"""The node agent's process (`seaway node`): lock, socket, loops, signals.

SIGTERM and SIGINT end the agent and leave every instance running; a new agent adopts them.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import structlog
import uvicorn

from seaway.disk import Level, judge, read_disk
from seaway.engine.local.api import make_api
from seaway.engine.local.base import OutputCollector, Timings, Unpacker
from seaway.engine.local.changes import Changes
from seaway.engine.local.guard import OURS, PortGuard
from seaway.engine.local.keeper import Keeper
from seaway.engine.local.kin import Kin
from seaway.engine.local.machine import Images, Machine
from seaway.engine.local.ports import PortPool
from seaway.engine.local.process import LeaderIndex, open_presence
from seaway.engine.local.room import find_room
from seaway.engine.local.state import NodeState
from seaway.home import Home
from seaway.sandbox.cgroups import Cgroups
from seaway.sandbox.procs import raise_file_limit
from seaway.sandbox.sandbox import UNPROTECTED, open_sandbox

log = structlog.get_logger(__name__)

BACKLOG = 128
DISK_INTERVAL = 1.0  # seconds between looks at how full the disk is
PID_BYTES = 32
STARTING_LIMIT = 2.0  # seconds for a child of a dead agent to become another program


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: the agent's SIGTERM is the agent's."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Agent:
    """One node agent; `start`, then `close`. Also used in-process by tests."""

    def __init__(
        self,
        home: Home,
        unpacker: Unpacker,
        collector: OutputCollector,
        node_name: str | None = None,
        timings: Timings | None = None,
        *,
        kin: Kin | None = None,
        protect: bool = True,
    ) -> None:
        """`kin`: how what belongs to an instance is held together, if not the best way that there is here.

        `protect`: run each app as a user of its own, if that is possible here.
        """
        self._kin = kin
        self._protect = protect
        self._home = home
        self._unpacker = unpacker
        self._collector = collector
        self._node = node_name or socket.gethostname()
        self._timings = timings or Timings()
        self._lock: int | None = None
        self._loops: list[asyncio.Task[None]] = []
        self.failed = asyncio.Event()

    async def start(self) -> None:
        """Take the lock (RuntimeError if another agent has it), adopt what runs, and answer on the socket."""
        self._home.create()
        raise_file_limit()
        self._lock = _take_lock(self._home.run / "node.lock")
        self._changes = Changes()
        self._kin = kin = self._kin or Kin(self._home.root, Cgroups.open(self._home.root))
        sandbox, unprotected = (
            await asyncio.to_thread(open_sandbox, self._home) if self._protect else (None, "not asked")
        )
        if sandbox is None:
            log.warning(UNPROTECTED, reason=unprotected)
        room = find_room(kin.cgroups)
        if kin.cgroups is not None:
            try:
                kin.cgroups.limit_all(room.limits)
            except OSError as error:  # version 1: they have more already
                log.warning("all apps together are not limited", reason=str(error))
        machine = Machine(
            node=self._node, state=NodeState(self._home.node), mounts=self._home.mounts.absolute(),
            images=Images(self._unpacker, has_views=sandbox is not None),
            collector=self._collector, timings=self._timings, ports=PortPool(self._timings.port_rest),
            kin=kin, leaders=LeaderIndex(kin), notify=self._changes.notify,
            room=room, sandbox=sandbox, unprotected=unprotected,
            guard=self._guard(kin) if sandbox is not None else None,
        )  # fmt: skip
        self._keeper = Keeper(machine, self._changes)
        await self._keeper.load()
        self._presence = open_presence(machine.state.presence)  # now that the pipes of what has ended are held here
        self._spawn(self._collector.run())
        self._spawn(self._keeper.sample())
        self._spawn(self._keeper.watch_disk())
        self._spawn(self._keeper.collect_garbage())
        self._spawn(self._keeper.catch_up())
        self._spawn(self._follow_disk())
        self._spawn(machine.prober.lag.watch())
        await self._serve()
        log.info(
            "node agent ready", node=self._node, socket=str(self._path), instances=len(self._keeper.observe().instances)
        )

    def _guard(self, kin: Kin) -> PortGuard | None:
        """Keep apps from each other's ports, and from those of Seaway itself, if the kernel can and lets us."""
        if kin.cgroups is None:
            return None
        settings = self._home.read_settings()
        try:
            guard = PortGuard()
            for port in (settings.api_port, settings.http_port):
                guard.keep(port, OURS)
            guard.attach(kin.cgroups.create())
        except OSError as error:
            log.warning("ports of apps are not guarded", reason=str(error))
            return None
        return guard

    async def _follow_disk(self) -> None:
        """Have logs give way while the disk is almost full, for ever."""
        level = Level.FINE
        while True:
            with suppress(OSError):  # a bad disk
                now = judge(await asyncio.to_thread(read_disk, self._home.root), level)
                if (now >= Level.TIGHT) != (level >= Level.TIGHT):
                    self._collector.give_way(tight=now >= Level.TIGHT)
                level = now
            await asyncio.sleep(DISK_INTERVAL)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(self._on_loop_end)
        self._loops.append(task)

    def _on_loop_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            log.error("a loop of the node agent ended", error=repr(task.exception()))
            self.failed.set()

    async def _serve(self) -> None:
        self._path = self._home.socket("node")
        listener = _listen(self._path)
        config = uvicorn.Config(
            make_api(self._keeper), log_config=None, access_log=False, lifespan="off", ws="none",
            timeout_graceful_shutdown=2,
        )  # fmt: skip
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        while not self._server.started and not self._serving.done():
            await asyncio.sleep(0.005)

    async def close(self) -> None:
        """Stop answering and looking after; every instance runs on."""
        self._changes.close()
        self._server.should_exit = True
        await self._serving
        self._path.unlink(missing_ok=True)
        await self._keeper.detach()
        for task in self._loops:
            task.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self._collector.close()
        os.close(self._presence)
        if self._kin is not None:
            self._kin.close()
        assert self._lock is not None
        os.close(self._lock)


async def run_agent(
    home: Home,
    unpacker: Unpacker,
    collector: OutputCollector,
    node_name: str | None = None,
    timings: Timings | None = None,
    *,
    kin: Kin | None = None,
    protect: bool = True,
) -> int:
    """Run a node agent until SIGTERM or SIGINT; return the exit code."""
    agent = Agent(home, unpacker, collector, node_name, timings, kin=kin, protect=protect)
    try:
        await agent.start()
    except RuntimeError as error:
        log.error("node agent cannot start", reason=str(error))
        return 1
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    waits = [asyncio.create_task(stop.wait()), asyncio.create_task(agent.failed.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for task in waits:
        task.cancel()
    await agent.close()
    return 1 if agent.failed.is_set() else 0


def _take_lock(path: Path) -> int:
    """Return the descriptor that holds the lock; raises RuntimeError if another agent has it.

    A child that an agent was just starting when it was killed has the lock until it becomes another program.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + STARTING_LIMIT
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            holder = os.pread(fd, PID_BYTES, 0).decode().strip()
            if _lives(holder) or time.monotonic() > deadline:
                os.close(fd)
                who = f"pid {holder or 'unknown'}"
                raise RuntimeError(f"another node agent ({who}) holds {path}: stop it first") from None
            time.sleep(0.01)
    os.pwrite(fd, f"{os.getpid()}\n".ljust(PID_BYTES).encode(), 0)  # over the one before: a full disk has no more room
    os.ftruncate(fd, PID_BYTES)
    return fd


def _lives(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def _listen(path: Path) -> socket.socket:
    """Listen beside the path and move it there: a client finds the old agent or the new one, never a dead file."""
    temporary = path.with_name(f"{path.name}~")
    temporary.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(temporary))
    temporary.chmod(0o600)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    temporary.replace(path)
    return listener

"""The supervisor: starts the parts, adopts those that run, brings back what dies, and stops all in order."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

from seaway.home import Home, Settings
from seaway.sandbox.hanging import INTERVAL, Pulse
from seaway.sandbox.standing import come_first, step_back
from seaway.supervisor.guard import is_stopping, mark_stopping
from seaway.supervisor.locks import SUFFIX, Held, acquire, find_holder
from seaway.supervisor.processes import (
    become_subreaper,
    list_parts,
    log_path,
    open_pidfd,
    reap,
    rotate,
    send,
    spawn,
    wait_gone,
)
from seaway.supervisor.pulse import beat, look

log = structlog.get_logger()

SUPERVISOR = "supervisor"
FIRST_DELAY, LAST_DELAY = 0.1, 5.0  # seconds before a part that died is started again
STEADY = 10.0  # a part that ran this long starts again without delay
ROUTER_STOP_LIMIT, PART_STOP_LIMIT = 40.0, 10.0  # seconds before SIGKILL


@dataclass(frozen=True)
class Endings:
    """How what the parts have started ends: `stop_apps` asks the node agent for it, `sweep` needs nobody.

    `sweep` returns what of it was still there, for people to read.
    """

    stop_apps: Callable[[], Awaitable[None]]
    sweep: Callable[[], Coroutine[Any, Any, Sequence[str]]]


class Supervisor:
    """Keeps the parts of one home running until it is told to stop."""

    def __init__(self, home: Home, settings: Settings, endings: Endings) -> None:
        self._home = home
        self._parts = list_parts(settings.routers)
        self._endings = endings
        self._stopping = asyncio.Event()
        self._exits: dict[int, int] = {}
        self._children: set[int] = set()

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT; then stop every part. Raises Held if another supervisor has this home.

        Does nothing while the home is marked as stopping: only `seaway up` takes the mark away.
        """
        lock = acquire(self._home, SUPERVISOR, beats=True)
        beating = asyncio.create_task(beat(lock))
        try:
            if is_stopping(self._home):
                return  # started by a part that missed the supervisor before it saw that all is to stop
            become_subreaper()
            come_first(self._home)
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGCHLD, self._reap)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._stopping.set)
            loop.add_signal_handler(signal.SIGTSTP, self._refuse_to_pause)
            keepers = [asyncio.create_task(self._keep(part), name=f"keep-{part}") for part in self._parts]
            keepers.append(asyncio.create_task(self._rotate_logs(), name="rotate"))
            await self._stopping.wait()
            with suppress(OSError):  # guards may bring another one, which finds this one's lock
                mark_stopping(self._home)
            for task in keepers:
                task.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            try:
                await stop_parts(self._home, self._endings)
            finally:
                await self._end_children()
        finally:
            beating.cancel()
            os.close(lock)

    async def _end_children(self) -> None:
        """End what was just started and had no lock yet when its part was looked for."""
        self._reap()
        for pid in self._children:
            log.warning("killed: it was still starting", pid=pid)
            send(pid, signal.SIGKILL)
            await asyncio.to_thread(wait_gone, pid, PART_STOP_LIMIT)
        self._reap()
        step_back(self._home)

    def _refuse_to_pause(self) -> None:
        """Ctrl-Z would leave the parts alone, which would replace their supervisor."""
        log.warning("not stopped: Ctrl-C ends Seaway, `seaway up -d` runs it in the background")

    def _reap(self) -> None:
        ended = reap()
        self._children -= ended.keys()
        self._exits |= ended

    async def _keep(self, part: str) -> None:
        delay = 0.0
        while True:
            try:
                pid, lived = await self._run(part, delay)
            except OSError as error:  # no descriptor, process or memory now, or a bad disk; it runs if it did
                delay = min(LAST_DELAY, max(FIRST_DELAY, delay * 2))
                log.error("cannot be kept running now", part=part, error=str(error), again_in=delay)
                await asyncio.sleep(delay)
                continue
            delay = 0.0 if lived > STEADY else min(LAST_DELAY, max(FIRST_DELAY, delay * 2))
            log.warning("died", part=part, pid=pid, code=self._exits.pop(pid, None), again_in=delay)

    async def _run(self, part: str, delay: float) -> tuple[int, float]:
        """Adopt a part, or start it after `delay` seconds; return its pid when it has ended, and how long it lived."""
        holder = find_holder(self._home, part)
        if holder is None:
            await asyncio.sleep(delay)
            pid = spawn(self._home, part)
            self._children.add(pid)
        else:
            pid = holder.pid
        log.info("adopted" if holder else "started", part=part, pid=pid)
        began = time.monotonic()
        await self._watch(part, pid)
        return pid, time.monotonic() - began

    async def _watch(self, part: str, pid: int) -> None:
        """Return when a part has ended, by itself or because it hung."""
        fd = open_pidfd(pid)
        if fd is None:
            return
        gone, pulse = asyncio.Event(), Pulse()
        loop = asyncio.get_running_loop()
        loop.add_reader(fd, gone.set)
        try:
            while not gone.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(INTERVAL):
                        await gone.wait()
                if fault := look(self._home, part, pid, pulse):
                    log.error("hangs: it is killed, and started again", part=part, pid=pid, why=fault)
                    send(pid, signal.SIGKILL)
        finally:
            loop.remove_reader(fd)
            os.close(fd)
        self._reap()

    async def _rotate_logs(self) -> None:
        while True:
            await asyncio.sleep(60)
            for part in (SUPERVISOR, *self._parts):
                with suppress(OSError):  # next time
                    rotate(log_path(self._home, part))


async def stop_parts(home: Home, endings: Endings) -> None:
    """Stop all: routers (they finish their requests), the control plane, the apps, the node agent; sweep in the end.

    The control plane goes before the apps: it would take their end for a fault of theirs and roll back.
    """
    routers = [part for part in _known_parts(home) if part.startswith("router-")]
    await asyncio.gather(*(_stop(home, part, ROUTER_STOP_LIMIT) for part in routers))
    await _stop(home, "control", PART_STOP_LIMIT)
    agent = _Agent(home)
    keeping = asyncio.create_task(agent.keep())
    try:
        await endings.stop_apps()
    except Exception as error:
        log.error("the apps cannot be stopped by the node agent: what is left is killed", error=str(error))
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await _stop(home, "node", PART_STOP_LIMIT)
        await asyncio.to_thread(agent.end)
        if left := await endings.sweep():
            log.warning("killed", left=left)


class _Agent:
    """Has a node agent that answers: one that is away, or hangs, cannot stop its instances, but one that is new can."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._pid, self._pidfd = 0, -1  # the one that was started here last

    async def keep(self) -> None:
        """Look after it, for ever."""
        watched, pulse = 0, Pulse()
        while True:
            try:
                holder = find_holder(self._home, "node")
                if holder is None:
                    self._start()
                elif holder.pid != watched:
                    watched, pulse = holder.pid, Pulse()
                elif fault := look(self._home, "node", watched, pulse):
                    log.error("hangs: it is killed, and started again", part="node", pid=watched, why=fault)
                    send(watched, signal.SIGKILL)
                    await asyncio.to_thread(wait_gone, watched, PART_STOP_LIMIT)
                    continue
            except OSError as error:
                log.warning("the node agent cannot be kept running now", error=str(error))
            await asyncio.sleep(INTERVAL)

    def _start(self) -> None:
        """Start one, unless that was done and it has yet to take its lock."""
        if self._pidfd >= 0 and not wait_gone(self._pid, 0):
            return
        self._close()
        self._pid = spawn(self._home, "node")
        self._pidfd = os.pidfd_open(self._pid)
        log.info("started to stop the apps", pid=self._pid)

    def end(self) -> None:
        """Kill one that was started here and has not taken its lock, by which it would have been found."""
        if self._pidfd >= 0 and not wait_gone(self._pid, 0):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            wait_gone(self._pid, PART_STOP_LIMIT)
        self._close()

    def _close(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def _known_parts(home: Home) -> list[str]:
    return sorted(path.stem for path in home.run.glob(f"*{SUFFIX}") if path.stem != SUPERVISOR)


async def _stop(home: Home, part: str, limit: float) -> None:
    holder = find_holder(home, part)
    if holder is None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        send(holder.pid, number)
        send(holder.pid, signal.SIGCONT)  # one that is stopped hears it, too
        if await asyncio.to_thread(wait_gone, holder.pid, limit):
            return
        log.warning("did not stop in time", part=part, pid=holder.pid, seconds=limit)


async def run_supervisor(home: Home, endings: Endings) -> int:
    """Run the supervisor for a home; 0 when stopped as asked, 75 if another one runs."""
    home.create()
    try:
        await Supervisor(home, home.read_settings(), endings).run()
    except Held as held:
        log.info("another supervisor runs", pid=held.pid)
        return 75
    return 0

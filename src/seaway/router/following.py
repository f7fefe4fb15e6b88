"""Follows Envoy's log of health check events: which endpoints became healthy or unhealthy, as it happens."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger("seaway.router")

_IN_MODIFY = 0x2
_IN_CREATE = 0x100
_IN_MOVED_FROM = 0x40


@dataclass(frozen=True, slots=True)
class HealthEvent:
    """One endpoint of a cluster became healthy or not."""

    cluster: str
    address: str  # ip:port
    healthy: bool


def parse_event(line: bytes) -> HealthEvent | None:
    """Return what a line of the log says about an endpoint's health, or None if it says nothing about it."""
    event: dict[str, Any] = json.loads(line)
    address = event.get("host", {}).get("socket_address")
    if not address:
        return None
    if "add_healthy_event" in event:
        healthy = True
    elif "eject_unhealthy_event" in event or event.get("health_check_failure_event", {}).get("first_check"):
        healthy = False
    else:
        return None
    return HealthEvent(event["cluster_name"], f"{address['address']}:{address['port_value']}", healthy)


class HealthLog:
    """Reads complete lines appended to a file; follows it through a rename (rotation), losing none."""

    def __init__(self, path: Path, take: Callable[[HealthEvent], None]) -> None:
        self._path = path
        self._take = take
        self._rest = b""
        self._inotify = -1
        path.touch(mode=0o600)
        self._file = path.open("rb")

    def skip_to_end(self) -> None:
        """Forget what is there; only what comes from now on counts."""
        self._file.seek(0, os.SEEK_END)
        self._rest = b""

    def start(self) -> None:
        """Begin to follow on the running loop."""
        libc = ctypes.CDLL(None, use_errno=True)
        self._inotify = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._inotify < 0:
            raise OSError(ctypes.get_errno(), "inotify is not to be had: raise fs.inotify.max_user_instances")
        mask = _IN_MODIFY | _IN_CREATE | _IN_MOVED_FROM
        if libc.inotify_add_watch(self._inotify, os.fsencode(self._path.parent), mask) < 0:
            raise OSError(ctypes.get_errno(), f"cannot watch {self._path.parent}")
        asyncio.get_running_loop().add_reader(self._inotify, self._wake)

    def stop(self) -> None:
        """Stop following."""
        if self._inotify >= 0:
            asyncio.get_running_loop().remove_reader(self._inotify)
            os.close(self._inotify)
            self._inotify = -1
        self._file.close()

    def _wake(self) -> None:
        os.read(self._inotify, 65536)
        with suppress(OSError):  # no descriptor now, or a bad disk: whoever tends it reads again
            self.read()

    def read(self) -> None:
        """Take what was appended; after a rotation the rest of the old file, then the new one. Raises OSError."""
        self._drain()
        try:
            moved = self._path.stat().st_ino != os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return  # renamed; Envoy makes the new one in a moment
        if moved:
            self._drain()
            new = self._path.open("rb")
            self._file.close()
            self._file, self._rest = new, b""
            self._drain()

    def _drain(self) -> None:
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in lines:
            try:
                event = parse_event(line) if line else None
            except (ValueError, KeyError) as error:
                log.warning(
                    "a health event is not understood", line=line[:200].decode(errors="replace"), error=repr(error)
                )
                continue
            if event:
                self._take(event)

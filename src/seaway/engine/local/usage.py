"""What instances use and where they listen, read from /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from seaway.engine.local.procs import Stat, list_stats

TICKS = os.sysconf("SC_CLK_TCK")
LISTENING = "0A"  # in /proc/net/tcp
PAGE = os.sysconf("SC_PAGE_SIZE")


class Sampler:
    """CPU and memory per session, one walk over /proc for all."""

    def __init__(self) -> None:
        self._cpu: dict[int, int] = {}
        self._at: float | None = None

    def sample(self, sessions: Iterable[int]) -> dict[int, tuple[float, int]]:
        """Return session -> (cores used since the last sample, resident bytes) for those that have processes."""
        wanted = set(sessions)
        now, cpu = time.monotonic(), {}
        ticks = dict.fromkeys(wanted, 0)
        pages = dict.fromkeys(wanted, 0)
        for stat in list_stats():
            if stat.session in wanted:
                cpu[stat.pid] = stat.cpu
                ticks[stat.session] += max(0, stat.cpu - self._cpu.get(stat.pid, 0)) if self._at else 0
                pages[stat.session] += stat.resident
        passed = now - self._at if self._at else 1.0
        self._cpu, self._at = cpu, now
        return {s: (ticks[s] / TICKS / max(passed, 0.001), pages[s] * PAGE) for s in wanted if pages[s]}


def find_listeners(port: int) -> set[int]:
    """Return the user ids whose processes listen on a TCP port of this machine.

    Listening sockets come first in these files (net/ipv4/tcp_ipv4.c), whatever connections there are.
    """
    found: set[int] = set()
    for path in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        with suppress(FileNotFoundError), path.open() as lines:
            next(lines, None)
            for line in lines:
                _, local, _, state, _, _, _, user, *_ = line.split()
                if state != LISTENING:
                    break
                if int(local.rpartition(":")[2], 16) == port:
                    found.add(int(user))
    return found


def find_listening(members: Iterable[Stat]) -> list[str]:
    """Return "address:port" of every TCP socket that these processes listen on."""
    found: set[str] = set()
    for stat in members:
        with suppress(psutil.Error):
            for connection in psutil.Process(stat.pid).net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr:
                    host, port = connection.laddr.ip, connection.laddr.port
                    found.add(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    return sorted(found)

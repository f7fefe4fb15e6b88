"""What instances use and where they listen, read from /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress

import psutil

from seaway.engine.local.procs import Stat, list_stats

TICKS = os.sysconf("SC_CLK_TCK")
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

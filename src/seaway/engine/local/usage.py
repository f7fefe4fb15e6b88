"""What instances use and where they listen, read from /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from seaway.engine.local.kin import Kin, add_descendants
from seaway.sandbox.controllers import Memory
from seaway.sandbox.hanging import STATES
from seaway.sandbox.procs import Stat, list_stats

TICKS = os.sysconf("SC_CLK_TCK")
LISTENING = "0A"  # in /proc/net/tcp
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """What an instance uses: processor seconds since it began, and memory; `stopped`: none of its processes may run."""

    cpu: float
    memory: Memory
    stopped: bool = False


def measure(kin: Kin, leaders: Mapping[str, int]) -> dict[str, Usage]:
    """Return what instances use, by id, given the pids of their leaders; those that are gone are left out."""
    cgroups = kin.cgroups
    if cgroups is None:
        return _measure_families(leaders)
    found = {}
    for name, pid in leaders.items():
        stats = kin.find(name)
        memory = cgroups.read_memory(name) or Memory(_add_resident(stats))
        found[name] = Usage(cgroups.read_cpu(name), memory, _are_stopped(stats, pid))
    return found


def _measure_families(leaders: Mapping[str, int]) -> dict[str, Usage]:
    """Leaders are subreapers here: all that an instance started descends from its leader, and what ends is counted."""
    stats = list_stats()
    found = {}
    for name, pid in leaders.items():
        family = add_descendants(stats, {pid})
        mine = [stat for stat in stats if stat.pid in family]
        if mine:
            cpu = sum(stat.cpu for stat in mine) / TICKS
            found[name] = Usage(cpu, Memory(_add_resident(mine)), _are_stopped(mine, pid))
    return found


def _are_stopped(stats: Iterable[Stat], leader: int) -> bool:
    """Whether all processes of an instance are; its leader, which only waits for them, says nothing of it."""
    states = {stat.state for stat in stats if stat.pid != leader}
    return bool(states) and states <= STATES.keys()


def _add_resident(stats: Iterable[Stat]) -> int:
    return PAGE * sum(stat.resident for stat in stats)


@dataclass(frozen=True)
class Sample:
    """What an instance is seen to do: cores used, averaged since the last sample, and the rest as in `Usage`."""

    cores: float
    memory: Memory
    stopped: bool = False


class Sampler:
    """Turns processor seconds into cores."""

    def __init__(self, kin: Kin) -> None:
        self._kin = kin
        self._before: Mapping[str, Usage] = {}
        self._at = time.monotonic()

    def sample(self, leaders: Mapping[str, int]) -> dict[str, Sample]:
        """Return a sample of each instance (see `measure`)."""
        now, found = time.monotonic(), measure(self._kin, leaders)
        passed, before = max(now - self._at, 0.001), self._before
        self._before, self._at = found, now
        return {
            name: Sample(max(0.0, usage.cpu - before.get(name, usage).cpu) / passed, usage.memory, usage.stopped)
            for name, usage in found.items()
        }


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

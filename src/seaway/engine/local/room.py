"""How much of this machine all apps may have together, and what of it is left. The rest is Seaway's and the system."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from seaway.model import Limits
from seaway.sandbox.cgroups import Cgroups
from seaway.sandbox.controllers import KINDS

RESERVE, RESERVE_LEAST = 20, 512 << 20  # one part in 20 of the memory, and bytes
TASKS = (Path("/proc/sys/kernel/threads-max"), Path("/proc/sys/kernel/pid_max"))
CANNOT = "Seaway may make no control groups here; it can as root, or as a service of systemd with Delegate=yes"
NO_CONTROLLER = "the control groups that Seaway may make here have no controllers for that"


@dataclass(frozen=True)
class Room:
    """What all apps together may have: `memory` of so many bytes that `reserve` is left, and `pids`."""

    memory: int
    reserve: int
    pids: int

    @property
    def limits(self) -> Limits:
        """The limits of the group that all instances are in."""
        return Limits(memory=self.memory, pids=self.pids)

    def count_left(self, free: int, used: int) -> int:
        """Return the bytes that more instances may have, where the machine has `free` ones and apps use `used`."""
        return max(0, min(free - self.reserve, self.memory - used))


def divide(memory: int, tasks: int) -> Room:
    """Return the apps' part of a machine: all memory but a twentieth (at least 512 MiB, at most half), 3/4 of pids."""
    reserve = min(max(memory // RESERVE, RESERVE_LEAST), memory // 2)
    return Room(memory - reserve, reserve, tasks * 3 // 4)


def find_room(cgroups: Cgroups | None) -> Room:
    """Return the apps' part of this machine, or of what this container or service of systemd may have of it."""
    total = psutil.virtual_memory().total
    ceiling = cgroups.read_ceiling() if cgroups is not None else None
    return divide(min(total, ceiling or total), min(int(path.read_text()) for path in TASKS))


def read_left(room: Room, cgroups: Cgroups | None) -> int:
    """Return the bytes of memory that more instances may have now."""
    memory = cgroups.read_memory() if cgroups is not None else None
    return room.count_left(psutil.virtual_memory().available, memory.used if memory is not None else 0)


def explain_unlimited(cgroups: Cgroups | None) -> str:
    """Return which kinds of limits do not hold and why; "" if all do."""
    lacking = list(KINDS.values()) if cgroups is None else cgroups.list_lacking()
    if not lacking:
        return ""
    return f"{', '.join(lacking)}: {CANNOT if cgroups is None else NO_CONTROLLER}"

"""How full the file system of a home is, and what that means: who gives way before documents have no room."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from seaway.model.base import say_bytes

LOW = 0.90  # of the file system in use: it is told, and what nothing needs is deleted early
TIGHT_SHARE, TIGHT_MOST = 0.05, 2 << 30  # free, the smaller of this share and these bytes: builds and logs give way
FULL_PART = 0.5  # of that free: builds that run give way, too
CALM = 1.2  # what is free has to be more than the limit by this factor until it counts as over
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})  # numbers of errors
NOTHING = 1 << 20  # bytes free that are none


class Level(IntEnum):
    """How things stand. FINE; LOW: it is to be told; TIGHT: builds wait, and old logs go; FULL: no build goes on."""

    FINE = 0
    LOW = 1
    TIGHT = 2
    FULL = 3


@dataclass(frozen=True)
class Disk:
    """A file system as whoever is not root finds it: bytes in all, and free."""

    path: Path
    size: int
    free: int

    @property
    def used(self) -> float:
        """The share that is in use, from 0 to 1."""
        return 1 - self.free / self.size if self.size else 1.0

    def __str__(self) -> str:
        """Say how full it is, as a sentence without an end."""
        if self.free < NOTHING:
            return f"the disk of {self.path} is full"
        return f"the disk of {self.path} is {self.used:.0%} full, {say_bytes(self.free)} are free"


def read_disk(path: Path) -> Disk:
    """Return the file system of a path as it is now. Raises OSError."""
    found = os.statvfs(path)
    used = found.f_blocks - found.f_bfree
    return Disk(path, (used + found.f_bavail) * found.f_frsize, found.f_bavail * found.f_frsize)


def judge(disk: Disk, before: Level = Level.FINE) -> Level:
    """Return the level; one that it had `before` stays until it is well over: nobody hears of each file that goes."""
    tight = min(TIGHT_SHARE * disk.size, TIGHT_MOST)
    limits = {Level.FULL: FULL_PART * tight, Level.TIGHT: tight, Level.LOW: (1 - LOW) * disk.size}
    for level, limit in limits.items():
        if disk.free <= limit * (CALM if before >= level else 1):
            return level
    return Level.FINE

"""Who runs which part: a lock file per part, held by the kernel for as long as the process lives."""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from seaway.home import Home

SUFFIX = ".part"
LOOKING_LIMIT = 5.0  # seconds for all who look to be elsewhere at the same time
NAME_BYTES = 256  # who holds a lock, padded: written over the name before, it needs no room on a full disk


class Held(Exception):
    """Somebody else runs this part; `pid` says who."""

    def __init__(self, part: str, pid: int) -> None:
        super().__init__(f"{part} runs already (pid {pid})")
        self.pid = pid


@dataclass(frozen=True)
class Holder:
    """The process that runs a part. `since`: seconds since the epoch; `beats`: it says that it goes on (pulse.py)."""

    part: str
    pid: int
    since: float
    beats: bool = False


def lock_path(home: Home, part: str) -> Path:
    """Return the lock file of a part."""
    return home.run / f"{part}{SUFFIX}"


def acquire(home: Home, part: str, *, beats: bool = False) -> int:
    """Become the one who runs `part`; return the descriptor to keep open. Raises Held.

    `beats`: it will say that it goes on, from soon on.

    Whoever looks for the holder has the lock for an instant too; that is waited out. Raises OSError, holding nothing.
    """
    fd = os.open(lock_path(home, part), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(fd, home, part)
        content = json.dumps({"pid": os.getpid(), "since": time.time(), "beats": beats})
        os.pwrite(fd, content.ljust(NAME_BYTES).encode(), 0)
        os.ftruncate(fd, NAME_BYTES)
    except (Held, OSError):
        os.close(fd)
        raise
    return fd


def _lock(fd: int, home: Home, part: str) -> None:
    deadline = time.monotonic() + LOOKING_LIMIT
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = find_holder(home, part)
            if holder or time.monotonic() > deadline:
                raise Held(part, holder.pid if holder else 0) from None
            time.sleep(0.001)


def find_holder(home: Home, part: str) -> Holder | None:
    """Return who runs a part now, or None. Raises OSError if that cannot be seen now (no descriptor, a bad disk)."""
    try:
        fd = os.open(lock_path(home, part), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        for _ in range(50):  # the holder writes its name right after it took the lock
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
            except BlockingIOError:
                content = os.pread(fd, 4096, 0)
            try:
                found = json.loads(content)
                with suppress(PermissionError):  # somebody else's process is one, too
                    os.kill(int(found["pid"]), 0)
                return Holder(part, int(found["pid"]), float(found["since"]), bool(found.get("beats", False)))
            except (ValueError, KeyError, ProcessLookupError):  # nothing yet, or the name of the one before
                time.sleep(0.01)
        return None
    finally:
        os.close(fd)

"""Parts of Seaway say every second that they go on, by the time of their lock file: one that hangs is replaced."""

from __future__ import annotations

import asyncio
import os
import time

from seaway.home import Home
from seaway.sandbox.hanging import INTERVAL, Pulse, read_state
from seaway.supervisor.locks import find_holder, lock_path


async def beat(lock: int) -> None:
    """Say for ever that this process goes on; `lock`: the descriptor of its lock file."""
    while True:
        os.utime(lock, ns=(now := time.monotonic_ns(), now))  # needs no room on a full disk
        await asyncio.sleep(INTERVAL)


def look(home: Home, part: str, pid: int, pulse: Pulse) -> str:
    """Look once at the process that runs a part; return why it hangs, or ""."""
    holder = find_holder(home, part)
    last = lock_path(home, part).stat().st_mtime_ns if holder and holder.pid == pid and holder.beats else 0
    return pulse.look(last, read_state(pid))

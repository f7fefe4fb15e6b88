"""Parts of Seaway say every second that they go on, by the time of their lock file: one that hangs is replaced."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress

from seaway.home import Home
from seaway.sandbox.hanging import INTERVAL, Pulse, explain_state, read_state
from seaway.supervisor.locks import Holder, find_holder, lock_path

LATE = 5.0  # seconds without a beat that are worth a word


async def beat(lock: int) -> None:
    """Say for ever that this process goes on; `lock`: the descriptor of its lock file.

    One that has no descriptor left hears nobody any more: it does not go on.
    """
    while True:
        with suppress(OSError):  # a disk that is broken or read-only; whoever looks finds that out
            os.close(os.dup(lock))
            os.utime(lock, ns=(now := time.monotonic_ns(), now))  # needs no room on a full one
        await asyncio.sleep(INTERVAL)


def look(home: Home, part: str, pid: int, pulse: Pulse) -> str:
    """Look once at the process that runs a part; return why it hangs, or ""."""
    return pulse.look(_read_beat(home, part, pid), read_state(pid))


def explain(home: Home, holder: Holder) -> str:
    """Return, from one look, what keeps the process that runs a part from going on, or ""."""
    if fault := explain_state(holder.pid):
        return fault
    said = _read_beat(home, holder.part, holder.pid)
    silence = (time.monotonic_ns() - said) / 1e9 if said else 0.0
    return f"it has not gone on for {silence:.0f} s" if silence > LATE else ""


def _read_beat(home: Home, part: str, pid: int) -> int:
    """Return when it said last that it goes on; 0 if it never does, or cannot write that down now."""
    with suppress(OSError):
        holder = find_holder(home, part)
        if holder is not None and holder.pid == pid and holder.beats:
            os.utime(home.run)
            return lock_path(home, part).stat().st_mtime_ns
    return 0

"""Who goes first where a machine is short of memory or processors: builds and apps before Seaway's own parts."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from seaway.home import Home
from seaway.sandbox.cgroups import Cgroups

OOM = Path("/proc/self/oom_score_adj")  # see proc(5); from -1000 (never killed) to 1000 (killed first)
LEAVING_LIMIT = 2.0  # seconds
FIRST, LAST = "-900", "500"  # the process that writes apps' leaders has the latter, too (process.WRAPPER)


def come_first(home: Home) -> None:
    """Have this process, and all that it starts, give way to nobody, as far as it may."""
    with suppress(OSError):  # only root may
        OOM.write_text(FIRST)
    with suppress(OSError):
        if (cgroups := Cgroups.open(home.root)) is not None:
            cgroups.enter_own()


def come_last(groups: str) -> None:
    """Have this process, and all that it starts, give way, and enter these control groups (`Cgroups.make`). OSError."""
    with suppress(OSError):  # it gives way more than that
        OOM.write_text(LAST)
    for group in groups.split():
        Path(group).write_text("0")


def step_back(home: Home) -> None:
    """Leave no control group of Seaway's own parts: all have ended, or this process is the last.

    A supervisor that a guard has started may just be finding out that it is not wanted; it is waited for.
    """
    if (cgroups := Cgroups.open(home.root)) is not None:
        deadline = time.monotonic() + LEAVING_LIMIT
        while not cgroups.leave_own() and time.monotonic() < deadline:
            time.sleep(0.05)
        cgroups.close()

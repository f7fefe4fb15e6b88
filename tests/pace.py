"""Times of promises on a machine that others use too: the seconds in which nobody let a process run are not its own."""

from __future__ import annotations

import os
import time
from pathlib import Path


class Stopwatch:
    """Measures from its making on, less the time for which the processes concerned waited for a processor.

    Their main threads', as the kernel counts it (/proc/PID/schedstat): nothing on a quiet machine, where `took` is
    just what has passed; beside others that take the processors, about what it would have been without them.
    """

    def __init__(self, *pids: int) -> None:
        """Begin now; `pids`: who works on what is measured, beside this process."""
        self._before = {pid: read_waited(pid) for pid in (os.getpid(), *pids)}
        self._began = time.monotonic()

    def took(self, *new: int) -> float:
        """Return the seconds so far; `new`: processes that were started meanwhile and work on it, too."""
        passed = time.monotonic() - self._began
        pids = {**dict.fromkeys(new, 0.0), **self._before}
        return passed - sum(max(0.0, read_waited(pid) - before) for pid, before in pids.items())


def read_waited(pid: int) -> float:
    """Return for how many seconds a process's main thread was ready and had no processor; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (FileNotFoundError, ProcessLookupError):
        return 0.0

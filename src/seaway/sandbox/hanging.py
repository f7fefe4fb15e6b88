"""Whether a process hangs: it lives and does nothing. Who watches counts looks and no seconds: where a machine stood
still, the watcher did, too.
"""

from __future__ import annotations

from dataclasses import dataclass

from seaway.sandbox.procs import read_stat

INTERVAL = 1.0  # seconds between two looks
STOPPED, SILENT = 3, 15  # looks in a row
STATES = {"T": "it is stopped, by SIGSTOP or a terminal"}


@dataclass
class Pulse:
    """What a watcher has seen of one process."""

    _last: int = 0
    _same: int = 0
    _stopped: int = 0

    def look(self, last: int, state: str) -> str:
        """Return why it hangs, or "". `last` changes as long as it goes on, 0: nobody knows; `state`: as in proc(5)."""
        self._same = self._same + 1 if last and last == self._last else 0
        self._stopped = self._stopped + 1 if state in STATES else 0
        self._last = last
        if self._stopped >= STOPPED:
            return STATES[state]
        return f"it has not gone on for {SILENT * INTERVAL:g} s" if self._same >= SILENT else ""


def read_state(pid: int) -> str:
    """Return the state of a process as in proc(5); "" if it is gone."""
    stat = read_stat(pid)
    return stat.state if stat is not None else ""


def explain_state(pid: int) -> str:
    """Return what keeps a process that lives from working, or ""."""
    return STATES.get(read_state(pid), "")

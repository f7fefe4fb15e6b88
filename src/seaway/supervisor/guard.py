"""Each part watches the supervisor and brings it back: nobody has to be there to repair the repairer."""

from __future__ import annotations

import signal
import threading
import time

import structlog

from seaway.home import Home
from seaway.sandbox.hanging import INTERVAL, Pulse
from seaway.supervisor.locks import find_holder
from seaway.supervisor.processes import send, spawn_orphan, wait_gone
from seaway.supervisor.pulse import look

log = structlog.get_logger()

START_LIMIT = 10.0  # seconds for a new supervisor to take its lock
MARK, READY_MARK = "stopping", "stopping.ready"  # renamed, it needs no room on a full disk


def mark_stopping(home: Home) -> None:
    """Say that the platform is being stopped on purpose."""
    try:
        (home.run / READY_MARK).rename(home.run / MARK)
    except FileNotFoundError:
        (home.run / MARK).touch()


def unmark_stopping(home: Home) -> None:
    """Say that the platform is to run."""
    try:
        (home.run / MARK).rename(home.run / READY_MARK)
    except FileNotFoundError:
        (home.run / READY_MARK).touch()


def is_stopping(home: Home) -> bool:
    """Whether the platform is being stopped on purpose."""
    return (home.run / MARK).exists()


def start_guard(home: Home) -> threading.Thread:
    """Watch the supervisor from a daemon thread of this process."""
    thread = threading.Thread(target=_guard, args=(home,), name="guard", daemon=True)
    thread.start()
    return thread


def _guard(home: Home) -> None:
    guard = _Guard(home)
    while True:
        try:
            if not home.run.exists() or is_stopping(home):
                return
            guard.look()
        except OSError as error:  # no descriptor, no process, a bad disk: not for ever
            log.warning("the supervisor cannot be watched now", error=str(error), again_in=INTERVAL)
            time.sleep(INTERVAL)


class _Guard:
    """What is known of the supervisor that runs."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._watched, self._pulse = 0, Pulse()

    def look(self) -> None:
        """Wait a while for its end, or bring it back."""
        holder = find_holder(self._home, "supervisor")
        if holder is None:
            self._bring_back()
            return
        if holder.pid != self._watched:
            self._watched, self._pulse = holder.pid, Pulse()
        if not wait_gone(holder.pid, INTERVAL) and look(self._home, "supervisor", holder.pid, self._pulse):
            send(holder.pid, signal.SIGKILL)

    def _bring_back(self) -> None:
        home = self._home
        spawn_orphan(home, "supervise")
        deadline = time.monotonic() + START_LIMIT
        while find_holder(home, "supervisor") is None and time.monotonic() < deadline and not is_stopping(home):
            time.sleep(0.05)

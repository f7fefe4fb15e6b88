"""Each part watches the supervisor and brings it back: nobody has to be there to repair the repairer."""

from __future__ import annotations

import signal
import threading
import time

from seaway.home import Home
from seaway.sandbox.hanging import INTERVAL, Pulse
from seaway.supervisor.locks import find_holder
from seaway.supervisor.processes import send, spawn_orphan, wait_gone
from seaway.supervisor.pulse import look

START_LIMIT = 10.0  # seconds for a new supervisor to take its lock


def mark_stopping(home: Home) -> None:
    """Say that the platform is being stopped on purpose."""
    (home.run / "stopping").touch()


def unmark_stopping(home: Home) -> None:
    """Say that the platform is to run."""
    (home.run / "stopping").unlink(missing_ok=True)


def is_stopping(home: Home) -> bool:
    """Whether the platform is being stopped on purpose."""
    return (home.run / "stopping").exists()


def start_guard(home: Home) -> threading.Thread:
    """Watch the supervisor from a daemon thread of this process."""
    thread = threading.Thread(target=_guard, args=(home,), name="guard", daemon=True)
    thread.start()
    return thread


def _guard(home: Home) -> None:
    watched, pulse = 0, Pulse()
    while home.run.exists() and not is_stopping(home):
        holder = find_holder(home, "supervisor")
        if holder is not None:
            if holder.pid != watched:
                watched, pulse = holder.pid, Pulse()
            if not wait_gone(holder.pid, INTERVAL) and look(home, "supervisor", holder.pid, pulse):
                send(holder.pid, signal.SIGKILL)
            continue
        spawn_orphan(home, "supervise")
        deadline = time.monotonic() + START_LIMIT
        while find_holder(home, "supervisor") is None and time.monotonic() < deadline and not is_stopping(home):
            time.sleep(0.05)

"""Processes that are not always our children: start, wait by pidfd, signal, reap."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from seaway.home import Home

PR_SET_CHILD_SUBREAPER = 36
LOG_LIMIT = 10 * 1024 * 1024  # bytes of a part's own log before it is rotated


def list_parts(routers: int) -> tuple[str, ...]:
    """Return the parts below the supervisor, in the order they start."""
    return ("node", "control", *(f"router-{n}" for n in range(routers)))


def command_of(part: str) -> list[str]:
    """Return the command line that runs a part."""
    name, _, number = part.partition("-")
    return [sys.executable, "-m", "seaway", name, *([f"router-{number}"] if number else [])]


def log_path(home: Home, part: str) -> Path:
    """Return where a part's own output goes."""
    return home.logs / "platform" / f"{part}.log"


def spawn(home: Home, part: str) -> int:
    """Start a part in a session of its own, its output appended to its log; return the pid (a child of ours)."""
    process = _start(home, part, command_of(part))
    process.returncode = 0  # it is reaped by pid, not by this object
    return process.pid


def spawn_orphan(home: Home, part: str) -> None:
    """Start a part that is nobody's child (init's, or a subreaper's), so that no zombie of it is left here."""
    _start(home, part, ["/bin/sh", "-c", '"$@" & exit 0', "sh", *command_of(part)]).wait()


def _start(home: Home, part: str, command: list[str]) -> subprocess.Popen[bytes]:
    fd = _open_log(log_path(home, part))
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=fd,
            stderr=fd,
            start_new_session=True,
            cwd=home.root,
            env=os.environ | {"SEAWAY_HOME": str(home.root)},
        )
    finally:
        os.close(fd)


def _open_log(path: Path) -> int:
    """Return a descriptor to append to a log; to nowhere if there is no room for one: a part is worth more."""
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        rotate(path)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def rotate(path: Path) -> None:
    """Move a log that is over the limit aside (the one before it goes); an open writer goes on in the new file.

    Without room for the old lines they go: that makes some.
    """
    aside = path.with_suffix(".log.1")
    try:
        if path.stat().st_size <= LOG_LIMIT:
            return
        try:
            aside.write_bytes(path.read_bytes())
        except OSError:
            aside.unlink(missing_ok=True)
        os.truncate(path, 0)
    except FileNotFoundError:
        return


def open_pidfd(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the process ends; None if there is no such process."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal; return whether there was anybody to get it."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def wait_gone(pid: int, timeout: float) -> bool:
    """Wait until a process ended (a zombie counts as ended); return whether it did within `timeout` seconds."""
    fd = open_pidfd(pid)
    if fd is None:
        return True
    try:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        return bool(poller.poll(timeout * 1000))
    finally:
        os.close(fd)


def become_subreaper() -> None:
    """Have orphans below this process become its children, so that they can be reaped."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def reap() -> dict[int, int]:
    """Reap every child that ended; return exit codes by pid (-N: signal N)."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = os.waitstatus_to_exitcode(status)

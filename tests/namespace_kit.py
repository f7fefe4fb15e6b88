"""Network namespaces for tests in a real kernel; each ends with the process that holds it."""

from __future__ import annotations

import ctypes
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

IDLE = "import signal; print('there', flush=True); signal.pause()"


@contextmanager
def namespace(script: str = IDLE) -> Iterator[subprocess.Popen[str]]:
    """Run a Python script in a network namespace of its own until the block ends; it has to print a line first."""
    words = ["unshare", "--net", "python3", "-c", script]
    with running(words) as process:
        yield process


@contextmanager
def running(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a command that prints a line when it is ready, until the block ends."""
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() != ""
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def enter(pid: int, *words: str) -> list[str]:
    """Return the command that runs another one in a process's network namespace."""
    return ["nsenter", "-t", str(pid), "-n", *words]


def inside(pid: int, *words: str, stdin: str | None = None) -> str:
    """Run a command in a process's network namespace."""
    return subprocess.run(
        enter(pid, *words), input=stdin, check=True, capture_output=True, text=True, timeout=60
    ).stdout


def connect_inside(pid: int, address: tuple[str, int]) -> socket.socket:
    """Return a connection made in a process's network namespace; it stays there, the thread comes back."""
    with open("/proc/thread-self/ns/net") as here, open(f"/proc/{pid}/ns/net") as there:
        _move_to(there.fileno())
        try:
            return socket.create_connection(address, timeout=10)
        finally:
            _move_to(here.fileno())


def _move_to(namespace_file: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace_file, 0) != 0:
        raise OSError(ctypes.get_errno(), "setns")

"""Ports for what tests start: each given once in a while, to one test, by whatever process it runs in.

The kernel's own choice (port 0) is free only until somebody else is given it: a connection from this machine, or
another test between the look and the listening. So these come from below the ephemeral range and below the ports of
instances, and a counter that all processes share goes round. It begins anywhere: another run on this machine, in a root
of its own, has another counter for the same ports.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

FIRST, LAST = 12000, 19999


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on, and that nobody else was given for a long time."""
    with _counter().open("a+", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        port = int(file.read() or random.randrange(FIRST, LAST))
        while not _is_free(port):
            port = _after(port)
        file.truncate(0)
        file.write(str(_after(port)))
    return port


def _counter() -> Path:
    return Path(tempfile.gettempdir()) / f"seaway-tests-ports-{os.getuid()}"


def _after(port: int) -> int:
    return port + 1 if port < LAST else FIRST


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what closed lately listens no more
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True

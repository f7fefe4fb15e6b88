"""What holds for every test."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def no_sockets_left() -> Iterator[None]:
    """Remove the folders of sockets that homes with long paths made, unless somebody still listens there."""
    before = set(list_socket_folders())
    yield
    for folder in set(list_socket_folders()) - before:
        if not any(is_listened_to(path) for path in folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)


def list_socket_folders() -> list[Path]:
    """Return the folders of this user's platforms in /tmp."""
    return list(Path(tempfile.gettempdir()).glob(f"seaway-{os.getuid()}-*"))


def is_listened_to(path: Path) -> bool:
    """Return whether a process still accepts connections at a socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(os.fsencode(path)) == 0


def pytest_configure() -> None:
    """Let Ctrl-C reach what tests start: shells start background jobs (`nohup make test &`) with SIGINT ignored.

    Children inherit that, and a command line that ignores SIGINT as it was told to would hang the tests that send
    one. A handler of Python's own, as here, is the default again in a child.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)

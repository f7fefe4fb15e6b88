"""Somebody who sits at a terminal."""

from __future__ import annotations

import os
import pty
import select
import termios
import time
from collections.abc import Mapping
from contextlib import suppress

import psutil

from tests.e2e.harness import SEAWAY


class Typist:
    """Somebody at a terminal of 30 rows and 100 columns in which a command runs; nothing stays of it."""

    def __init__(self, env: Mapping[str, str], *words: str) -> None:
        self.master, self.slave = pty.openpty()
        self.draw(30, 100)
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""
        ends = [(os.POSIX_SPAWN_OPEN, fd, os.ttyname(self.slave), os.O_RDWR, 0) for fd in range(3)]
        pid = os.posix_spawn(
            SEAWAY, [str(SEAWAY), *words], os.environ | dict(env) | {"TERM": "vt220"}, file_actions=ends, setsid=True
        )
        self.process = psutil.Process(pid)

    def __enter__(self) -> Typist:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(psutil.NoSuchProcess):
            self.process.kill()
        self.process.wait()
        self.close()

    def close(self) -> None:
        """Close the window."""
        for fd in (self.slave, self.master):
            with suppress(OSError):
                os.close(fd)

    def draw(self, rows: int, columns: int) -> None:
        """Draw it in another size; the kernel tells what runs in front."""
        termios.tcsetwinsize(self.master, (rows, columns))

    def type(self, keys: str, *answers: str) -> None:
        """Press keys, and wait for what comes, in turn."""
        os.write(self.master, keys.encode())
        for answer in answers:
            self.read(answer)

    def read(self, text: str) -> None:
        """Read up to a text that comes."""
        deadline = time.monotonic() + 30
        while text.encode() not in self.seen:
            assert time.monotonic() < deadline, (text, self.seen)
            if select.select([self.master], [], [], 1)[0]:
                self.seen += os.read(self.master, 65536)
        self.seen = self.seen.partition(text.encode())[2]

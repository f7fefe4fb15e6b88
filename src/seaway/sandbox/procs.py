"""Processes of this machine, read from /proc and signalled so that no reused pid is hit."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

FILES = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
"""Files that apps and builds may have open: as many as Seaway's part might before it asked for more. Old programs that
use select() would write beyond its end with a descriptor over 1023."""


def raise_file_limit() -> int:
    """Let this process and what it starts have as many files open as may be; return how many.

    A shell's or a service's usual limit is 1,024. Envoy needs two for each request in flight, an agent some five for
    each instance, a control plane one for each connection.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


@dataclass(frozen=True)
class Stat:
    """The fields of /proc/PID/stat used here; times in clock ticks, `resident` in pages.

    `cpu` is what it has used, and what its children did that have ended.
    """

    pid: int
    state: str
    parent: int
    group: int
    session: int
    cpu: int
    birth: int
    resident: int


def read_stat(pid: int) -> Stat | None:
    """Return the process's numbers, or None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    return Stat(
        pid=pid, state=fields[0].decode(), parent=int(fields[1]), group=int(fields[2]), session=int(fields[3]),
        cpu=sum(map(int, fields[11:15])), birth=int(fields[19]), resident=int(fields[21]),
    )  # fmt: skip


def read_user(pid: int) -> int | None:
    """Return the user id that the process runs as, None if it is gone. The owner of /proc/PID may be another."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return next(int(line.split()[2]) for line in lines if line.startswith("Uid:"))


def read_living(pids: Iterable[int]) -> list[Stat]:
    """Return the numbers of those that live (zombies do not)."""
    return [stat for pid in pids if (stat := read_stat(pid)) is not None and stat.state not in "ZX"]


def list_stats() -> list[Stat]:
    """Return the numbers of every live process on this machine."""
    return read_living(int(name) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208 - runs often


def send(number: int, stats: Iterable[Stat]) -> None:
    """Send a signal to each that is still the same process."""
    for stat in stats:
        try:
            fd = os.pidfd_open(stat.pid)
        except ProcessLookupError:
            continue
        try:
            now = read_stat(stat.pid)  # the pidfd pins the process: no reused pid is hit
            if now is not None and now.birth == stat.birth:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fd, number)
        finally:
            os.close(fd)

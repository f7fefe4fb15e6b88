"""Control groups (version 2): one for each instance that runs, so that none of its processes can get away.

Only membership is used, which needs no controller: the version 2 hierarchy of a hybrid system does as well. Source:
Documentation/admin-guide/cgroup-v2.rst of Linux.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from seaway.engine.local.procs import read_living, send

MOUNTS, OWN = Path("/proc/self/mountinfo"), Path("/proc/self/cgroup")
PROCS, EVENTS, KILL = "cgroup.procs", "cgroup.events", "cgroup.kill"
TOP = "seaway"  # below the root, as other engines have theirs: systemd leaves it alone
PROBE = "probe"
ENTER = 'echo 0 >"$0"'  # in a shell: moves itself


class Cgroups:
    """The control groups of one home, below a folder of its own."""

    def __init__(self, base: Path) -> None:
        self.base = base

    @classmethod
    def open(cls, home: Path) -> Cgroups | None:
        """Return those of the home (an existing folder); None if this process may not make any that work."""
        parent = _find_parent()
        if parent is None:
            return None
        stat = home.stat()  # a path alone is another folder in another container
        own = sha256(f"{home} {stat.st_dev} {stat.st_ino}".encode()).hexdigest()[:12]
        found = cls(parent / TOP / own)
        return found if found._works() else None

    def _works(self) -> bool:
        """Try with a process that does nothing: a folder that can be made may still take none."""
        try:
            words = ["/bin/sh", "-c", ENTER, str(self.make(PROBE))]
            return subprocess.run(words, capture_output=True, check=False).returncode == 0
        except OSError:
            return False
        finally:
            self.remove(PROBE)

    def make(self, name: str) -> Path:
        """Make the group if it is not there; return the file to which a process writes "0" to enter it."""
        folder = self.base / name
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        return folder / PROCS

    def create(self) -> Path:
        """Make the folder that holds all groups, if it is not there; return it."""
        self.base.mkdir(mode=0o755, parents=True, exist_ok=True)
        return self.base

    def has(self, name: str) -> bool:
        """Whether the group is there."""
        return (self.base / name).is_dir()

    def list_names(self) -> list[str]:
        """Return the names of all groups that are there."""
        try:
            return [entry.name for entry in self.base.iterdir() if entry.is_dir()]
        except FileNotFoundError:
            return []

    def list_pids(self, name: str) -> list[int]:
        """Return the processes in the group and in those that its members may have made below it."""
        found: list[int] = []
        for folder, _, _ in os.walk(self.base / name):
            with suppress(OSError):
                found += map(int, Path(folder, PROCS).read_text().split())
        return [pid for pid in found if pid]  # 0: of another process namespace

    def is_empty(self, name: str) -> bool:
        """Whether nothing lives in it, or it is not there.

        A list of processes cannot tell: they may fork faster than they are looked at.
        """
        try:
            return "populated 0" in (self.base / name / EVENTS).read_text()
        except FileNotFoundError:
            return True

    def kill(self, name: str) -> None:
        """SIGKILL everything in it at once, forks included."""
        try:
            (self.base / name / KILL).write_text("1")
        except OSError:  # before Linux 5.14: until none is left, as they may fork meanwhile
            send(signal.SIGKILL, read_living(self.list_pids(name)))

    def remove(self, name: str) -> None:
        """Remove a group that is empty; one that is not stays."""
        folders = [folder for folder, _, _ in os.walk(self.base / name)]
        _remove_empty(reversed(folders))

    def close(self) -> None:
        """Leave nothing behind but groups in which something runs."""
        for name in self.list_names():
            self.remove(name)
        _remove_empty([self.base, self.base.parent])


def _remove_empty(folders: Iterable[str | Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            os.rmdir(folder)  # noqa: PTH106 - as os.walk names them


def _find_parent() -> Path | None:
    """Return the folder below which this process may make groups: the root's, or its own if that was given to it."""
    mounts = (line.split(" - ") for line in MOUNTS.read_text().splitlines())
    root = next((Path(left.split()[4]) for left, right in mounts if right.split()[0] == "cgroup2"), None)
    if root is None or os.geteuid() == 0:
        return root
    own = next((line[3:] for line in OWN.read_text().splitlines() if line.startswith("0::")), "/")
    parent = root / own.lstrip("/")
    return parent if os.access(parent, os.W_OK) and os.access(parent / PROCS, os.W_OK) else None

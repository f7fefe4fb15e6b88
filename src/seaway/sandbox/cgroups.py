"""Control groups: one for each instance that runs, so that none of its processes gets away nor takes more than it may.

Membership is that of version 2 and needs no controller; what is limited is what there are controllers for. Source:
Documentation/admin-guide/cgroup-v2.rst of Linux.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from seaway.model import Limits
from seaway.sandbox.controllers import KINDS, MOUNTS, Controller, Memory, open_controllers
from seaway.sandbox.procs import read_living, send

OWN = Path("/proc/self/cgroup")
PROCS, EVENTS, KILL = "cgroup.procs", "cgroup.events", "cgroup.kill"
TOP = "seaway"  # below the root, as other engines have theirs: systemd leaves it alone
PROBE, BUILDS = ".probe", ".builds"  # the dot tells them from those of instances
USUAL, HIGH = 100, 1000  # weights of groups; HIGH: where every process of others counts like a whole group
NO_LIMITS = Limits()
ENTER = 'for group in $0; do echo 0 >"$group" || exit; done'  # in a shell: moves itself


class Cgroups:
    """The control groups of one home, below a folder of its own in each hierarchy."""

    def __init__(self, root: Path, own: str) -> None:
        """`root`: a folder in the hierarchy of version 2, below which there is to be one called `own`."""
        self._root = root
        self.base = root / TOP / own
        self._controllers: list[Controller] = []

    @classmethod
    def open(cls, home: Path) -> Cgroups | None:
        """Return those of the home (an existing folder); None if this process may not make any that work."""
        parent = _find_parent()
        if parent is None:
            return None
        found = cls(parent, find_own(home))
        return found if found._works() else None

    def _works(self) -> bool:
        """Try with a process that does nothing: a folder that can be made may still take none."""
        probe = f"{PROBE}-{secrets.token_hex(4)}"  # parts of Seaway look at the same time
        try:
            self._controllers = open_controllers(self._root, self.create())
            self._weigh()
            words = ["/bin/sh", "-c", ENTER, self.make(probe)]
            return subprocess.run(words, capture_output=True, check=False).returncode == 0
        except OSError:
            return False
        finally:
            self.remove(probe)

    def make(self, name: str, limits: Limits = NO_LIMITS, weight: int = USUAL) -> str:
        """Make the group if it is not there, and limit it; `weight` says how much of the processor others leave it.

        Returns the files to which a process writes "0" to enter it, with spaces in between. OSError.
        """
        folders = [base / name for base in self._bases]
        for folder in folders:
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        for controller in self._controllers:
            controller.limit(controller.base / name, limits, weight)
        return " ".join(str(folder / PROCS) for folder in folders)

    def create(self) -> Path:
        """Make the folder that holds all groups, if it is not there; return it."""
        self.base.mkdir(mode=0o755, parents=True, exist_ok=True)
        return self.base

    def limit_all(self, limits: Limits) -> None:
        """Have all groups together take no more than this. OSError."""
        for controller in self._controllers:
            controller.limit(controller.base, limits)

    def list_lacking(self) -> list[str]:
        """Return what cannot be limited."""
        return [name for kind, name in KINDS.items() if kind not in {each.kind for each in self._controllers}]

    def read_memory(self, name: str = "") -> Memory | None:
        """Return what a group (or all together) has had; None if there is no controller of memory."""
        found = next((each for each in self._controllers if each.kind == "memory"), None)
        return found.read_memory(found.base / name) if found is not None else None

    def read_ceiling(self) -> int | None:
        """Return the least bytes that a group above allows, such as that of a container; None if none does."""
        found = next((each for each in self._controllers if each.kind == "memory"), None)
        return found.read_ceiling() if found is not None else None

    def read_cpu(self, name: str) -> float:
        """Return the processor seconds that a group has used; the kernel counts them without a controller."""
        with suppress(OSError):
            return int((self.base / name / "cpu.stat").read_text().split()[1]) / 1e6
        return 0.0

    def _weigh(self) -> None:
        """Have all of Seaway count like another slice of systemd; where all else is in no group, like ten processes."""
        for controller in self._controllers:
            if controller.kind == "cpu":
                weight = USUAL if controller.is_divided() else HIGH
                controller.limit(controller.base.parent, NO_LIMITS, weight)

    def enter_own(self) -> None:
        """Put this process, and all that it starts, in a group beside that of the apps, with as much weight.

        Root's service of systemd is left as it is: it is a group, and systemd looks for its processes there. OSError.
        """
        if os.geteuid() == 0 and ".service" in OWN.read_text():
            return
        for base in {self.base, *(each.base for each in self._controllers if each.kind == "cpu")}:
            (folder := _own(base)).mkdir(mode=0o755, parents=True, exist_ok=True)
            (folder / PROCS).write_text("0")

    def leave_own(self) -> bool:
        """Put this process back above; remove that group, that of builds, and probes of processes that were killed.

        Return whether nothing else is in it.
        """
        self.remove(BUILDS)
        for probe in self.base.glob(f"{PROBE}-*"):
            self.remove(probe.name)
        for base in self._bases:
            if _own(base).is_dir():
                with suppress(OSError):
                    (base.parent.parent / PROCS).write_text("0")
                _remove_empty([_own(base), base.parent])
        return not any(_own(base).is_dir() for base in self._bases)

    @property
    def _bases(self) -> list[Path]:
        return list(dict.fromkeys([self.base, *(controller.base for controller in self._controllers)]))

    def has(self, name: str) -> bool:
        """Whether the group is there."""
        return (self.base / name).is_dir()

    def list_names(self) -> list[str]:
        """Return the names of all groups of instances that are there."""
        try:
            return [entry.name for entry in self.base.iterdir() if entry.is_dir() and entry.name[0] != "."]
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
        for base in self._bases:
            folders = [folder for folder, _, _ in os.walk(base / name)]
            _remove_empty(reversed(folders))

    def close(self) -> None:
        """Leave nothing behind but groups in which something runs, and that of builds: one may be about to enter it."""
        for name in self.list_names():
            self.remove(name)
        for base in self._bases:
            _remove_empty([base, base.parent])


def find_own(home: Path) -> str:
    """Return what the groups of a home (an existing folder) are called."""
    stat = home.stat()  # a path alone is another folder in another container
    return sha256(f"{home} {stat.st_dev} {stat.st_ino}".encode()).hexdigest()[:12]


def _own(base: Path) -> Path:
    """Return the folder of the group of Seaway's own parts."""
    return base.with_name(f"{base.name}.parts")


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
    parent = root / own.partition(f"/{TOP}/")[0].lstrip("/")
    return parent if os.access(parent, os.W_OK) and os.access(parent / PROCS, os.W_OK) else None

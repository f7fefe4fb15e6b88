"""The control group that holds every process of the lab, so that none is missed and no other is hit."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from tests.kube.lab.errors import LabError
from tests.kube.lab.settings import CGROUP, NODES

MOUNT = Path("/sys/fs/cgroup")


def hierarchies() -> list[Path]:
    """Return the hierarchies of control groups: one of version 2, or each controller's of version 1."""
    if (MOUNT / "cgroup.controllers").exists():
        return [MOUNT]
    found = [Path(line.split()[1]) for line in Path("/proc/mounts").read_text().splitlines() if " cgroup " in line]
    return list(dict.fromkeys(found))


def main_hierarchy() -> Path:
    """Return the hierarchy by which processes are counted and killed."""
    return MOUNT if (MOUNT / "cgroup.controllers").exists() else MOUNT / "pids"


def group(name: str = "") -> Path:
    """Return the lab's group, or one below it, in the main hierarchy."""
    return main_hierarchy() / CGROUP / name


def make_groups() -> None:
    """Make the lab's group everywhere, one for its own processes and one for the pods of each node."""
    for root in hierarchies():
        for name in ("", "lab", *NODES):
            path = root / CGROUP / name
            path.mkdir(exist_ok=True)
            if (path / "cpuset.cpus").exists() and root != MOUNT:
                for part in ("cpuset.cpus", "cpuset.mems"):  # version 1 starts with none, and then takes no process
                    (path / part).write_text((path.parent / part).read_text())
            if root == MOUNT and name == "":
                enable_controllers(path)


def enable_controllers(path: Path) -> None:
    """Hand the controllers of version 2 down to the groups below."""
    controllers = " ".join(f"+{name}" for name in (path / "cgroup.controllers").read_text().split())
    (path / "cgroup.subtree_control").write_text(controllers)


def list_processes() -> list[int]:
    """Return every process of the lab: its own, shims, and whatever runs in pods."""
    found: set[int] = set()
    for path in [group(), *group().rglob("*")] if group().exists() else []:
        if path.is_dir():
            try:
                found.update(int(word) for word in (path / "cgroup.procs").read_text().split())
            except OSError:
                continue  # gone meanwhile
    return sorted(found)


def kill_all(timeout: float = 20) -> None:
    """Kill every process of the lab and wait until the last is gone; raises LabError naming what stays."""
    ends = time.monotonic() + timeout
    killed: set[int] = set()
    while pids := list_processes() or [pid for pid in killed if not ended(pid)]:
        for pid in pids:
            if pid not in killed:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        killed.update(pids)
        if time.monotonic() > ends:
            raise LabError(f"these processes of the lab do not end: {pids}; look at /proc/PID/stack")
        time.sleep(0.05)


def ended(pid: int) -> bool:
    """Return whether a process that was killed is gone to its last thread (the group lets go of it earlier)."""
    try:
        tasks = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:
        return False  # a thread ended while we looked
    return all(text.rpartition(")")[2].split()[0] in "ZX" for text in tasks)


def remove_groups(timeout: float = 10) -> None:
    """Remove the lab's groups from every hierarchy, deepest first; the kernel may need a moment after the kill.

    What a way up that was killed had just started may join a group only now: it is killed as well.
    """
    ends = time.monotonic() + timeout
    while True:
        kill_all()
        left = 0
        for root in hierarchies():
            top = root / CGROUP
            if not top.exists():
                continue
            for path in sorted((p for p in [top, *top.rglob("*")] if p.is_dir()), key=lambda p: -len(p.parts)):
                try:
                    path.rmdir()
                except OSError:
                    left += 1
        if not left:
            return
        if time.monotonic() > ends:
            raise LabError(f"{left} control groups below {CGROUP} cannot be removed")
        time.sleep(0.05)

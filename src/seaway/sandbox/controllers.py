"""Controllers of control groups: what a group may take, and what it uses.

Version 2 of control groups, or 1 where the kernel has given a controller to that. Source:
Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/ of Linux.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from seaway.model import Limits

MOUNTS, INIT = Path("/proc/self/mountinfo"), Path("/proc/1/cgroup")
KINDS = {"memory": "memory", "cpu": "processor time", "pids": "number of processes"}
SUBTREE = "cgroup.subtree_control"
PERIOD = 100_000  # microseconds of cpu.max
STOCK = 1 << 20  # bytes; processors take some memory ahead (MEMCG_CHARGE_BATCH)
USUAL_SHARES = 1024  # of version 1; 100 is what version 2 calls a usual weight
VALUES = {
    ("memory", 2): {"memory.max": "{memory}", "memory.swap.max": "{swap}"},
    ("memory", 1): {"memory.limit_in_bytes": "{memory}", "memory.memsw.limit_in_bytes": "{memory}"},
    ("cpu", 2): {"cpu.max": "{quota} {period}", "cpu.weight": "{weight}"},
    ("cpu", 1): {"cpu.cfs_period_us": "{period}", "cpu.cfs_quota_us": "{quota}", "cpu.shares": "{shares}"},
    ("pids", 2): {"pids.max": "{pids}"},
    ("pids", 1): {"pids.max": "{pids}"},
}


@dataclass(frozen=True)
class Memory:
    """What a group has had: bytes without the files that the kernel can drop at once, and how many were killed.

    `is_own`: its own limit was reached, not that of a group above it or of the machine.
    """

    used: int = 0
    killed: int = 0
    is_own: bool = False


@dataclass(frozen=True)
class Controller:
    """One controller and the folder in its hierarchy that holds the groups of a home."""

    kind: str
    version: int
    base: Path

    def limit(self, group: Path, limits: Limits, weight: int = 100) -> None:
        """Have the group take no more than this. OSError if the kernel refuses."""
        for name, value in list_values(self.kind, self.version, limits, weight).items():
            with suppress(FileNotFoundError):  # no swap
                (group / name).write_text(value)

    def is_divided(self) -> bool:
        """Whether even the first process is in a group: systemd has put all processes into some."""
        lines = [line.split(":", 2) for line in INIT.read_text().splitlines()]
        wanted = "" if self.version == 2 else self.kind
        return any(path != "/" for _, kinds, path in lines if wanted in kinds.split(","))

    def read_ceiling(self) -> int | None:
        """Return the least amount that a group above allows; None if none limits this."""
        found = []
        for folder in self.base.parents:
            with suppress(OSError, ValueError):  # the root has no limit, and "max" is none
                found.append(_read(folder / next(iter(VALUES[self.kind, self.version]))))
        return min(found, default=None)

    def read_memory(self, group: Path) -> Memory:
        """Return what the memory controller knows of a group; nothing if it is gone."""
        with suppress(OSError):
            if self.version == 2:
                events = _read_numbers(group / "memory.events")
                used, files = _read(group / "memory.current"), _read_numbers(group / "memory.stat")["inactive_file"]
                return Memory(max(0, used - files), events["oom_kill"], bool(events["oom"]))
            killed = _read_numbers(group / "memory.oom_control")["oom_kill"]
            most, limit = (_read(group / f"memory.{name}_in_bytes") for name in ("max_usage", "limit"))
            files = _read_numbers(group / "memory.stat")["total_inactive_file"]
            used = max(0, _read(group / "memory.usage_in_bytes") - files)
            return Memory(used, killed, most > limit - STOCK)  # memory.failcnt is not counted by every kernel
        return Memory()


def list_values(kind: str, version: int, limits: Limits, weight: int = 100) -> Mapping[str, str]:
    """Return file -> text of a controller for these limits."""
    none = "max" if version == 2 else "-1"
    quota = none if limits.cpu is None else str(max(1000, round(limits.cpu * PERIOD)))  # the kernel's least
    words = {
        "memory": none if limits.memory is None else str(limits.memory),
        "swap": "max" if limits.memory is None else "0",
        "pids": "max" if limits.pids is None else str(limits.pids),
        "quota": quota,
        "period": str(PERIOD),
        "weight": str(weight),
        "shares": str(USUAL_SHARES * weight // 100),
    }
    return {name: value.format(**words) for name, value in VALUES[kind, version].items()}


def open_controllers(root: Path, base: Path) -> list[Controller]:
    """Return the controllers that hold in groups below `base`, a folder of the version 2 hierarchy below `root`.

    `base` is there, and everything between as well.
    """
    for folder in (root, *reversed([p for p in base.parents if p.is_relative_to(root) and p != root]), base):
        for kind in KINDS if _may_divide(folder) else ():
            with suppress(OSError):  # not there, or not ours to give
                (folder / SUBTREE).write_text(f"+{kind}")
    here = (base / SUBTREE).read_text().split()
    found = {kind: Controller(kind, 2, base) for kind in KINDS if kind in here}
    for kind, mount in _list_old():
        if kind not in found:
            old = mount / base.relative_to(root)
            with suppress(OSError):
                old.mkdir(mode=0o755, parents=True, exist_ok=True)
                found[kind] = Controller(kind, 1, old)
    return list(found.values())


def _may_divide(folder: Path) -> bool:
    """Whether a group of version 2 may give controllers to those below: the root, or one without processes of its own.

    For some controllers the kernel would let the others, too, and then no process into the groups below.
    """
    return not (folder / "cgroup.type").exists() or not (folder / "cgroup.procs").read_text()


def _list_old() -> Iterator[tuple[str, Path]]:
    """Yield the controllers that have a hierarchy of version 1, and where that is mounted."""
    for left, right in (line.split(" - ") for line in MOUNTS.read_text().splitlines()):
        system, _, options = right.split()
        if system == "cgroup":
            yield from ((kind, Path(left.split()[4])) for kind in options.split(",") if kind in KINDS)


def _read(path: Path) -> int:
    return int(path.read_text())


def _read_numbers(path: Path) -> dict[str, int]:
    """Read a file whose lines are a word and a number."""
    return {word: int(number) for word, number in (line.split() for line in path.read_text().splitlines())}

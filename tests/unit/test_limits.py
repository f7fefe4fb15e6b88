"""What instances may take: how it is written, divided, handed to the kernel and told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.builder.base import BuildError
from seaway.builder.manifest import read_app_files
from seaway.engine.local.machine import DISK, PIDS, with_defaults
from seaway.engine.local.reasons import describe_end, describe_kills
from seaway.engine.local.room import divide
from seaway.model import Limits, ReleaseSpec
from seaway.model.base import say_bytes
from seaway.sandbox import controllers
from seaway.sandbox.controllers import Memory, list_values

MIB = 1 << 20


def read(table: str) -> Limits:
    files = read_app_files("web: ./serve", f"[processes.web]\n{table}\n")
    return files.manifest.processes["web"].limits


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ('"512M"', 512 * MIB), ('"512Mi"', 512 * MIB), ('"512 MiB"', 512 * MIB), ('"0.5G"', 512 * MIB),
        ('"2T"', 2 << 40), ("1048576", MIB), ('"1048576"', MIB), ('"1024K"', MIB),
    ],
)  # fmt: skip
def test_amounts_as_people_write_them(text: str, amount: int) -> None:
    """Powers of 1024, as systemd and docker have it."""
    assert read(f"memory = {text}").memory == amount


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('memory = "512MB"', "'512MB' is not an amount of memory or disk: write 512M or 2G (powers of 1024), or bytes"),
        ('memory = "64K"', 'memory: "64K" is out of range: it must be at least 1048576'),
        ('memory = "9999T"', "it must be at most 1125899906842624"),
        ("cpu = 0.001", "cpu: 0.001 is out of range: it must be at least 0.01"),
        ('disk = "64K"', 'disk: "64K" is out of range: it must be at least 1048576'),
        ("pids = 0", "pids: 0 is out of range: it must be at least 1"),
        ("pids = 1.5", "pids: 1.5 is not a whole number"),
    ],
)
def test_wrong_amounts_are_explained(line: str, said: str) -> None:
    """With what would be right."""
    with pytest.raises(BuildError) as caught:
        read(line)
    assert said in str(caught.value)


@pytest.mark.parametrize("line", ['memory = "1G"', "cpu = 1", "pids = 10", 'disk = "1G"'])
def test_a_release_command_has_no_limits_of_its_own(line: str) -> None:
    """It has those of the web process, and says so rather than to ignore them."""
    with pytest.raises(BuildError, match="a release command has the limits of the web process; remove it"):
        read_app_files("web: ./serve\nrelease: ./migrate", f"[processes.release]\n{line}\n")
    manifest = read_app_files("web: ./serve\nrelease: ./migrate", f"[processes.web]\n{line}\n").manifest
    release = ReleaseSpec(app="shop", number=1, processes=manifest.processes)
    assert release.task_limits == manifest.processes["web"].limits
    assert ReleaseSpec(app="shop", number=1).task_limits == Limits()


def test_the_default_is_for_processes_alone() -> None:
    """Forks and files without end are nobody's wish; memory and processors are there to be used."""
    assert with_defaults(Limits()) == Limits(pids=PIDS, disk=DISK)
    own = Limits(memory=MIB, cpu=0.5, pids=3, disk=MIB)
    assert with_defaults(own) == own


@pytest.mark.parametrize(
    ("kind", "version", "values"),
    [
        ("memory", 2, {"memory.max": "1048576", "memory.swap.max": "0"}),
        ("memory", 1, {"memory.limit_in_bytes": "1048576", "memory.memsw.limit_in_bytes": "1048576"}),
        ("cpu", 2, {"cpu.max": "25000 100000", "cpu.weight": "50"}),
        ("cpu", 1, {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "25000", "cpu.shares": "512"}),
        ("pids", 2, {"pids.max": "7"}),
        ("pids", 1, {"pids.max": "7"}),
    ],
)
def test_what_is_written_to_the_kernel(kind: str, version: int, values: dict[str, str]) -> None:
    """A limit of memory is one with swap: a process that swaps takes the disk from everybody."""
    assert list_values(kind, version, Limits(memory=MIB, cpu=0.25, pids=7), 50) == values


@pytest.mark.parametrize(
    ("kind", "version", "values"),
    [
        ("memory", 2, {"memory.max": "max", "memory.swap.max": "max"}),
        ("memory", 1, {"memory.limit_in_bytes": "-1", "memory.memsw.limit_in_bytes": "-1"}),
        ("cpu", 2, {"cpu.max": "max 100000", "cpu.weight": "100"}),
        ("cpu", 1, {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "-1", "cpu.shares": "1024"}),
        ("pids", 2, {"pids.max": "max"}),
        ("pids", 1, {"pids.max": "max"}),
    ],
)
def test_no_limit_is_written_too(kind: str, version: int, values: dict[str, str]) -> None:
    """A group may have had one."""
    assert list_values(kind, version, Limits()) == values


@pytest.mark.parametrize(
    ("version", "line", "is_divided"),
    [
        (2, "0::/init.scope", True), (2, "1:cpu,cpuacct:/\n0::/", False),
        (1, "4:cpu,cpuacct:/\n1:name=systemd:/init.scope\n0::/init.scope", False), (1, "1:cpu:/docker/x\n0::/", True),
    ],
)  # fmt: skip
def test_whether_all_else_is_in_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, line: str, is_divided: bool
) -> None:
    """By the first process, in the hierarchy that counts."""
    (tmp_path / "cgroup").write_text(f"{line}\n")
    monkeypatch.setattr(controllers, "INIT", tmp_path / "cgroup")
    assert controllers.Controller("cpu", version, tmp_path).is_divided() == is_divided


@given(st.integers(64 * MIB, 1 << 42), st.integers(64, 1 << 22), st.integers(0, 1 << 42), st.integers(0, 1 << 42))
def test_apps_have_most_of_a_machine_and_never_all(memory: int, tasks: int, free: int, used: int) -> None:
    """Of the smallest, half; and what is left is never more than there is, nor less than nothing."""
    room = divide(memory, tasks)
    assert memory // 2 <= room.memory < memory
    assert room.memory + room.reserve == memory
    assert room.reserve >= min(512 * MIB, memory // 2)
    assert 0 < room.pids < tasks
    left = room.count_left(free, used)
    assert 0 <= left <= max(0, free - room.reserve)
    assert left + used <= max(room.memory, used)


LOST = "3 processes of it were killed: it used more memory than this machine has for apps"
OWN, ABOVE = Memory(killed=1, is_own=True), Memory(killed=3)


@pytest.mark.parametrize(
    ("code", "memory", "limit", "said"),
    [
        (3, Memory(), MIB, "exited with code 3 after 2.0 s"),
        (-9, OWN, 512 * MIB, "was killed after 2.0 s: it used more memory than its limit of 512 MiB"),
        (-9, ABOVE, 512 * MIB, "was killed after 2.0 s: it used more memory than this machine has for apps"),
        (-9, OWN, None, "was killed after 2.0 s: it used more memory than this machine has for apps"),
        (3, ABOVE, 1, "exited with code 3 after 2.0 s; " + LOST),
    ],
)  # fmt: skip
def test_how_an_end_for_memory_is_told(code: int, memory: Memory, limit: int | None, said: str) -> None:
    """By which limit it was."""
    assert describe_end(code, memory, limit, 2.0) == said


def test_how_a_loss_is_told() -> None:
    """While the rest of the instance runs on."""
    said = "a process of it was killed: it used more memory than its limit of 1.5 GiB"
    assert describe_kills(OWN, 3 << 29) == said


@pytest.mark.parametrize(
    ("amount", "said"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (64 * MIB, "64 MiB"), (5 << 40, "5120 GiB")],
)
def test_bytes_for_people(amount: int, said: str) -> None:
    """No more of them than they read."""
    assert say_bytes(amount) == said

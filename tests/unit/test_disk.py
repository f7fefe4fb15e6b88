"""How full a disk is, who is told, and words that a full one takes."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.control import disk as control_disk
from seaway.control.disk import DiskKeeper
from seaway.disk import CALM, FULL_PART, LOW, TIGHT_MOST, TIGHT_SHARE, Disk, Level, judge, read_disk
from seaway.model import EventSpec
from seaway.own_log import Unfailing
from seaway.store.base import Unavailable

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOME = Path("/home")
GB = 10**9


@pytest.mark.parametrize(
    ("whole", "left", "level"),
    [
        (100 * GB, 11 * GB, Level.FINE),
        (100 * GB, 10 * GB - 1, Level.LOW),
        (100 * GB, TIGHT_MOST + 1, Level.LOW),  # of a large disk, a share would be too much
        (100 * GB, TIGHT_MOST, Level.TIGHT),
        (10 * GB, 500_000_001, Level.LOW),
        (10 * GB, 500_000_000, Level.TIGHT),
        (10 * GB, 250_000_001, Level.TIGHT),
        (10 * GB, 250_000_000, Level.FULL),
        (10 * GB, 0, Level.FULL),
        (0, 0, Level.FULL),  # of no size, as some file systems say
    ],
)
def test_levels(whole: int, left: int, level: Level) -> None:
    """At 90 % it is low; tight at 5 % or 2 GiB free, whichever is less; full at half of that."""
    assert judge(Disk(HOME, whole, left)) is level


@given(st.integers(1, 1 << 50), st.floats(0, 1), st.floats(0, 1))
def test_a_level_stays_while_what_is_free_hardly_changes(size: int, share: float, change: float) -> None:
    """Between a limit and a fifth more it does not go back and forth, however often one looks."""
    free = int(size * share)
    level = judge(Disk(HOME, size, free))
    later = Disk(HOME, size, min(size, int(free * (1 + change * (CALM - 1)))))
    assert judge(later, level) is level
    assert judge(Disk(HOME, size, free), judge(later, level)) is level


@given(st.integers(1, 1 << 50), st.lists(st.floats(0, 1)))
def test_a_level_is_never_better_than_what_is_free(size: int, shares: list[float]) -> None:
    """Whatever it was before; and never worse by more than the margin."""
    level = Level.FINE
    for share in shares:
        disk = Disk(HOME, size, int(size * share))
        level = judge(disk, level)
        assert level >= judge(disk)
        tight = min(TIGHT_SHARE * size, TIGHT_MOST)
        assert (level < Level.FULL) or disk.free <= CALM * FULL_PART * tight
        assert (level < Level.TIGHT) or disk.free <= CALM * tight
        assert (level is Level.FINE) or disk.free <= CALM * (1 - LOW) * size


def test_a_disk_is_read_and_described(tmp_path: Path) -> None:
    """Of a file system that is there, and in words."""
    disk = read_disk(tmp_path)
    assert 0 < disk.free < disk.size
    assert str(Disk(HOME, 100 << 30, 5 << 30)) == "the disk of /home is 95% full, 5 GiB are free"
    assert str(Disk(HOME, 100 << 30, 4096)) == "the disk of /home is full"


class Watched:
    """A keeper of a disk that is as full as the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(control_disk, "INTERVAL", 0)
        self.free, self.looks, self.now = 50 * GB, 0, NOW
        self.broken = False
        self.told: list[EventSpec] = []
        self.prunings: list[datetime] = []
        self.keeper = DiskKeeper(
            HOME, self.tell, lambda: self.prunings.append(self.now), clock=lambda: self.now, read=self.read
        )

    def read(self, path: Path) -> Disk:
        self.looks += 1
        if self.broken:
            raise OSError
        return Disk(path, 100 * GB, self.free)

    async def tell(self, event: EventSpec, team: str) -> None:
        assert not team
        if self.broken:
            raise Unavailable
        self.told.append(event)

    async def looked(self) -> None:
        """Let it look twice more."""
        until = self.looks + 2
        while self.looks < until:
            await asyncio.sleep(0)


async def test_each_level_is_told_once_and_things_are_pruned_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Again every minute while it lasts; what cannot be told or read now is later."""
    watched = Watched(monkeypatch)
    running = asyncio.create_task(watched.keeper.run())
    try:
        await watched.looked()
        assert (watched.told, watched.prunings) == ([], [])
        watched.free = 9 * GB
        await watched.looked()
        await watched.looked()
        assert [(e.about, e.reason) for e in watched.told] == [("disk", "DiskLow")]
        assert watched.told[0].message.startswith("the disk of /home is 91% full")
        assert watched.prunings == [NOW]
        watched.now += timedelta(seconds=60)
        await watched.looked()
        assert watched.prunings == [NOW, watched.now]
        watched.free, watched.broken = 2 * GB, True
        await watched.looked()
        watched.broken = False
        await watched.looked()
        assert [e.reason for e in watched.told] == ["DiskLow", "DiskAlmostFull"]
        watched.free = 50 * GB
        await watched.looked()
        assert [e.reason for e in watched.told] == ["DiskLow", "DiskAlmostFull", "DiskHasRoom"]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def test_words_that_nobody_takes_are_lost(tmp_path: Path) -> None:
    """And nothing but them: a line that could be written is whole."""
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    stream = Unfailing(fd)
    print("first", file=stream, flush=True)
    full = Unfailing(os.open("/dev/full", os.O_WRONLY))
    print("lost", file=full, flush=True)
    print("half a surrogate: \ud800", file=stream)
    assert path.read_text() == "first\nhalf a surrogate: \\ud800\n"

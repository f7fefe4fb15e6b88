"""What files take on disk: added up piece by piece, whatever their owner does to them meanwhile."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path

LEAST = 4096
"""Bytes that each name counts at least: files that hold nothing take inodes, of which a disk has only so many."""

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
BLOCK = 512  # bytes of st_blocks, whatever the file system's are
STEP = 1000  # names, some milliseconds
LARGE = 1 << 20  # bytes; files that take as much are remembered: they may be moved to where they would count again

Key = tuple[int, int]
_Pieces = Generator[os.stat_result | None, None, None]
"""Files that count; None: one that does not, or has vanished. Each is a piece of work."""


class Footprint:
    """One measurement of folders and of what was deleted there and is still open. Close it.

    It ends as soon as there are more than `most` bytes, so no tree is endless: each of its names counts. `total`: the
    bytes so far, as allocated (holes take none); a file with several names, or open several times, takes its blocks
    once. Links are not followed. Nothing that happens to the files is an error.
    """

    def __init__(
        self, folders: Iterable[Path], most: float, holders: Callable[[], Iterable[int]] = tuple, device: int = 0
    ) -> None:
        """`holders` returns the pids of processes that may have deleted files of the file system `device` open."""
        self.most = most
        self.total = 0
        self._seen: set[Key] = set()
        self._rest = _list_all(folders, holders, device)

    def go_on(self, count: int = STEP) -> bool:
        """Look at so many more names; return whether it is done. Blocks for a moment."""
        passed = 0
        for found in islice(self._rest, count):
            passed += 1
            self.total += self._weigh(found) if found is not None else 0
            if self.is_over:
                return True
        return passed < count

    def finish(self) -> int:
        """Look at all names; return the total. Blocks."""
        while not self.go_on():
            pass
        return self.total

    def close(self) -> None:
        """Let go of the folder that it looks at."""
        self._rest.close()

    @property
    def is_over(self) -> bool:
        """Whether there are more bytes than there may be."""
        return self.total > self.most

    def _weigh(self, found: os.stat_result) -> int:
        taken, key = found.st_blocks * BLOCK, (found.st_dev, found.st_ino)
        if not stat.S_ISDIR(found.st_mode):
            if key in self._seen:
                return LEAST if found.st_nlink else 0
            if found.st_nlink != 1 or taken >= LARGE:
                self._seen.add(key)
        return max(taken, LEAST)


def _list_all(folders: Iterable[Path], holders: Callable[[], Iterable[int]], device: int) -> _Pieces:
    for pid in holders():  # first: what is deleted after it was counted by its name would count twice
        yield from _list_deleted(pid, device)
    for folder in folders:
        yield from _walk(folder)


def _list_deleted(pid: int, device: int) -> _Pieces:
    """Yield the files without a name that a process has open: what is deleted takes its room until it is closed."""
    with suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            found = None
            with suppress(OSError):
                found = entry.stat()
            if found is not None and (found.st_nlink or not stat.S_ISREG(found.st_mode) or found.st_dev != device):
                found = None
            yield found


def _walk(top: Path) -> _Pieces:
    """Yield a folder and all below it."""
    try:
        way = _Way(top)
    except OSError:
        yield None
        return
    try:
        yield os.fstat(way.here)
        while way.levels:
            level = way.levels[-1]
            yield from level.list_files(way.here)
            if level.folders:
                way.go_down(level.folders.pop())
            else:
                way.go_up()
    finally:
        way.close()


class _Way:
    """The way from the topmost folder to the one that is looked at.

    A tree may be deeper than a path can be long, or than there are descriptors: it is entered step by step, and left
    by "..". Where that leads elsewhere, as a folder was moved meanwhile, the way is gone again from the top.
    """

    def __init__(self, top: Path) -> None:
        self.here = os.open(top, FOLDER)
        self._top = os.dup(self.here)
        self.levels = [_Level("", _key(self.here))]

    def close(self) -> None:
        os.close(self.here)
        os.close(self._top)

    def go_down(self, name: str) -> None:
        """Enter a folder, if it is one still."""
        with suppress(OSError):
            self._move(os.open(name, FOLDER, dir_fd=self.here))
            self.levels.append(_Level(name, _key(self.here)))

    def go_up(self) -> None:
        """Leave a folder; what is not to be found any more of the way to it is left as well."""
        self.levels.pop()
        if not self.levels:
            return
        with suppress(OSError):
            self._move(os.open("..", FOLDER, dir_fd=self.here))
        if _key(self.here) != self.levels[-1].key:
            self._begin_again()

    def _begin_again(self) -> None:
        self._move(os.dup(self._top))
        for depth, level in enumerate(self.levels[1:], 1):
            with suppress(OSError):
                there = os.open(level.name, FOLDER, dir_fd=self.here)
                if _key(there) == level.key:
                    self._move(there)
                    continue
                os.close(there)
            del self.levels[depth:]
            return

    def _move(self, there: int) -> None:
        os.close(self.here)
        self.here = there


class _Level:
    """A folder on the way, and the names of folders in it that are to be entered yet."""

    def __init__(self, name: str, key: Key) -> None:
        self.name = name
        self.key = key
        self.folders: list[str] | None = None

    def list_files(self, here: int) -> _Pieces:
        """Yield all that is in it, once."""
        if self.folders is not None:
            return
        self.folders = []
        with suppress(OSError), os.scandir(here) as entries:
            for entry in entries:
                found = None
                with suppress(OSError):
                    found = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(found.st_mode):
                        self.folders.append(entry.name)
                yield found


def _key(fd: int) -> Key:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino

"""User ids of this machine for the apps of one home: each has one of its own, the same for as long as there is the app.

The ids lie where neither people, system services nor the containers of others have theirs: in the range that systemd's
UIDS-GIDS.md calls unused. Inside a container that has only the first 65,536 ids it is the small range unused there.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seaway.model import Frozen

FIRST, LAST, BLOCK = 1879048192, 2147483647, 4096  # a home takes one block at random: one of 65,536
FIRST_SMALL, BLOCK_SMALL = 60578, 606
MAP = Path("/proc/self/uid_map")


class Given(Frozen):
    """What is on disk: the home's block, and who has which of its ids. Those let go come last again."""

    first: int
    count: int
    latest: int = -1
    ids: dict[str, int] = {}

    def give(self, name: str) -> Given:
        """Return it with an id for the name. ValueError if all are taken."""
        taken = set(self.ids.values())
        turns = (self.first + (self.latest + 1 + turn) % self.count for turn in range(self.count))
        free = next((number for number in turns if number not in taken), None)
        if free is None:
            raise ValueError(f"all {self.count} user ids of this machine's apps are taken: destroy an app first")
        return self.model_copy(update={"latest": free - self.first, "ids": {**self.ids, name: free}})


class Users:
    """The user ids of a home, in a file that several processes may change."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def take(self, name: str) -> int:
        """Return the id of a name, a new one if it has none. ValueError if none is free, OSError."""
        with self._locked() as given:
            if name not in given.ids:
                self._write(more := given.give(name))
                return more.ids[name]
            return given.ids[name]

    def list_names(self) -> list[str]:
        """Return who has an id."""
        with self._locked() as given:
            return list(given.ids)

    def drop(self, name: str) -> None:
        """Let go of the name's id: nothing of it is left."""
        with self._locked() as given:
            if name in given.ids:
                left = {each: number for each, number in given.ids.items() if each != name}
                self._write(given.model_copy(update={"ids": left}))

    def _write(self, given: Given) -> None:
        temporary = self._path.with_name(f".{self._path.name}.new")
        temporary.write_text(given.model_dump_json())
        temporary.replace(self._path)

    @contextmanager
    def _locked(self) -> Iterator[Given]:
        lock = os.open(self._path.with_name(f".{self._path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield Given.model_validate_json(self._path.read_bytes()) if self._path.exists() else choose_block()
        finally:
            os.close(lock)


def choose_block(mapped: str | None = None) -> Given:
    """Return a block of ids that this process can take on. OSError if there is none; `mapped`: see uid_map(5)."""
    lines = [tuple(map(int, line.split())) for line in (mapped or MAP.read_text()).splitlines()]

    def has(first: int, last: int) -> bool:
        return any(start <= first and last < start + length for start, _, length in lines)

    if has(FIRST, LAST):
        blocks = (LAST + 1 - FIRST) // BLOCK
        return Given(first=FIRST + secrets.randbelow(blocks) * BLOCK, count=BLOCK)
    if has(FIRST_SMALL, FIRST_SMALL + BLOCK_SMALL - 1):
        return Given(first=FIRST_SMALL, count=BLOCK_SMALL)
    raise OSError("this container has no user ids for apps")


def give_away(folder: Path, user: int) -> None:
    """Hand a folder and all in it to a user id and the group of its number, while nobody else can write there."""
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.lchown(os.path.join(parent, name), user, user)  # noqa: PTH118 - as os.walk names them
    os.lchown(folder, user, user)

"""What a command left in its own copy of the app: files that are gone with it, which its author may not know."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from seaway.engine.local.files import CACHE
from seaway.model.quoting import quote_text

NAMED = 3  # files that are named
LOOKED_AT = 20_000  # names at most; what is behind them is not told
NAME = 80  # characters of a name


def find_written(own: Path, image: Path) -> tuple[str, ...]:
    """Return the first files, by name, in `own` that are not in `image` or not as they are there. Blocks.

    Links (some lead to mounts) and Python's caches do not count. Nothing that is found there is an error.
    No process may write there meanwhile.
    """
    found = (name for name, entry in islice(_list(str(own)), LOOKED_AT) if _is_written(entry, image / name))
    return tuple(quote_text(name, NAME) for name in sorted(found)[:NAMED])


def _list(top: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield each name below a folder, with the path from there; links are not followed."""
    folders = [(top, "")]
    while folders:
        folder, inside = folders.pop()
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                yield f"{inside}{entry.name}", entry
                if entry.is_dir(follow_symlinks=False) and entry.name != CACHE:
                    folders.append((entry.path, f"{inside}{entry.name}/"))


def _is_written(entry: os.DirEntry[str], original: Path) -> bool:
    """Whether it is a file, and not the copy that was made of the original, which has its size and time (files.py)."""
    if entry.is_symlink() or entry.is_dir(follow_symlinks=False):
        return False
    try:
        own, there = entry.stat(follow_symlinks=False), original.lstat()
    except OSError:
        return True
    return (own.st_mtime_ns, own.st_size) != (there.st_mtime_ns, there.st_size)

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
    found = (name for name, info in islice(_list_files(str(own), ""), LOOKED_AT) if _is_written(info, image / name))
    return tuple(quote_text(name, NAME) for name in sorted(found)[:NAMED])


def _list_files(folder: str, inside: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the path below the topmost folder of each file, and what it is; not of links, which are not followed."""
    folders = [(folder, inside)]
    while folders:
        folder, inside = folders.pop()
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name != CACHE:
                        folders.append((entry.path, f"{inside}{entry.name}/"))
                elif not entry.is_symlink():
                    yield f"{inside}{entry.name}", entry.stat(follow_symlinks=False)


def _is_written(own: os.stat_result, original: Path) -> bool:
    """Whether a file is not the copy that was made of the original, which has its size and time (files.py)."""
    try:
        there = original.lstat()
    except OSError:
        return True
    return (own.st_mtime_ns, own.st_size) != (there.st_mtime_ns, there.st_size)

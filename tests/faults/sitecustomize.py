"""Has each Python process of a platform fail at whatever it would make or change below its home, while it is told to.

Python imports this at its start, as PYTHONPATH leads here. SEAWAY_TEST_FAULTS is where a link may be; it leads to the
name of an error, as "EIO".
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

TOLD, HOME = os.environ.get("SEAWAY_TEST_FAULTS", ""), os.environ.get("SEAWAY_HOME", "")
CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
OTHERS = ("os.mkdir", "os.rename", "os.link", "os.symlink", "os.truncate", "os.utime")


def find_fault() -> int:
    """Return the number of the error that is wanted now, or 0."""
    try:
        return int(getattr(errno, os.readlink(TOLD)))
    except OSError:
        return 0


def fail(event: str, args: tuple[Any, ...]) -> None:
    """Raise the error instead of what is about to be done."""
    if event not in OTHERS and not (event == "open" and args[2] & CHANGES):
        return
    path = args[0]
    if isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(HOME) and (fault := find_fault()):
        raise OSError(fault, os.strerror(fault), os.fsdecode(path))


if TOLD and HOME:
    sys.addaudithook(fail)

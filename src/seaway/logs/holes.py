"""Freeing the consumed front of a file that somebody still appends to."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

PUNCH_HOLE_KEEP_SIZE = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
BLOCK = 4096

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def free_front(path: Path, end: int) -> bool:
    """Give the disk blocks of the first `end` bytes back, size and offsets unchanged; False if it cannot be done here.

    Where the file system cannot punch holes the file stays whole until its instance is gone.
    """
    length = end - end % BLOCK
    if length <= 0:
        return True
    try:
        fd = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        if _fallocate(fd, PUNCH_HOLE_KEEP_SIZE, 0, length) == 0:
            return True
        code = ctypes.get_errno()
        if code in (errno.EOPNOTSUPP, errno.ENOSYS):
            return False
        raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(fd)


def find_data(path: Path, offset: int) -> int:
    """Return the first position at or behind `offset` that is not a hole."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.EINVAL):  # nothing but a hole there, or no such seek on this file system
            return offset
        raise
    finally:
        os.close(fd)

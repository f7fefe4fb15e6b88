"""Small file systems that can be filled (root), and how much disk files take while others write and remove them."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path

import pytest

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount, and run commands as other users")
FILLER = "filler"


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Have a file system of its own at an existing folder, of a size as mount(8) takes it ("64k"); yield the folder."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "seaway-test", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)  # a test that failed may have files open there


def fill(folder: Path) -> Path:
    """Take all that is free of a folder's file system, to the last byte; return the file that has it."""
    path = folder / FILLER
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass
    return path


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Keep a folder's file system full: what others free is taken at once."""
    done = threading.Event()

    def work() -> None:
        while not done.wait(0.02):
            fill(folder)

    fill(folder)
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        (folder / FILLER).unlink()


def measure_files(root: Path, pattern: str) -> dict[Path, int]:
    """Return bytes of disk (holes take none) by file below `root` whose name fits; what vanishes is left out."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            if fnmatch(name, pattern):
                with suppress(FileNotFoundError):
                    found[Path(folder, name)] = Path(folder, name).lstat().st_blocks * 512
    return found

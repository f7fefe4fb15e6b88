"""Writes rendered files, each at once and with its mode from the first byte on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from seaway.cluster.machine import File


def write_file(path: Path, text: str, mode: int) -> None:
    """Put `text` at `path`; nobody ever sees half of it, or sees a secret with a wider mode."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # made 0600
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_files(folder: Path, files: Iterable[File]) -> int:
    """Write every file below `folder`, machines/NAME/ for a machine's; return how many."""
    count = 0
    for file in files:
        base = folder / "machines" / file.machine if file.machine else folder
        write_file(base / file.path.lstrip("/"), file.text, file.mode)
        count += 1
    return count

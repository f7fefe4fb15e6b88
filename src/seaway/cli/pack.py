"""A folder as an archive to upload: everything but what .gitignore and .seawayignore name."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from seaway.builder.base import BuildError
from seaway.builder.source import pack
from seaway.cli.errors import CliError


@dataclass(frozen=True)
class Archive:
    """A packed folder: the file, how many files it holds, and what was left out and why."""

    file: Path
    files: int
    skipped: tuple[str, ...]


@contextmanager
def pack_folder(folder: Path) -> Iterator[Archive]:
    """Give the folder as a gzip-compressed tar file that exists as long as the block."""
    with tempfile.TemporaryDirectory(prefix="seaway-pack-") as scratch:
        target = Path(scratch) / "source.tar.gz"
        try:
            packed = pack(folder, target)
        except BuildError as error:
            raise CliError(str(error), code="cannot-pack") from error
        except OSError as error:
            raise CliError(f"{error.filename or folder}: {error.strerror}", code="cannot-pack") from error
        yield Archive(target, packed.files, packed.skipped)

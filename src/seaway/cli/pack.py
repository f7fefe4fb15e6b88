"""A folder as an archive to upload: everything but what .gitignore and .seawayignore name."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from seaway.builder.base import BuildError
from seaway.builder.source import LARGEST_ARCHIVE, SEAWAY_IGNORE, Packed, pack
from seaway.cli.errors import CliError
from seaway.cli.show import size
from seaway.model.base import say_bytes

LARGEST_SHOWN = 3  # files and folders at the top of a source that is too large


@dataclass(frozen=True)
class Archive:
    """A packed folder: the file, how many files it holds, and what was left out and why."""

    file: Path
    files: int
    skipped: tuple[str, ...]


@contextmanager
def pack_folder(folder: Path) -> Iterator[Archive]:
    """Give the folder as a gzip-compressed tar file that exists as long as the block.

    Raises CliError if it cannot be packed, or is larger than the platform takes.
    """
    with tempfile.TemporaryDirectory(prefix="seaway-pack-") as scratch:
        target = Path(scratch) / "source.tar.gz"
        try:
            packed = pack(folder, target)
        except BuildError as error:
            raise CliError(str(error), code="cannot-pack") from error
        except OSError as error:
            raise CliError(f"{error.filename or folder}: {error.strerror}", code="cannot-pack") from error
        _check_size(packed)
        yield Archive(target, packed.files, packed.skipped)


def _check_size(packed: Packed) -> None:
    """Refuse an archive that the API would refuse once it has been sent."""
    if packed.size <= LARGEST_ARCHIVE:
        return
    largest = ", ".join(f"{name} ({size(count)})" for name, count in packed.tops[:LARGEST_SHOWN])
    raise CliError(
        f"the packed folder has {size(packed.size)}, and at most {say_bytes(LARGEST_ARCHIVE)} are taken; "
        "nothing was uploaded",
        hint=f"list what the app does not need in {SEAWAY_IGNORE}; before packing, the largest are: {largest}",
        code="too-large",
    )

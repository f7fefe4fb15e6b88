"""A folder as an archive to upload: everything but what .gitignore and .seawayignore name."""

from __future__ import annotations

import gzip
import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pathspec

from seaway.cli.errors import CliError
from seaway.cli.target import LINK_FILE

ALWAYS_IGNORED = (
    ".git/",
    ".hg/",
    ".svn/",
    f"/{LINK_FILE}",
    "__pycache__/",
    "*.pyc",
    ".venv/",
    "node_modules/",
    ".DS_Store",
)


@contextmanager
def pack_folder(folder: Path) -> Iterator[Path]:
    """Give the folder as a gzip-compressed tar file that exists as long as the block."""
    with tempfile.TemporaryDirectory(prefix="seaway-pack-") as scratch:
        archive = Path(scratch) / "source.tar.gz"
        try:
            _write(folder, archive)
        except OSError as error:
            raise CliError(
                f"{error.filename or folder} cannot be read: {error.strerror}",
                hint="make it readable, or name it in .seawayignore",
            ) from error
        yield archive


def _write(folder: Path, archive: Path) -> None:
    lines = list(ALWAYS_IGNORED)
    for name in (".gitignore", ".seawayignore"):
        file = folder / name
        if file.is_file():
            lines += file.read_text(errors="replace").splitlines()
    ignored = pathspec.GitIgnoreSpec.from_lines(lines)
    with (
        archive.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in sorted(_walk(folder, ignored)):
            tar.add(path, arcname=path.relative_to(folder).as_posix(), recursive=False, filter=_normalise)


def _walk(folder: Path, ignored: pathspec.GitIgnoreSpec) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        here = Path(root)
        folders[:] = [d for d in folders if not ignored.match_file(f"{(here / d).relative_to(folder).as_posix()}/")]
        links = [d for d in folders if (here / d).is_symlink()]
        for name in [*files, *links]:
            path = here / name
            if not ignored.match_file(path.relative_to(folder).as_posix()) and (path.is_file() or path.is_symlink()):
                yield path


def _normalise(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """The same source gives the same bytes: no times, no owners, only the executable bit of the mode."""
    entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = 0, 0, 0, "", ""
    entry.mode = 0o755 if entry.mode & 0o100 else 0o644
    return entry

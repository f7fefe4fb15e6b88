"""Unpacking archives that somebody else made: nothing may land outside the folder, or be too much."""

from __future__ import annotations

import gzip
import lzma
import os
import tarfile
import zlib
from pathlib import Path

from seaway.builder.base import BuildError
from seaway.builder.source import DEFAULT_LIMITS, Limits, check_link

CHUNK = 1024 * 1024


def unpack_archive(archive: Path, target: Path, limits: Limits = DEFAULT_LIMITS) -> None:
    """Unpack a tar (plain, gzip, bzip2 or xz) into the existing empty folder `target`.

    Refuses, with BuildError: absolute names and .., links out of the tree, devices and pipes, a path that goes
    through a link, an archive over its limits, and one that is broken. Only names, contents and the execute bit
    are taken over.
    """
    links: list[tuple[str, str]] = []
    try:
        with tarfile.open(archive, mode="r:*") as opened:
            _unpack_members(opened, target, limits, links)
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        raise BuildError(f"the source archive is broken: {error}: pack and send it again") from None
    _make_links(target, links)


def _unpack_members(opened: tarfile.TarFile, target: Path, limits: Limits, links: list[tuple[str, str]]) -> None:
    total = 0
    for count, member in enumerate(opened, 1):
        if count > limits.entries:
            raise BuildError(f"the source archive has more than {limits.entries} entries")
        name = clean_name(member.name)
        total += max(member.size, 0)
        if total > limits.bytes:
            raise BuildError(f"the source archive unpacks to more than {limits.bytes // 1024**2} MiB")
        if not name:
            continue
        if member.issym():
            check_link(name, member.linkname)
            links.append((name, member.linkname))
        elif member.isdir():
            make_folder(target / name, name)
        elif member.isreg():
            write_member(opened, member, target / name, name)
        elif member.islnk():
            _copy_hard_link(target, name, member.linkname)
        else:
            raise BuildError(f"the source archive holds {name!r}, which is no file, folder or link")


def clean_name(name: str) -> str:
    """Return the relative path without . parts; refuse absolute names, .. and NUL."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise BuildError(f"the source archive holds {name!r}, which leads out of the app's folder")
    return "/".join(part for part in parts if part not in {"", "."})


def make_folder(path: Path, name: str) -> None:
    """Make a folder and its parents; an entry that is a file already is an error."""
    try:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise BuildError(f"the source archive holds {name!r} both as file and as folder") from None


def write_member(opened: tarfile.TarFile, member: tarfile.TarInfo, path: Path, name: str) -> None:
    """Write one file; a later entry of the same name replaces an earlier one."""
    make_folder(path.parent, name)
    source = opened.extractfile(member)
    if source is None or path.is_dir():
        raise BuildError(f"the source archive holds {name!r} both as file and as folder")
    path.unlink(missing_ok=True)
    mode = 0o755 if member.mode & 0o100 else 0o644
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with source, os.fdopen(handle, "wb") as file:
        while chunk := source.read(CHUNK):
            file.write(chunk)


def _copy_hard_link(target: Path, name: str, linked: str) -> None:
    original = target / clean_name(linked)
    if not original.is_file():
        raise BuildError(f"the source archive holds {name!r}, a hard link to {linked!r}, which is not before it")
    path = target / name
    make_folder(path.parent, name)
    content, mode = original.read_bytes(), original.stat().st_mode & 0o777
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def _make_links(target: Path, links: list[tuple[str, str]]) -> None:
    """Make symbolic links last, so that no entry is written through one; then check where each really leads."""
    for name, linked in links:
        path = target / name
        make_folder(path.parent, name)
        if path.is_dir() and not path.is_symlink():
            raise BuildError(f"the source archive holds {name!r} both as link and as folder")
        path.unlink(missing_ok=True)
        path.symlink_to(linked)
    top = os.path.realpath(target)
    for name, linked in links:
        real = os.path.realpath(target / name)
        if real != top and not real.startswith(top + os.sep):
            raise BuildError(f"{name}: links to {linked}, outside the app's folder: put the file itself there")

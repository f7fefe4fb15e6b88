"""Looking into a base image's layers for what its configuration does not tell: interpreters, libc, a shell."""

from __future__ import annotations

import posixpath
import re
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from seaway.builder.base import BuildError
from seaway.builder.base_image import ANOTHER, BaseFacts

FOLDERS = ("usr/local/bin", "usr/bin", "bin", "opt/python/bin")
WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"
LINKS = 16  # followed at most

_PYTHON = re.compile(r"python(3\.\d+)")
_GLIBC = re.compile(rb"GNU C Library [^\n]*?version (\d+)\.(\d+)")
_LIBC = re.compile(r"(?:usr/)?lib(?:64)?/(?:[\w-]+/)?libc(?:\.so\.6|-2\.\d+\.so)")
_MUSL = re.compile(r"(?:usr/)?lib/ld-musl-[\w]+\.so\.1")
_INTERESTING = re.compile(
    rf"(?:{'|'.join(FOLDERS)})/(?:python3?|python3\.\d+|sh|dash|bash|busybox|env|coreutils)|{_LIBC.pattern}|{_MUSL.pattern}"
)


@dataclass
class _Tree:
    """The files that matter: path to link target, or None for a file; and folders that are links (bin, lib)."""

    files: dict[str, str | None] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)
    glibc: tuple[int, ...] = ()

    def drop(self, prefix: str) -> None:
        for path in [p for p in self.files if p == prefix or p.startswith(prefix + "/")]:
            del self.files[path]
        self.folders.pop(prefix, None)

    def find(self, path: str) -> str | None:
        """Return where the path leads to in the end; None if nowhere."""
        for _ in range(LINKS):
            path = self._real(path)
            if path not in self.files:
                return None
            link = self.files[path]
            if link is None:
                return path
            path = posixpath.normpath(posixpath.join("/" + posixpath.dirname(path), link)).lstrip("/")
        return None

    def _real(self, path: str) -> str:
        head, slash, rest = path.partition("/")
        target = self.folders.get(head)
        return posixpath.normpath(f"{target.lstrip('/')}/{rest}") if slash and target else path


def probe_layers(name: str, digest: str, layers: Iterable[Path]) -> BaseFacts:
    """Look into the layers' files, lowest first. Raises BuildError."""
    tree = _Tree()
    for layer in layers:
        _read_layer(layer, tree, name)
    pythons: dict[str, str] = {}
    for folder in FOLDERS:
        for path in sorted(p for p in tree.files if posixpath.dirname(p) == folder):
            match = _PYTHON.fullmatch(posixpath.basename(path))
            if match and tree.find(path):
                pythons.setdefault(match[1], "/" + path)
    return BaseFacts(
        name=name,
        digest=digest,
        pythons=pythons,
        default=_find_default(tree, pythons),
        libc="musl" if any(_MUSL.fullmatch(p) for p in tree.files) else "glibc" if _has_glibc(tree) else "",
        glibc=tree.glibc,
        has_shell=tree.find("bin/sh") is not None,
        has_env=tree.find("usr/bin/env") is not None,
    )


def _has_glibc(tree: _Tree) -> bool:
    return any(_LIBC.fullmatch(path) for path in tree.files)


def _find_default(tree: _Tree, pythons: dict[str, str]) -> str | None:
    for folder in FOLDERS:
        found = tree.find(f"{folder}/python3")
        match = _PYTHON.fullmatch(posixpath.basename(found)) if found else None
        if match and match[1] in pythons:
            return match[1]
    return max(pythons, key=lambda version: int(version.partition(".")[2]), default=None)


def _read_layer(blob: Path, tree: _Tree, name: str) -> None:
    try:
        with tarfile.open(blob, mode="r:*") as opened:
            for member in opened:
                _read_member(opened, member, tree)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise BuildError(
            f"the base image {name} has a layer that cannot be looked into ({error}): build it with gzip, or {ANOTHER}"
        ) from None


def _read_member(opened: tarfile.TarFile, member: tarfile.TarInfo, tree: _Tree) -> None:
    path = posixpath.normpath(member.name).lstrip("/")
    folder, last = posixpath.split(path)
    if last == OPAQUE:
        tree.drop(folder)
    elif last.startswith(WHITEOUT):
        tree.drop(posixpath.join(folder, last.removeprefix(WHITEOUT)))
    elif not folder and member.issym():
        tree.folders[path] = member.linkname
    elif _INTERESTING.fullmatch(path) and not member.isdir():
        target = "/" + member.linkname if member.islnk() else member.linkname
        tree.files[path] = target if member.issym() or member.islnk() else None
        if member.isreg() and _LIBC.fullmatch(path):
            content = opened.extractfile(member)
            found = _GLIBC.search(content.read()) if content else None
            if found:
                tree.glibc = (int(found[1]), int(found[2]))

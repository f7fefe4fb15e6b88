"""What git left out of a source: submodules whose folder is empty, and pointers of git-lfs instead of files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from seaway.builder.source import SourceFile

GIT_MODULES = ".gitmodules"
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"
LARGEST_POINTER = 1024  # bytes, by the specification of git-lfs
SHOWN = 3  # pointers that are named

_MODULE_PATH = re.compile(r"^\s*path\s*=\s*\"?(.+?)/?\"?\s*$", re.M)


def find_unfetched(root: Path, files: list[SourceFile], *, from_git: bool) -> list[str]:
    """Return a sentence on each kind of thing that is named in the source and not there, and what to do about it.

    They are notes and no errors: an app may well do without. `from_git`: the platform fetched the source itself.
    """
    notes = [
        f"{path} is empty: it is a submodule; {'check that it can be fetched' if from_git else INIT_MODULES}"
        for path in _list_submodules(root, files)
        if not any(file.name.startswith(f"{path}/") for file in files)
    ]
    pointers = [file.name for file in files if _is_pointer(file)]
    if pointers:
        notes.append(f"{_name_some(pointers)}: only pointers of git-lfs; {INSTALL_LFS if from_git else PULL_LFS}")
    return notes


INIT_MODULES = "run `git submodule update --init --recursive` and deploy again"
PULL_LFS = "run `git lfs pull` and deploy again"
INSTALL_LFS = "install git-lfs where builds run, or deploy from a folder after `git lfs pull`"


def _list_submodules(root: Path, files: Iterable[SourceFile]) -> list[str]:
    if not any(file.name == GIT_MODULES and file.link is None for file in files):
        return []
    return _MODULE_PATH.findall((root / GIT_MODULES).read_text(errors="replace"))


def _is_pointer(file: SourceFile) -> bool:
    if file.link is not None or not len(LFS_POINTER) <= file.size <= LARGEST_POINTER:
        return False
    with file.path.open("rb") as opened:
        return opened.read(len(LFS_POINTER)) == LFS_POINTER


def _name_some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more

"""Submodules and files of git-lfs that are named in a source and not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from seaway.builder.source import list_files
from seaway.builder.unfetched import find_unfetched
from tests.builder_kit import write_app

MODULES = '[submodule "theme"]\n\tpath = vendor/theme\n\turl = https://x.example/t.git\n[submodule "b"]\n\tpath = b\n'
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize("from_git", [False, True])
def test_empty_submodules_are_named(tmp_path: Path, from_git: bool) -> None:
    """Whether their folder is there or not; one with files in it is well."""
    app = write_app(tmp_path, {".gitmodules": MODULES, "b/lib.py": "", "app.py": ""})
    (app / "vendor" / "theme").mkdir(parents=True)
    (note,) = find_unfetched(app, list_files(app), from_git=from_git)
    assert note.startswith("vendor/theme is empty: it is a submodule; ")
    assert ("git submodule update --init --recursive" in note) is not from_git
    write_app(tmp_path, {"vendor/theme/style.css": ""})
    assert find_unfetched(app, list_files(app), from_git=from_git) == []


def test_pointers_of_git_lfs_are_named(tmp_path: Path) -> None:
    """Not what only speaks of them, however large it is."""
    app = write_app(tmp_path, {f"model-{n}.bin": POINTER for n in range(5)})
    write_app(tmp_path, {"readme.txt": f"a pointer: {POINTER}", "long.txt": POINTER + "x" * 2000, "empty": ""})
    (note,) = find_unfetched(app, list_files(app), from_git=False)
    some = "model-0.bin, model-1.bin, model-2.bin and 2 more"
    assert note == f"{some}: only pointers of git-lfs; run `git lfs pull` and deploy again"
    (note,) = find_unfetched(app, list_files(app), from_git=True)
    assert "install git-lfs where builds run" in note

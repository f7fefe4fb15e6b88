"""Persistent folders on the disk: which start with what, who leads to them, and what destroying an app does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from seaway.control.mounts import put_away, remove_old
from seaway.engine.local.base import RunRoot
from seaway.engine.local.files import APP, discard_files, renew_files
from seaway.home import Home
from tests.builder_kit import write_app


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    yield Home(tmp_path / "home").create()
    for folder, _, _ in os.walk(tmp_path):
        Path(folder).chmod(0o755)


@pytest.fixture
def root(home: Home, tmp_path: Path) -> RunRoot:
    """An image whose source has var/data/first.txt, with a mount there and one where it has nothing."""
    image = write_app(tmp_path / "image", {"app.py": "", "var/data/first.txt": "first"})
    for path in (image / "var/data/first.txt", image / "var/data", image / "var"):
        path.chmod(0o555)  # as layers are
    mounts = home.mounts / "shop"
    return RunRoot(image, {}, mounts=((mounts / "db", "var/data"), (mounts / "up", "static/uploads")))


def begin(root: RunRoot, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return renew_files(folder, root).workdir


def test_a_new_one_begins_with_what_the_source_has(root: RunRoot, tmp_path: Path) -> None:
    """Once: what commands write, change and delete there is so for each that begins later, of any instance."""
    one = begin(root, tmp_path / "one")
    assert (one / "var/data/first.txt").read_text() == "first"
    assert list((one / "static/uploads").iterdir()) == []
    (one / "var/data/first.txt").unlink()
    (one / "var/data/second.txt").write_text("second")
    (one / "static/uploads/a.png").write_text("a")
    two = begin(root, tmp_path / "two")
    assert os.listdir(two / "var/data") == ["second.txt"]
    assert os.listdir(two / "static/uploads") == ["a.png"]
    discard_files(tmp_path / "one")
    assert os.listdir(begin(root, tmp_path / "one") / "var/data") == ["second.txt"], "its own files are new, these stay"


def test_many_at_once_make_one(root: RunRoot, tmp_path: Path) -> None:
    """Whoever is first; nothing half-made is left beside it."""
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda number: begin(root, tmp_path / f"i{number}"), range(16)))
    for folder in folders:
        (folder / "var/data" / folder.parent.name).touch()
    assert len(os.listdir(folders[0] / "var/data")) == 17
    assert sorted(os.listdir(root.mounts[0][0].parent)) == ["db", "up"]


def test_an_app_with_them_at_other_places(home: Home, root: RunRoot, tmp_path: Path) -> None:
    """The name says which; a later release may see it elsewhere."""
    (begin(root, tmp_path / "one") / "var/data/x").touch()
    moved = RunRoot(root.workdir, {}, mounts=((home.mounts / "shop" / "db", "db"),))
    own = begin(moved, tmp_path / "two")
    assert sorted(os.listdir(own / "db")) == ["first.txt", "x"]
    assert os.listdir(own / "var/data") == ["first.txt"]


def test_what_destroying_leaves(home: Home, root: RunRoot, tmp_path: Path) -> None:
    """Whoever has the name next begins anew; an hour later the old ones are gone, links in them or not."""
    put_away(home, "shop", 1000.0)
    (begin(root, tmp_path / "one") / "var/data/secret").touch()
    (tmp_path / APP).write_text("stays")
    (home.mounts / "shop" / "db" / "link").symlink_to(tmp_path / APP)
    put_away(home, "shop", 1000.9)
    put_away(home, "shop", 1001.0)
    assert os.listdir(begin(root, tmp_path / "two") / "var/data") == ["first.txt"]
    put_away(home, "shop", 2000.0)
    remove_old(home, 1000.0)
    assert len(list((home.mounts / ".destroyed").iterdir())) == 2
    (home.mounts / ".destroyed" / "kept-by-hand").mkdir()
    remove_old(home, 1500.0)
    left = sorted(path.name.split(".")[:2] for path in (home.mounts / ".destroyed").iterdir())
    assert left == [["kept-by-hand"], ["shop", "2000"]]
    assert (tmp_path / APP).read_text() == "stays"

"""One virtual environment of several layers."""

from __future__ import annotations

from pathlib import Path

from seaway.builder.venv import join_trees, write_settings
from tests.builder_kit import write_app


def read(folder: Path) -> dict[str, str]:
    """Return relative name to content of all files that can be reached."""
    found: dict[str, str] = {}
    for path in folder.iterdir():
        if path.is_dir():
            found |= {f"{path.name}/{name}": text for name, text in read(path).items()}
        else:
            found[path.name] = path.read_text()
    return found


def test_joined(tmp_path: Path) -> None:
    """All files of all trees, the later one's first; what one tree has alone is one link."""
    one = write_app(tmp_path / "1", {"bin/python": "p", "cfg": "c"})
    two = write_app(tmp_path / "2", {"bin/tool": "2", "lib/s/a/x.py": "2", "lib/s/ns/b.py": "2", "lib/s/six.py": "2"})
    three = write_app(tmp_path / "3", {"bin/tool": "3", "lib/s/ns/c.py": "3", "lib/s/d/y.py": "3", "lib/s/six.py": "3"})
    write_app(two, {"lib/s/__pycache__/six.pyc": "2", "share/man": "2", "odd/file": "2"})
    write_app(three, {"lib/s/__pycache__/own.pyc": "3", "odd": "3"})
    join_trees(tmp_path / "joined", [one, two, three])
    assert read(tmp_path / "joined") == {
        "bin/python": "p",
        "bin/tool": "3",
        "cfg": "c",
        "share/man": "2",
        "odd": "3",
        "lib/s/a/x.py": "2",
        "lib/s/ns/b.py": "2",
        "lib/s/ns/c.py": "3",
        "lib/s/d/y.py": "3",
        "lib/s/six.py": "3",
        "lib/s/__pycache__/six.pyc": "2",
    }
    assert (tmp_path / "joined" / "lib" / "s" / "a").is_symlink()
    join_trees(tmp_path / "two", [one, two])
    assert (tmp_path / "two" / "lib").is_symlink()
    assert not (tmp_path / "two" / "bin").is_symlink()


def test_settings() -> None:
    """As PEP 405 has it."""
    assert write_settings("3.11", Path("/usr/bin"), with_system=True).splitlines() == [
        "home = /usr/bin", "include-system-site-packages = true", "version = 3.11",
    ]  # fmt: skip

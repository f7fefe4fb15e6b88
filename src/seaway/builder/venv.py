"""The virtual environment of an image: what makes one of its layers' packages. Layout as of PEP 405."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

SETTINGS = "pyvenv.cfg"
CACHE = "__pycache__"


def name_pythons(version: str) -> tuple[str, ...]:
    """Return what an interpreter is called in bin/."""
    return ("python", "python3", f"python{version}")


def write_settings(version: str, home: Path, *, with_system: bool = False) -> str:
    """Return pyvenv.cfg; `home` is the interpreter's folder, `with_system` keeps its own packages in reach."""
    system = str(with_system).lower()
    return f"home = {home}\ninclude-system-site-packages = {system}\nversion = {version}\n"


def add_interpreter(folder: Path, version: str, executable: Path) -> None:
    """Make a folder of packages (or an empty one) a virtual environment of an interpreter of this machine."""
    real, scripts = executable.resolve(), folder / "bin"
    scripts.mkdir(parents=True, exist_ok=True)
    for name in name_pythons(version):
        (scripts / name).symlink_to(real)
    (folder / SETTINGS).write_text(write_settings(version, real.parent))


def join_trees(target: Path, trees: Sequence[Path]) -> None:
    """Make the folder `target`: what all of these have, by links, a later one's files before an earlier one's.

    A folder that only one has is one link, so what is in it (the caches of its modules, too) is there but once. Caches
    beside modules of several trees are the first one's: there the most are.
    """
    target.mkdir()
    found: dict[str, list[Path]] = {}
    for tree in trees:
        for path in tree.iterdir():
            found.setdefault(path.name, []).append(path)
    for name, paths in found.items():
        folders = [path for path in paths if path.is_dir()]
        if len(paths) == 1 or paths[-1] not in folders:
            (target / name).symlink_to(paths[-1])
        elif name == CACHE:
            (target / name).symlink_to(paths[0])
        else:
            join_trees(target / name, folders)

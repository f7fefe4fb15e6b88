"""Finding this machine's Python of a given version, outside Seaway's own virtual environment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROBE = """import sys
print('%d.%d' % sys.version_info[:2], sys.implementation.name, getattr(sys, '_base_executable', sys.executable))
"""
PROBE_LIMIT = 10.0
EVERYWHERE = ("/usr/local/bin", "/usr/bin", "/opt/python/bin")
COLLECTIONS = ("~/.pyenv/versions/{v}.*/bin", "~/.local/share/uv/python/cpython-{v}.*/bin", "/opt/python/{v}*/bin")


@dataclass(frozen=True)
class Interpreter:
    """A Python of this machine: version ("3.11") and executable, not inside any virtual environment."""

    version: str
    executable: Path


class NoInterpreter(Exception):
    """This machine has no such Python; the message says which it has."""


def this_version() -> str:
    """Return the version of the Python that runs Seaway, for example "3.11"."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def find_interpreter(version: str) -> Interpreter:
    """Return an interpreter of the version: Seaway's own base, or one on PATH or where pyenv and uv keep theirs."""
    if version == this_version():
        return Interpreter(version, Path(getattr(sys, "_base_executable", sys.executable)))
    for candidate in _candidates(version):
        found = _probe(candidate, version)
        if found is not None:
            return found
    raise NoInterpreter(
        f"this machine has no Python {version}: install it, or ask for another with python under [build] in "
        f"seaway.toml (here: {', '.join(list_versions())})"
    )


def list_versions() -> list[str]:
    """Return the versions this machine seems to have, without asking each."""
    found = {this_version()}
    for minor in range(8, 16):
        version = f"3.{minor}"
        if any("/shims/" not in str(candidate) for candidate in _candidates(version)):
            found.add(version)
    return order_versions(found)


def order_versions(versions: Iterable[str]) -> list[str]:
    """Return minor versions ("3.9", "3.11") from the oldest on."""
    return sorted(versions, key=lambda version: [int(part) for part in version.split(".")])


def _candidates(version: str) -> Iterator[Path]:
    name = f"python{version}"
    on_path = [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    for folder in dict.fromkeys([*on_path, *EVERYWHERE]):
        candidate = Path(folder) / name
        if candidate.is_file() and os.access(candidate, os.X_OK):
            yield candidate
    for pattern in COLLECTIONS:
        expanded = Path(pattern.format(v=version)).expanduser()
        root, _, rest = str(expanded).partition("*")
        parent = Path(root).parent
        if not parent.is_dir():
            continue
        folders = [entry for entry in parent.iterdir() if entry.name.startswith(Path(root).name)]
        for home in sorted(folders, key=_natural, reverse=True):
            candidate = home / rest.rpartition("/")[2] / name
            if candidate.is_file():
                yield candidate


def _natural(path: Path) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", path.name)]


def _probe(candidate: Path, version: str) -> Interpreter | None:
    """Ask the candidate what it is; shims of version managers may be there and not work."""
    try:
        answer = subprocess.run(
            [candidate, "-I", "-S", "-c", PROBE], capture_output=True, text=True, timeout=PROBE_LIMIT, check=True
        ).stdout.split(maxsplit=2)
    except (OSError, subprocess.SubprocessError):
        return None
    if len(answer) != 3 or answer[0] != version or answer[1] != "cpython":
        return None
    return Interpreter(version, Path(answer[2].strip()))

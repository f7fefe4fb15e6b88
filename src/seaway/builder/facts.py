"""Reading a source folder and this machine into the facts that plan.py decides on."""

from __future__ import annotations

import hashlib
import platform
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seaway.builder.base import BuildError
from seaway.builder.interpreter import this_version
from seaway.builder.plan import SourceFacts
from seaway.builder.source import SourceFile, digest_files

FOREIGN = ("Pipfile", "Pipfile.lock", "poetry.lock", "pdm.lock", "environment.yml", "setup.py")
VERSION_FILES = (".python-version", "runtime.txt")
LONGEST_TEXT = 32 * 1024**2
NEEDED_GLIBC = (2, 28)

_INCLUDE = re.compile(r"^\s*(-r|--requirement|-c|--constraint)(?:\s+|=|(?<=-r)|(?<=-c))(\S+)")
_EDITABLE = re.compile(r"^\s*(?:-e|--editable)(?:\s+|=)(.+)$")
_LOCAL = re.compile(r"^\s*(?:[\w.\[\],-]+\s*@\s*)?(?:\.|/|file:)")


def read_facts(root: Path, files: list[SourceFile]) -> SourceFacts:
    """Look at the files at the top of the source; raise BuildError for one that cannot be parsed."""
    top = {file.name for file in files if "/" not in file.name}
    pyproject = _read_toml(root, "pyproject.toml") if "pyproject.toml" in top else None
    lock = _read_toml(root, "uv.lock") if "uv.lock" in top else None
    requirements = gather_requirements(root) if "requirements.txt" in top else None
    version_file = next((name for name in VERSION_FILES if name in top), None)
    return SourceFacts(
        has_python_files=any(name.endswith(".py") for name in top),
        pyproject=pyproject,
        lock=lock,
        lock_digest=hashlib.sha256((root / "uv.lock").read_bytes()).hexdigest() if lock is not None else "",
        requirements=requirements,
        local_requirements=requirements is not None and _names_local(requirements),
        source_digest=digest_files(files),
        python_version_file=(version_file, read_text(root, version_file)) if version_file else None,
        default_python=this_version(),
        platform=this_platform(),
        foreign=tuple(name for name in FOREIGN if name in top),
    )


def this_platform() -> str:
    """Return the wheel platform dependencies are chosen for, the same on all machines of one architecture if it can."""
    machine = platform.machine()
    name, version = platform.libc_ver()
    if name == "glibc" and machine in {"x86_64", "aarch64"}:
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if numbers >= NEEDED_GLIBC:
            return f"{machine}-manylinux_2_28"
    return f"{machine}-{name or 'unknown'}{version}"


def read_text(root: Path, name: str) -> str:
    """Return a text file of the source; BuildError if it is missing, too big, or not UTF-8."""
    path = root / name
    try:
        if path.stat().st_size > LONGEST_TEXT:
            raise BuildError(f"{name}: is bigger than {LONGEST_TEXT // 1024**2} MiB")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise BuildError(f"{name}: there is no such file in the source") from None
    except IsADirectoryError:
        raise BuildError(f"{name}: is a folder, not a file") from None
    except UnicodeDecodeError as error:
        raise BuildError(f"{name}: is not UTF-8 text (byte {error.start}): save it as UTF-8") from None


def _read_toml(root: Path, name: str) -> Mapping[str, Any]:
    try:
        return tomllib.loads(read_text(root, name))
    except tomllib.TOMLDecodeError as error:
        raise BuildError(f"{name}: is not valid TOML: {error}: correct it there") from None


def gather_requirements(root: Path) -> dict[str, str]:
    """Return the files to install from: requirements.txt with every -r spelled out, and its constraints.

    Editable entries become ordinary ones: an image cannot refer to the folder it was built in.
    """
    gathered: dict[str, str] = {}
    gathered["requirements.txt"] = _flatten(root, "requirements.txt", gathered, ())
    return gathered


def _flatten(root: Path, name: str, gathered: dict[str, str], outer: tuple[str, ...]) -> str:
    if name in outer:
        raise BuildError(f"{name}: includes itself by way of {outer[-1]}: remove one -r")
    lines = []
    for number, line in enumerate(read_text(root, name).splitlines(), 1):
        include, editable = _INCLUDE.match(line), _EDITABLE.match(line)
        if include and "://" not in include[2]:
            inner = _locate(root, name, number, include[2])
            text = _flatten(root, inner, gathered, (*outer, name))
            if include[1] in {"-r", "--requirement"}:
                lines.append(text)
            else:
                constraint = f"constraints-{len(gathered)}.txt"
                gathered[constraint] = text
                lines.append(f"-c {constraint}")
        else:
            lines.append(editable[1] if editable else line)
    return "\n".join(lines) + "\n"


def _locate(root: Path, name: str, number: int, target: str) -> str:
    path = (root / name).parent / target
    real, top = path.resolve(), root.resolve()
    if not real.is_relative_to(top):
        raise BuildError(f"{name}: line {number}: {target} is outside the app's folder: put it there")
    if not real.is_file():
        raise BuildError(f"{name}: line {number}: there is no file {target}")
    return real.relative_to(top).as_posix()


def _names_local(requirements: Mapping[str, str]) -> bool:
    return any(_LOCAL.match(line) for text in requirements.values() for line in text.splitlines())

"""Reading a source folder and this machine into the facts that plan.py decides on."""

from __future__ import annotations

import codecs
import hashlib
import platform
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seaway.builder.base import BuildError
from seaway.builder.hints import OTHERS, find_near_requirements
from seaway.builder.interpreter import list_versions, this_version
from seaway.builder.plan import SourceFacts
from seaway.builder.poetry import find_dependencies
from seaway.builder.source import SourceFile, digest_files

VERSION_FILES = (".python-version", "runtime.txt")
LONGEST_TEXT = 32 * 1024**2
NEEDED_GLIBC = (2, 28)
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""What files that are not UTF-8 may begin with, as pip reads them; UTF-32's first, of which UTF-16's is a part."""

_INCLUDE = re.compile(r"^\s*(-r|--requirement|-c|--constraint)(?:\s+|=|(?<=-r)|(?<=-c))(\S+)")
_EDITABLE = re.compile(r"^\s*(?:-e|--editable)(?:\s+|=)(.+)$")
_CODING = re.compile(rb"#.*coding[:=]\s*([-\w.]+)")  # PEP 263, as pip reads it
_PKG_RESOURCES = re.compile(rb"^(?:import|from)\s+pkg_resources\b", re.M)  # not in a `try:`, which does without
_STATIC_ROOT = re.compile(rb"^\s*STATIC_ROOT\s*=", re.M)
_SETUPTOOLS = re.compile(r"\s*setuptools(?![\w.-])", re.I)
_LOCAL = re.compile(r"^\s*(?:[\w.\[\],-]+\s*@\s*)?(?:\.|/|file:)")


def read_facts(root: Path, files: list[SourceFile]) -> SourceFacts:
    """Look at the files at the top of the source; raise BuildError for one that cannot be parsed."""
    names = [file.name for file in files]
    top = {name for name in names if "/" not in name}
    pyproject = _read_toml(root, "pyproject.toml") if "pyproject.toml" in top else None
    lock = _read_toml(root, "uv.lock") if "uv.lock" in top else None
    requirements = gather_requirements(root) if "requirements.txt" in top else None
    poetry_lock = _read_toml(root, "poetry.lock") if "poetry.lock" in top and requirements is None else None
    return SourceFacts(
        has_python_files=any(name.endswith(".py") for name in top),
        pyproject=pyproject,
        lock=lock,
        lock_digest=hashlib.sha256((root / "uv.lock").read_bytes()).hexdigest() if lock is not None else "",
        requirements=requirements,
        asks_for_setuptools=_asks_for_setuptools(requirements, pyproject),
        imports_pkg_resources=any(file.name.endswith(".py") and imports_pkg_resources(file.path) for file in files),
        local_requirements=requirements is not None and _names_local(requirements),
        source_digest=digest_files(files),
        poetry_lock=poetry_lock,
        version_files=tuple((name, read_text(root, name)) for name in VERSION_FILES if name in top),
        default_python=this_version(),
        offered=tuple(list_versions()),
        platform=this_platform(),
        has_static_files="manage.py" in top and _collects(files),
        others=tuple(name for name in OTHERS if name in names and _is_meant(root, name)),
        near=tuple(find_near_requirements(names)),
    )


def imports_pkg_resources(path: Path) -> bool:
    """Tell whether a file of Python imports what only setuptools has."""
    return path.is_file() and bool(_PKG_RESOURCES.search(path.read_bytes()))


def _collects(files: list[SourceFile]) -> bool:
    """Tell whether Django's settings say where static files are to lie, and that whitenoise serves them."""
    texts = [file.path.read_bytes() for file in files if file.name.endswith(".py") and file.link is None]
    return any(_STATIC_ROOT.search(text) for text in texts) and any(b"whitenoise." in text for text in texts)


def _asks_for_setuptools(requirements: Mapping[str, str] | None, pyproject: Mapping[str, Any] | None) -> bool:
    lines = [line for text in (requirements or {}).values() for line in text.splitlines()]
    lines += find_dependencies(pyproject) or []
    project = (pyproject or {}).get("project")
    lines += project.get("dependencies", []) if isinstance(project, Mapping) else []
    return any(_SETUPTOOLS.match(str(line)) for line in lines)


def _is_meant(root: Path, name: str) -> bool:
    """Tell whether a file of another tool says anything that the app could need; setup.cfg is mostly a linter's."""
    return name != "setup.cfg" or "install_requires" in read_text(root, name)


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
    """Return a text file of the source: UTF-8, or what its first bytes or a coding comment say, as with pip.

    BuildError if it is missing, too big, or not text.
    """
    path = root / name
    try:
        if path.stat().st_size > LONGEST_TEXT:
            raise BuildError(f"{name}: is bigger than {LONGEST_TEXT // 1024**2} MiB")
        return decode_text(name, path.read_bytes())
    except FileNotFoundError:
        raise BuildError(f"{name}: there is no such file in the source") from None
    except IsADirectoryError:
        raise BuildError(f"{name}: is a folder, not a file") from None


def decode_text(name: str, content: bytes) -> str:
    """Return the file's content with plain line ends. BuildError if it cannot be told what it says."""
    mark, encoding = next(((mark, encoding) for mark, encoding in MARKS if content.startswith(mark)), (b"", ""))
    if not encoding:
        coding = next((found for line in content.split(b"\n")[:2] if (found := _CODING.search(line))), None)
        encoding = coding[1].decode("ascii", errors="replace") if coding else "utf-8"
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        raise BuildError(f"{name}: is not {encoding.upper()} text (byte {error.start}): save it as UTF-8") from None
    except LookupError:
        raise BuildError(f"{name}: says that its encoding is {encoding!r}, which is none: save it as UTF-8") from None
    if (place := text.find("\0")) >= 0:
        guess = "; it seems to be UTF-16 without a mark" if content.count(0) > len(content) // 3 else ""
        raise BuildError(f"{name}: is no text: character {place} is NUL{guess}: save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


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

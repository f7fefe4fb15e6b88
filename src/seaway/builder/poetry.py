"""Poetry's files: which requirements a poetry.lock comes to, and dependencies that only Poetry can read. Pure.

The lock's format is that of Poetry 1.1 to 2: from 2.0 on (lock-version 2.1) each package says its groups and markers;
before that they follow from the way there (python-poetry.org/docs, poetry/packages/locker.py).
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

from packaging.markers import InvalidMarker, Marker
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from seaway.builder.base import BuildError

LOCK = "poetry.lock"
MAIN = "main"
PATCHES = tuple(range(40))  # of a minor version of Python, for markers that name one
AGAIN = "run `poetry lock` and deploy again"
BACKEND = {"requires": ["poetry-core>=1"], "build-backend": "poetry.core.masonry.api"}

_CARET = re.compile(r"\s*\^\s*(\d+)(?:\.(\d+))?(?:\.\d+)*\s*")
_TILDE = re.compile(r"\s*~\s*(\d+)\.(\d+)(?:\.\d+)*\s*")

Table = Mapping[str, Any]


def find_dependencies(pyproject: Table | None) -> Table | None:
    """Return [tool.poetry.dependencies] where it is what counts: [project] names dependencies of its own otherwise."""
    poetry = _table(_table(pyproject or {}, "tool"), "poetry")
    if "dependencies" not in poetry or "dependencies" in _table(pyproject or {}, "project"):
        return None
    return _table(poetry, "dependencies")


def read_python(pyproject: Table | None) -> str | None:
    """Return what `python` among Poetry's dependencies asks for as a version range; None: nothing that is one."""
    asked = (find_dependencies(pyproject) or {}).get("python")
    if not isinstance(asked, str):
        return None
    text = asked.strip()
    if found := _CARET.fullmatch(text):
        return f">={text.lstrip('^ ')},<{int(found[1]) + 1}"
    if found := _TILDE.fullmatch(text):
        return f">={text.lstrip('~ ')},<{found[1]}.{int(found[2]) + 1}"
    if re.fullmatch(r"\d+\.[\d.]*\*|\d+\.\d+", text):
        return f"=={text.removesuffix('.*')}.*"
    return None if text == "*" or "|" in text or "^" in text or "~" in text.replace("~=", "") else text


def names_folders(dependencies: Table) -> bool:
    """Tell whether some dependency is a folder or file of the source."""
    return any("path" in one for entry in dependencies.values() for one in _listed(entry) if isinstance(one, Mapping))


def write_project(dependencies: Table, source: str) -> str:
    """Return a pyproject.toml of nothing but these dependencies, from which Poetry's backend tells what they are.

    The app's own will not do: it may have no build system, no package, or `package-mode = false`. `source` is the
    folder that paths are relative to.
    """
    moved = {name: [_move(one, source) for one in _listed(entry)] for name, entry in dependencies.items()}
    poetry = {
        "name": "dependencies",
        "version": "0",
        "description": "",
        "authors": [],
        "dependencies": {name: entries[0] if len(entries) == 1 else entries for name, entries in moved.items()},
    }
    return f"build-system = {_inline(BACKEND)}\ntool = {_inline({'poetry': poetry})}\n"


def _move(entry: Any, source: str) -> Any:
    if isinstance(entry, Mapping) and "path" in entry:
        return {**entry, "path": posixpath.join(source, str(entry["path"]))}
    return entry


def _inline(value: Any) -> str:
    """Return a value as TOML on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_inline(str(key))} = {_inline(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def list_locked(lock: Table, pyproject: Table | None, python: str, machine: str) -> tuple[str, ...]:
    """Return the lines of a requirements file that install the lock's main group, each version exact, with hashes.

    `python` is a minor version ("3.11"), `machine` what platform_machine is. Raises BuildError.
    """
    packages = [package for package in lock.get("package", ()) if isinstance(package, Mapping)]
    _check_direct(packages, pyproject)
    if any("groups" in package for package in packages):
        chosen = [(package, _read_markers(package)) for package in packages if _is_main(package)]
    else:
        chosen = [(package, "") for package in _reach(packages, pyproject, python, machine)]
    indexes = dict.fromkeys(
        str(source["url"]) for package, _ in chosen if (source := _table(package, "source")).get("type") == "legacy"
    )
    return (
        *(f"--extra-index-url {url}" for url in indexes),
        *sorted(_write_line(package, markers) for package, markers in chosen),
    )


def _check_direct(packages: list[Table], pyproject: Table | None) -> None:
    """Refuse a lock that lacks a direct dependency: it is older than pyproject.toml."""
    known = {canonicalize_name(str(package.get("name", ""))) for package in packages}
    lacking = sorted(name for name, _ in _list_direct(pyproject) if name not in known)
    if lacking:
        raise BuildError(f"{LOCK}: is older than pyproject.toml (lacks {', '.join(lacking)}): {AGAIN}")


def _list_direct(pyproject: Table | None) -> Iterator[tuple[str, Any]]:
    """Yield name and entry of what the app itself needs, but for what is optional."""
    for text in _table(pyproject or {}, "project").get("dependencies", ()):
        yield canonicalize_name(_read_name(str(text))), {"extras": re.findall(r"[\w.-]+", _read_extras(str(text)))}
    for name, entry in (find_dependencies(pyproject) or {}).items():
        if name != "python":
            yield from ((canonicalize_name(name), one) for one in _listed(entry) if not _is_optional(one))


def _is_main(package: Table) -> bool:
    return MAIN in package.get("groups", ()) and not package.get("optional", False)


def _read_markers(package: Table) -> str:
    """Return the package's markers in the main group."""
    markers = package.get("markers", "")
    return str(markers.get(MAIN, "") if isinstance(markers, Mapping) else markers)


def _reach(packages: list[Table], pyproject: Table | None, python: str, machine: str) -> list[Table]:
    """Return the packages that are needed, by way of their dependencies, with this Python on Linux.

    Where a marker turns on more than is known, the package is taken.
    """
    by_name: dict[str, list[Table]] = {}
    for package in packages:
        if _runs_on(str(package.get("python-versions", "*")), python):
            by_name.setdefault(canonicalize_name(str(package["name"])), []).append(package)
    reached: dict[str, Table] = {}
    visited: set[tuple[str, str]] = set()
    todo = [(name, extra) for name, one in _list_direct(pyproject) for extra in _ways(one, python, machine)]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in visited or name not in by_name:
            continue
        visited.add((name, extra))
        if len(by_name[name]) > 1:
            raise BuildError(f"{LOCK}: locks several versions of {name}, and is of Poetry 1: with Poetry 2 {AGAIN}")
        package = reached[name] = by_name[name][0]
        wanted = {canonicalize_name(_read_name(str(text))) for text in _find_extra(package, extra)}
        for inner, entry in _table(package, "dependencies").items():
            needed = canonicalize_name(inner)
            for one in _listed(entry):
                if needed in wanted if extra else not _is_optional(one):
                    todo += [(needed, way) for way in _ways(one, python, machine)]
    return list(reached.values())


def _ways(entry: Any, python: str, machine: str) -> list[str]:
    """Return "" and the extras by which an entry is needed; nothing if its markers do not hold here."""
    if not isinstance(entry, Mapping):
        return [""]
    if not _may_hold(str(entry.get("markers", "")), python, machine):
        return []
    return ["", *map(str, entry.get("extras", ()))]


def _may_hold(text: str, python: str, machine: str) -> bool:
    """Tell whether a marker holds on Linux with some patch release of this Python."""
    if not text:
        return True
    try:
        marker = Marker(text)
    except InvalidMarker as error:
        raise BuildError(f"{LOCK}: the marker {text!r} cannot be read ({error}): {AGAIN}") from None
    fixed = {
        "os_name": "posix",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": machine,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "extra": "",
        "python_version": python,
        "platform_release": "",
        "platform_version": "",
    }
    versions = (f"{python}.{patch}" for patch in PATCHES)
    return any(marker.evaluate({**fixed, "python_full_version": v, "implementation_version": v}) for v in versions)


def _runs_on(versions: str, python: str) -> bool:
    try:
        allowed = SpecifierSet("" if versions.strip() == "*" else versions)
    except InvalidSpecifier:  # alternatives (||): as good as any
        return True
    return any(allowed.contains(f"{python}.{patch}") for patch in PATCHES)


def _write_line(package: Table, markers: str) -> str:
    name, source = str(package["name"]), _table(package, "source")
    kind, url = source.get("type"), str(source.get("url", ""))
    condition = f" ; {markers}" if markers else ""
    folder = f"#subdirectory={source['subdirectory']}" if "subdirectory" in source else ""
    if kind == "git":
        return f"{name} @ git+{url}@{source.get('resolved_reference', source.get('reference'))}{folder}{condition}"
    if kind == "url":
        return f"{name} @ {url}{folder}{condition}"
    if kind in {"directory", "file"}:
        return f"{name} @ ./{posixpath.normpath(url)}{condition}"
    hashes = "".join(f" --hash={file['hash']}" for file in package.get("files", ()) if "hash" in file)
    return f"{name}=={package['version']}{condition}{hashes}"


def _find_extra(package: Table, extra: str) -> tuple[Any, ...]:
    """Return the requirements of an extra of the package."""
    extras = {canonicalize_name(name): listed for name, listed in _table(package, "extras").items()}
    return tuple(extras.get(canonicalize_name(extra), ())) if extra else ()


def _read_name(requirement: str) -> str:
    found = re.match(r"\s*[\w.-]+", requirement)
    return found[0].strip() if found else ""


def _read_extras(requirement: str) -> str:
    found = re.match(r"\s*[\w.-]+\s*\[([^]]*)]", requirement)
    return found[1] if found else ""


def _is_optional(entry: Any) -> bool:
    return isinstance(entry, Mapping) and bool(entry.get("optional", False))


def _listed(entry: Any) -> list[Any]:
    return list(entry) if isinstance(entry, list) else [entry]


def _table(parent: Table, key: str) -> Table:
    value = parent.get(key, {})
    return value if isinstance(value, Mapping) else {}

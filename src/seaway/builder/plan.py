"""Facts of a source in, a frozen build plan out. Pure: no file, clock, process or environment is touched here."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from seaway.builder.base import BuildError
from seaway.builder.hints import BY_COMMAND, COLLECT, HOLD_DEPENDENCIES, OTHERS, explain_near
from seaway.builder.poetry import find_dependencies, list_locked, names_folders, read_python
from seaway.builder.schema import PYTHON_PATTERN, BuildTable

PLAN_VERSION = 2
"""Part of every cache key: raise it when the same inputs come to give other layers."""

PYTHON_MINORS = tuple(range(8, 16))
PATCHES = tuple(range(40))  # a minor version suits requires-python if one of its patch releases does


class Recipe(StrEnum):
    """Where the dependencies come from."""

    NONE = "none"
    LOCK = "uv.lock"
    REQUIREMENTS = "requirements.txt"
    POETRY = "poetry.lock"
    PROJECT = "pyproject.toml"


@dataclass(frozen=True)
class SourceFacts:
    """What the builder saw in a source folder and on this machine."""

    has_python_files: bool = False  # *.py at the top
    pyproject: Mapping[str, Any] | None = None
    lock: Mapping[str, Any] | None = None  # uv.lock
    lock_digest: str = ""
    requirements: Mapping[str, str] | None = None  # file name -> text: requirements.txt and its constraints
    poetry_lock: Mapping[str, Any] | None = None  # where there is no requirements.txt
    asks_for_setuptools: bool = False  # by name, so its version is theirs to choose
    imports_pkg_resources: bool = False  # some file of the source does, and hardly any says that it is setuptools'
    local_requirements: bool = False  # some requirement is a folder or file of the source itself
    source_digest: str = ""  # of all files of the source; only looked at when dependencies are part of it
    version_files: tuple[tuple[str, str], ...] = ()  # (file name, content)
    default_python: str = "3.11"
    offered: tuple[str, ...] = ()  # the versions of Python that are there; () where that is not known
    offered_by: str = "this machine"  # or a base image
    remedy: str = "install it here"  # what else to do about a version that is not there
    platform: str = "x86_64-manylinux_2_28"
    has_static_files: bool = False  # of Django's, for whitenoise to serve
    others: tuple[str, ...] = ()  # files of other tools (Pipfile, package.json, ...)
    near: tuple[str, ...] = ()  # files that may have been meant to be requirements.txt, the likeliest first


@dataclass(frozen=True)
class BuildPlan:
    """What to do: `python` None means no interpreter is part of it; `dependency_key` None means no such layer."""

    recipe: Recipe
    python: str | None
    dependency_key: str | None
    install_project: bool
    platform: str
    base: str | None
    command: str | None = None  # what the app runs when all else is there
    notes: tuple[str, ...] = ()  # sentences for the user

    @property
    def runtime(self) -> str:
        """Label of the image: python3.11, or none."""
        return f"python{self.python}" if self.python else "none"


def make_plan(facts: SourceFacts, build: BuildTable) -> BuildPlan:
    """Decide language, Python version, dependency key and steps; raise BuildError if the files disagree."""
    recipe = _choose_recipe(facts)
    packaged = recipe is not Recipe.REQUIREMENTS and _is_package(facts.pyproject)
    version_asked = build.python or facts.version_files
    if recipe is Recipe.NONE and not packaged and not facts.has_python_files and not version_asked:
        return BuildPlan(Recipe.NONE, None, None, False, facts.platform, build.base, build.command)
    python, asked_by = _choose_python(facts, build)
    if facts.offered and python not in facts.offered:
        there = ", ".join(facts.offered)
        raise BuildError(
            f"{asked_by or 'the app'}: asks for Python {python}, {facts.offered_by} has {there}: ask for one that is "
            f"there, or {facts.remedy}"
        )
    if recipe is Recipe.LOCK:
        _check_lock(facts)
    return BuildPlan(
        recipe=recipe,
        python=python,
        dependency_key=_make_key(facts, recipe, python),
        install_project=packaged,
        platform=facts.platform,
        base=build.base,
        command=build.command,
        notes=_make_notes(facts, build, recipe, packaged),
    )


def _choose_recipe(facts: SourceFacts) -> Recipe:
    if facts.lock is not None:
        if facts.pyproject is None:
            raise BuildError(
                "uv.lock: there is no pyproject.toml beside it: add it, uv.lock alone says not what to run"
            )
        return Recipe.LOCK
    if facts.requirements is not None:
        return Recipe.REQUIREMENTS
    project = facts.pyproject or {}
    poetry = "poetry" in _table(project, "tool")
    if facts.poetry_lock is not None and (poetry or "project" in project):
        return Recipe.POETRY
    if "project" in project or poetry:
        return Recipe.PROJECT
    if facts.near:
        raise BuildError(explain_near(facts.near[0]))
    held = [name for name in facts.others if name in HOLD_DEPENDENCIES]
    if held:
        raise BuildError(f"{held[0]}: is not read, and nothing else names dependencies: {OTHERS[held[0]]}")
    return Recipe.NONE


def _make_notes(facts: SourceFacts, build: BuildTable, recipe: Recipe, packaged: bool) -> tuple[str, ...]:
    notes = []
    if facts.has_static_files and build.command is None:
        notes.append(f"Django's static files are not collected: {COLLECT} below [build] in seaway.toml does that")
    if recipe is Recipe.PROJECT:
        tool = "poetry lock" if find_dependencies(facts.pyproject) is not None else "uv lock"
        notes.append(f"there is no lock file: versions are chosen now; run `{tool}` to have the same ones everywhere")
    if recipe is Recipe.REQUIREMENTS and facts.pyproject is not None:
        if "project" in facts.pyproject or find_dependencies(facts.pyproject) is not None:
            notes.append("dependencies come from requirements.txt, not from pyproject.toml")
        if _is_package(facts.pyproject) and not facts.local_requirements:
            notes.append("the project itself is not installed: a line `.` in requirements.txt does that")
    read = {"setup.py", "setup.cfg"} if packaged or facts.local_requirements else set()
    read |= {"poetry.lock"} if recipe is Recipe.POETRY else set()
    read |= set(BY_COMMAND) if build.command is not None else set()
    notes += [f"{name} is not read: {OTHERS[name]}" for name in facts.others if name not in read]
    return tuple(notes)


def _is_package(pyproject: Mapping[str, Any] | None) -> bool:
    """Tell whether the project itself is to be installed: it has a build system, unless its tool's table says no."""
    if pyproject is None:
        return False
    tools = _table(pyproject, "tool")
    said = _table(tools, "uv").get("package")
    if isinstance(said, bool):
        return said
    return "build-system" in pyproject and _table(tools, "poetry").get("package-mode") is not False


def _choose_python(facts: SourceFacts, build: BuildTable) -> tuple[str, str]:
    """Return the version, and what asks for it."""
    asker, requires = _requires_python(facts.pyproject)
    if build.python:
        return _agree(build.python, "seaway.toml: build.python", requires)
    if facts.version_files:
        found = {name: _parse_version(name, content, facts.offered) for name, content in facts.version_files}
        if len(set(found.values())) > 1:
            said = " and ".join(f"{name} says {version}" for name, version in found.items())
            raise BuildError(f"{', '.join(found)}: {said}: correct one, or delete it")
        name = next(iter(found))
        return _agree(found[name], name, requires)
    if requires is None or _suits(facts.default_python, requires):
        return facts.default_python, ""
    fitting = [f"3.{minor}" for minor in PYTHON_MINORS if _suits(f"3.{minor}", requires)]
    if not fitting:
        raise BuildError(f'{asker}: no Python 3 suits "{requires}"')
    return next((version for version in fitting if version in facts.offered), fitting[0]), asker


def _parse_version(file: str, content: str, offered: tuple[str, ...]) -> str:
    lines = [line.strip() for line in content.splitlines()]
    text = next((line for line in lines if line and not line.startswith("#")), "")
    match = re.fullmatch(r"(?:cpython-|python-)?(3\.\d+)(?:\.\d+)?", text)
    if not match or not re.fullmatch(PYTHON_PATTERN, match[1]):
        example = f"one of {', '.join(offered)}" if offered else "for example 3.12"
        raise BuildError(f"{file}: {text!r} is not a Python version that Seaway knows: write {example}")
    return match[1]


def _requires_python(pyproject: Mapping[str, Any] | None) -> tuple[str, SpecifierSet | None]:
    """Return where a range of versions is asked for, and the range."""
    where, text = "pyproject.toml: project.requires-python", _table(pyproject or {}, "project").get("requires-python")
    if text is None:
        where, text = "pyproject.toml: tool.poetry.dependencies.python", read_python(pyproject)
    if text is None:
        return "", None
    try:
        return where, SpecifierSet(str(text))
    except InvalidSpecifier:
        raise BuildError(f'{where}: {text!r} is not a version range: write for example ">=3.11"') from None


def _suits(python: str, requires: SpecifierSet) -> bool:
    return any(requires.contains(f"{python}.{patch}") for patch in PATCHES)


def _agree(python: str, where: str, requires: SpecifierSet | None) -> tuple[str, str]:
    if requires is not None and not _suits(python, requires):
        raise BuildError(f'{where}: Python {python} does not suit "{requires}" of pyproject.toml: change one of them')
    return python, where


def _make_key(facts: SourceFacts, recipe: Recipe, python: str) -> str | None:
    """Hash what decides the dependency layer; None when there are no dependencies to install."""
    inputs: dict[str, Any] = {
        "plan": PLAN_VERSION,
        "python": python,
        "platform": facts.platform,
        "recipe": recipe.value,
    }
    local = facts.local_requirements
    if recipe is Recipe.NONE:
        return None
    if recipe is Recipe.LOCK:
        inputs["lock"] = facts.lock_digest
        local = local or _has_local_packages(facts.lock or {})
    elif recipe is Recipe.REQUIREMENTS:
        inputs["requirements"] = facts.requirements
    elif recipe is Recipe.POETRY:
        locked = list_locked(facts.poetry_lock or {}, facts.pyproject, python, facts.platform.partition("-")[0])
        inputs["requirements"] = locked
        local = local or any(" @ ./" in line for line in locked)
    elif (dependencies := find_dependencies(facts.pyproject)) is not None:
        inputs["poetry"] = dependencies
        local = local or names_folders(dependencies)
    else:
        project = _table(facts.pyproject or {}, "project")
        local = local or "dependencies" in project.get("dynamic", ()) or "project" not in (facts.pyproject or {})
        inputs["project"] = {key: project.get(key) for key in ("dependencies", "requires-python", "dynamic")}
    if facts.imports_pkg_resources:
        inputs["pkg_resources"] = True
    inputs["tool"] = _table(_table(facts.pyproject or {}, "tool"), "uv")
    if local:
        inputs["source"] = facts.source_digest
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()


def _has_local_packages(lock: Mapping[str, Any]) -> bool:
    for package in lock.get("package", ()):
        source = package.get("source", {})
        path = next((source[key] for key in ("editable", "directory", "path", "virtual") if key in source), ".")
        if path != ".":
            return True
    return False


def _check_lock(facts: SourceFacts) -> None:
    """Refuse a uv.lock whose record of the project's own requirements differs from pyproject.toml.

    Compared here and not by `uv lock --check`: that asks the package index, and calls a lock stale that was
    made with another index (a mirror) although it pins the same files.
    """
    project = _table(facts.pyproject or {}, "project")
    if not project:
        members = sorted((facts.lock or {}).get("manifest", {}).get("members", ()))
        named = f" (its members: {', '.join(members)})" if members else ""
        raise BuildError(
            f"pyproject.toml: is the root of a uv workspace and no project itself{named}, so what to install is not "
            "known: add a [project] whose dependencies are the members to run, run `uv lock` and deploy again"
        )
    if "dependencies" in project.get("dynamic", ()):
        return
    name = canonicalize_name(str(project.get("name", "")))
    root = next(
        (p for p in (facts.lock or {}).get("package", ()) if canonicalize_name(p.get("name", "")) == name), None
    )
    if root is None:
        raise BuildError(
            f"uv.lock: does not know the project {name!r} of pyproject.toml: run `uv lock` and deploy again"
        )
    locked: dict[str, SpecifierSet] = {
        canonicalize_name(entry["name"]): SpecifierSet(entry.get("specifier", ""))
        for entry in root.get("metadata", {}).get("requires-dist", ())
        if "extra ==" not in entry.get("marker", "")
    }
    wanted = _wanted_requirements(project)
    sourced = {canonicalize_name(key) for key in _table(_table(_table(facts.pyproject or {}, "tool"), "uv"), "sources")}
    changed = sorted(
        name for name in locked.keys() | wanted.keys()
        if (name in locked) != (name in wanted) or (name not in sourced and locked[name] not in wanted[name])
    )  # fmt: skip
    if changed:
        raise BuildError(
            f"uv.lock: is older than pyproject.toml (differs in {', '.join(changed)}): run `uv lock` and deploy again"
        )


def _wanted_requirements(project: Mapping[str, Any]) -> dict[str, list[SpecifierSet]]:
    """Return name -> specifiers (more than one where markers choose) of project.dependencies."""
    wanted: dict[str, list[SpecifierSet]] = {}
    for text in project.get("dependencies", ()):
        try:
            requirement = Requirement(str(text))
        except InvalidRequirement as error:
            raise BuildError(f"pyproject.toml: project.dependencies: {text!r} is not a requirement: {error}") from None
        wanted.setdefault(canonicalize_name(requirement.name), []).append(requirement.specifier)
    return wanted


def _table(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = parent.get(key, {})
    if not isinstance(value, Mapping):
        raise BuildError(f"pyproject.toml: {key}: is not a table")
    return value

"""Facts in, build plan out."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from typing import Any

import pytest

from seaway.builder.base import BuildError
from seaway.builder.plan import Recipe, SourceFacts, make_plan
from seaway.builder.schema import BuildTable

PROJECT: dict[str, Any] = {"project": {"name": "shop", "dependencies": ["flask>=3,<4", "My_Lib[x]==1.*"]}}
LOCK = tomllib.loads("""
[[package]]
name = "shop"
source = { virtual = "." }
[package.metadata]
requires-dist = [{ name = "flask", specifier = "<4,>=3" }, { name = "my-lib", extras = ["x"], specifier = "==1.*" }]
""")
LOCKED = SourceFacts(pyproject=PROJECT, lock=LOCK, lock_digest="abc")
PINNED = SourceFacts(requirements={"requirements.txt": "flask==3.1\n"})


def plan_key(facts: SourceFacts, build: BuildTable | None = None) -> str:
    key = make_plan(facts, build or BuildTable()).dependency_key
    assert key is not None
    return key


def test_files_without_a_language_run_as_they_are() -> None:
    """Procfile only: no interpreter, no dependencies."""
    plan = make_plan(SourceFacts(), BuildTable())
    assert (plan.runtime, plan.recipe, plan.dependency_key, plan.install_project) == ("none", Recipe.NONE, None, False)


def test_python_files_alone_get_an_interpreter() -> None:
    """A script without requirements is Python, with nothing to install."""
    plan = make_plan(SourceFacts(has_python_files=True), BuildTable())
    assert (plan.runtime, plan.dependency_key) == ("python3.11", None)


@pytest.mark.parametrize(
    ("facts", "recipe"),
    [
        (LOCKED, Recipe.LOCK),
        (replace(LOCKED, requirements={"requirements.txt": ""}), Recipe.LOCK),
        (PINNED, Recipe.REQUIREMENTS),
        (replace(PINNED, pyproject=PROJECT), Recipe.REQUIREMENTS),
        (SourceFacts(pyproject=PROJECT), Recipe.PROJECT),
        (SourceFacts(pyproject={"tool": {"ruff": {}}}), Recipe.NONE),
    ],
)
def test_recipe(facts: SourceFacts, recipe: Recipe) -> None:
    """The most exact source of dependencies is taken."""
    assert make_plan(facts, BuildTable()).recipe is recipe


def test_project_is_installed_when_it_has_a_build_system() -> None:
    """[build-system] makes a package of it, unless [tool.uv] says no."""
    packaged = {**PROJECT, "build-system": {"requires": ["hatchling"]}}
    assert make_plan(SourceFacts(pyproject=packaged), BuildTable()).install_project
    refused = {**packaged, "tool": {"uv": {"package": False}}}
    assert not make_plan(SourceFacts(pyproject=refused), BuildTable()).install_project


def requires(text: str) -> SourceFacts:
    return SourceFacts(pyproject={"project": {"name": "x", "requires-python": text}})


@pytest.mark.parametrize(
    ("facts", "asked", "python"),
    [
        (PINNED, None, "3.11"),
        (PINNED, "3.13", "3.13"),
        (replace(PINNED, version_files=((".python-version", "# mine\n3.12.4\n"),)), None, "3.12"),
        (replace(PINNED, version_files=(("runtime.txt", "python-3.10.1"),)), None, "3.10"),
        (requires(">=3.11.5"), None, "3.11"),
        (requires(">=3.12"), None, "3.12"),
        (requires("<3.10"), None, "3.8"),
    ],
)
def test_python_version(facts: SourceFacts, asked: str | None, python: str) -> None:
    """[build] first, then the version file, then requires-python around the default."""
    assert make_plan(facts, BuildTable(python=asked)).python == python


@pytest.mark.parametrize(
    ("facts", "build", "sentence"),
    [
        (replace(PINNED, version_files=((".python-version", "pypy3"),)), {}, ".python-version: 'pypy3' is not"),
        (requires("~~3"), {}, "project.requires-python: '~~3' is not a version range"),
        (requires(">=4"), {}, 'no Python 3 suits ">=4"'),
        (requires(">=3.12"), {"python": "3.11"}, "seaway.toml: build.python: Python 3.11 does not suit"),
        (replace(LOCKED, pyproject=None), {}, "uv.lock: there is no pyproject.toml beside it"),
        (
            replace(PINNED, version_files=(("runtime.txt", "python-3.7."),), offered=("3.10", "3.11")),
            {},
            "runtime.txt: 'python-3.7.' is not a Python version that Seaway knows: write one of 3.10, 3.11",
        ),
        (
            replace(PINNED, version_files=((".python-version", "3.99"),), offered=("3.10", "3.11")),
            {},
            ".python-version: asks for Python 3.99, this machine has 3.10, 3.11: ask for one that is there, or",
        ),
        (
            replace(PINNED, offered=("3.11",)),
            {"python": "3.13"},
            "seaway.toml: build.python: asks for Python 3.13, this",
        ),
        (
            replace(requires(">=3.12"), offered=("3.9", "3.11"), offered_by="the base image b", remedy="name another"),
            {},
            "requires-python: asks for Python 3.12, the base image b has 3.9, 3.11: ask for",
        ),
        (
            replace(PINNED, version_files=((".python-version", "3.12"), ("runtime.txt", "python-3.11.4"))),
            {},
            ".python-version says 3.12 and runtime.txt says 3.11: correct one, or delete it",
        ),
        (SourceFacts(others=("app.json", "Pipfile")), {}, "Pipfile: is not read, and nothing else names dependencies"),
        (
            SourceFacts(has_python_files=True, near=("Requirements.txt",)),
            {},
            "Requirements.txt: is not read, dependencies are looked for in requirements.txt: rename it",
        ),
        (
            SourceFacts(near=("requirements/prod.txt",)),
            {},
            "add a requirements.txt with the line `-r requirements/prod.txt`, or an empty one",
        ),
        (
            SourceFacts(pyproject={"tool": {"uv": {"workspace": {}}}}, lock={"manifest": {"members": ["a", "b"]}}),
            {},
            "pyproject.toml: is the root of a uv workspace and no project itself (its members: a, b)",
        ),
        (SourceFacts(pyproject={"project": 3}), {}, "pyproject.toml: project: is not a table"),
    ],
)
def test_refused(facts: SourceFacts, build: dict[str, str], sentence: str) -> None:
    """Files that disagree or cannot be used are named, with what to do."""
    with pytest.raises(BuildError) as caught:
        make_plan(facts, BuildTable(**build))
    assert sentence in str(caught.value)


@pytest.mark.parametrize("dependencies", [["flask>=3,<4"], ["flask>=3,<4", "my-lib[x]==2.*"], ["django"]])
def test_stale_lock(dependencies: list[str]) -> None:
    """A lock made for other requirements is refused, saying to run `uv lock`."""
    facts = replace(LOCKED, pyproject={"project": {"name": "shop", "dependencies": dependencies}})
    with pytest.raises(BuildError, match=r"uv.lock: is older than pyproject.toml .*run `uv lock`"):
        make_plan(facts, BuildTable())


def test_lock_of_another_project() -> None:
    """A lock that does not know the project is refused."""
    with pytest.raises(BuildError, match="does not know the project 'else'"):
        make_plan(replace(LOCKED, pyproject={"project": {"name": "else"}}), BuildTable())


def test_dependency_key_follows_what_decides_the_layer() -> None:
    """Lock, Python and platform are in the key; the app's own files are not."""
    key = plan_key(LOCKED)
    assert key == plan_key(replace(LOCKED, source_digest="other"))
    assert key == plan_key(replace(LOCKED, pyproject={**PROJECT, "tool": {"ruff": {"line-length": 3}}}))
    others = [
        plan_key(replace(LOCKED, lock_digest="def")),
        plan_key(LOCKED, BuildTable(python="3.12")),
        plan_key(replace(LOCKED, platform="aarch64-manylinux_2_28")),
        plan_key(PINNED),
    ]
    assert len({key, *others}) == 5


def test_dependency_key_follows_the_source_when_dependencies_are_in_it() -> None:
    """Requirements and lock entries that are folders of the source make the source part of the key."""
    local = replace(PINNED, local_requirements=True)
    assert plan_key(local) != plan_key(replace(local, source_digest="other"))
    member = {"package": [*LOCK["package"], {"name": "lib", "source": {"editable": "libs/lib"}}]}
    workspace = replace(LOCKED, lock=member)
    assert plan_key(workspace) != plan_key(replace(workspace, source_digest="other"))


def test_notes_say_what_is_not_exact() -> None:
    """Without a lock the user is told so."""
    facts = SourceFacts(pyproject=PROJECT, others=("package.json",))
    notes = make_plan(facts, BuildTable()).notes
    assert "run `uv lock`" in notes[0]
    assert notes[1].startswith("package.json is not read: no npm is run by itself: build its files before")
    assert len(make_plan(facts, BuildTable(command="npm ci")).notes) == 1, "it may read it"


def test_static_files_that_nothing_collects() -> None:
    """Django's, for whitenoise: the note is what seaway.toml wants; a command makes it silent."""
    facts = replace(PINNED, has_static_files=True)
    (note,) = make_plan(facts, BuildTable()).notes
    assert '`command = "python manage.py collectstatic --noinput"` below [build] in seaway.toml' in note
    assert make_plan(facts, BuildTable(command="make assets")).notes == ()


def test_a_command_needs_no_language() -> None:
    """And is no part of what the dependencies are."""
    assert make_plan(SourceFacts(), BuildTable(command="make")).command == "make"
    assert plan_key(LOCKED) == plan_key(LOCKED, BuildTable(command="make"))


def test_requirements_beside_a_project_are_all_that_is_installed() -> None:
    """The project is not: what requirements.txt says is meant. A line `.` installs it."""
    packaged = replace(
        PINNED, pyproject={**PROJECT, "build-system": {"requires": ["setuptools"]}}, others=("setup.py",)
    )
    plan = make_plan(packaged, BuildTable())
    assert (plan.recipe, plan.install_project) == (Recipe.REQUIREMENTS, False)
    assert plan.notes[1] == "the project itself is not installed: a line `.` in requirements.txt does that"
    assert plan.notes[2].startswith("setup.py is not read")
    assert len(make_plan(replace(packaged, local_requirements=True), BuildTable()).notes) == 1

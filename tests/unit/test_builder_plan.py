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
        (replace(PINNED, python_version_file=(".python-version", "# mine\n3.12.4\n")), None, "3.12"),
        (replace(PINNED, python_version_file=("runtime.txt", "python-3.10.1")), None, "3.10"),
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
        (replace(PINNED, python_version_file=(".python-version", "pypy3")), {}, ".python-version: 'pypy3' is not"),
        (requires("~~3"), {}, "project.requires-python: '~~3' is not a version range"),
        (requires(">=4"), {}, 'no Python 3 suits ">=4"'),
        (requires(">=3.12"), {"python": "3.11"}, "seaway.toml: build.python: Python 3.11 does not suit"),
        (replace(LOCKED, pyproject=None), {}, "uv.lock: there is no pyproject.toml beside it"),
        (SourceFacts(foreign=("Pipfile",)), {}, "Pipfile: Seaway does not read it: add a uv.lock"),
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
    notes = make_plan(SourceFacts(pyproject=PROJECT, foreign=("poetry.lock",)), BuildTable()).notes
    assert "run `uv lock`" in notes[0]
    assert notes[1] == "poetry.lock is not read"

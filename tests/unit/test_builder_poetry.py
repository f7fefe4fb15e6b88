"""Poetry's files to requirements."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

from seaway.builder.base import BuildError
from seaway.builder.plan import Recipe, SourceFacts, make_plan
from seaway.builder.poetry import list_locked, names_folders, read_python, write_project
from seaway.builder.schema import BuildTable


def poetry(dependencies: str, **more: Any) -> dict[str, Any]:
    tables = tomllib.loads(f"[tool.poetry.dependencies]\n{dependencies}")
    tables["tool"]["poetry"] |= more
    return tables


PROJECT = poetry('python = "^3.9"\nFlask = "^3"\nredis = {version = "^5", extras = ["hiredis"]}\n')
NEW = tomllib.loads("""
[[package]]
name = "flask"
version = "3.0.1"
optional = false
groups = ["main", "dev"]
markers = {main = "python_version >= '3.9'", dev = "python_version > '3'"}
files = [{file = "a", hash = "sha256:aa"}, {file = "b", hash = "sha256:bb"}]
[[package]]
name = "pytest"
version = "8"
optional = false
groups = ["dev"]
[[package]]
name = "psycopg"
version = "3"
optional = true
groups = ["main"]
[[package]]
name = "redis"
version = "5.0"
optional = false
groups = ["main"]
[package.source]
type = "git"
url = "https://example.com/redis.git"
resolved_reference = "abc"
subdirectory = "py"
[[package]]
name = "mine"
version = "1"
optional = false
groups = ["main"]
[package.source]
type = "directory"
url = "libs/mine"
[[package]]
name = "secret"
version = "1"
optional = false
groups = ["main"]
[package.source]
type = "legacy"
url = "https://index.example.com/simple"
reference = "ours"
""")
OLD = tomllib.loads("""
[[package]]
name = "Flask"
version = "3.0.1"
optional = false
python-versions = ">=3.8"
[package.dependencies]
click = ">=8"
importlib-metadata = {version = ">=3.6", markers = "python_version < '3.10'"}
colorama = {version = "*", markers = "sys_platform == 'win32'"}
python-dotenv = {version = "*", optional = true}
[package.extras]
dotenv = ["python-dotenv"]
[[package]]
name = "click"
version = "8.1"
optional = false
python-versions = "*"
[[package]]
name = "colorama"
version = "0.4"
optional = false
python-versions = "*"
[[package]]
name = "importlib-metadata"
version = "6"
optional = false
python-versions = "*"
[[package]]
name = "python-dotenv"
version = "1"
optional = true
python-versions = "*"
[[package]]
name = "redis"
version = "5.0"
optional = false
python-versions = "*"
[package.dependencies]
async-timeout = {version = "*", markers = "python_full_version < '3.11.3'"}
hiredis = {version = ">1", optional = true}
[package.extras]
hiredis = ["hiredis (>=1.0.0)"]
[[package]]
name = "hiredis"
version = "2"
optional = true
python-versions = "*"
[[package]]
name = "async-timeout"
version = "4"
optional = false
python-versions = ">=3.6"
[[package]]
name = "pytest"
version = "8"
optional = false
python-versions = "*"
""")


def names(lock: dict[str, Any], project: dict[str, Any] = PROJECT, python: str = "3.11") -> list[str]:
    return [line.partition("==")[0] for line in list_locked(lock, project, python, "x86_64")]


def test_lock_of_poetry_2() -> None:
    """Its main group, exact, with markers and hashes; other sources as they are."""
    assert list_locked(NEW, PROJECT, "3.11", "x86_64") == (
        "--extra-index-url https://index.example.com/simple",
        "flask==3.0.1 ; python_version >= '3.9' --hash=sha256:aa --hash=sha256:bb",
        "mine @ ./libs/mine",
        "redis @ git+https://example.com/redis.git@abc#subdirectory=py",
        "secret==1",
    )


def test_lock_of_poetry_1_is_followed() -> None:
    """Only what the main group leads to: with the extras that were asked for, not for other systems and Pythons."""
    assert names(OLD) == ["Flask", "async-timeout", "click", "hiredis", "redis"]
    assert names(OLD, python="3.9") == ["Flask", "async-timeout", "click", "hiredis", "importlib-metadata", "redis"]
    assert "async-timeout" not in names(OLD, python="3.12")


def test_several_versions_in_an_old_lock() -> None:
    """Which is meant is not said there; a version for another Python does not count."""
    click = {"name": "click", "version": "7", "python-versions": "<3.8"}
    assert names({"package": [*OLD["package"], click]}).count("click") == 1
    with pytest.raises(BuildError, match=r"several versions of click, .*with Poetry 2 run `poetry lock`"):
        names({"package": [*OLD["package"], {**click, "python-versions": "*"}]})


@pytest.mark.parametrize("lock", [NEW, OLD])
def test_older_lock(lock: dict[str, Any]) -> None:
    """A dependency that the lock does not know."""
    with pytest.raises(
        BuildError, match=r"poetry.lock: is older than pyproject.toml \(lacks httpx\): run `poetry lock`"
    ):
        names(lock, poetry('flask = "*"\nhttpx = "*"\npytest-x = {version = "*", optional = true}'))


def test_recipes() -> None:
    """The lock where there is one, else what Poetry's table says; [project] is uv's business."""
    locked = make_plan(SourceFacts(pyproject=PROJECT, poetry_lock=NEW, others=("poetry.lock",)), BuildTable())
    assert (locked.recipe, locked.install_project, locked.notes) == (Recipe.POETRY, False, ())
    free = make_plan(SourceFacts(pyproject=PROJECT), BuildTable())
    assert free.recipe is Recipe.PROJECT
    assert "run `poetry lock`" in free.notes[0]
    system = {"build-system": {"requires": ["poetry-core"]}}
    assert make_plan(SourceFacts(pyproject={**PROJECT, **system}), BuildTable()).install_project
    outside = poetry('flask = "^3"', **{"package-mode": False}) | system
    assert not make_plan(SourceFacts(pyproject=outside), BuildTable()).install_project


def test_key_follows_the_dependencies() -> None:
    """And the source, where a dependency is a folder of it."""

    def key(project: dict[str, Any], **more: Any) -> str | None:
        return make_plan(SourceFacts(pyproject=project, **more), BuildTable()).dependency_key

    assert key(PROJECT) == key(PROJECT, source_digest="other")
    assert key(PROJECT) != key(poetry('flask = "^2"'))
    folder = poetry('lib = {path = "./lib"}')
    assert names_folders(folder["tool"]["poetry"]["dependencies"])
    assert key(folder) != key(folder, source_digest="other")
    assert key(PROJECT, poetry_lock=NEW) != key(PROJECT, poetry_lock=NEW, source_digest="other")
    assert key(PROJECT, poetry_lock=OLD) == key(PROJECT, poetry_lock=OLD, source_digest="other")


@pytest.mark.parametrize(
    ("asked", "fits", "fits_not"),
    [
        ("^3.9", "3.13.1", "4.0"),
        ("^3.9.2", "3.9.2", "3.9.1"),
        ("~3.10", "3.10.9", "3.11"),
        (">=3.8,<3.12", "3.11.7", "3.12"),
        ("3.11.*", "3.11.2", "3.10"),
        ("3.11", "3.11.2", "3.12"),
    ],
)
def test_python(asked: str, fits: str, fits_not: str) -> None:
    """Poetry's ranges as others write them."""
    told = SpecifierSet(read_python(poetry(f'python = "{asked}"')) or "")
    assert told.contains(fits)
    assert not told.contains(fits_not)


@pytest.mark.parametrize("asked", ["*", "^2.7 || ^3.8"])
def test_no_range(asked: str) -> None:
    """What says nothing, or more than a range can."""
    assert read_python(poetry(f'python = "{asked}"')) is None


def test_written_project() -> None:
    """What is written is what was read, but for paths, which do not move with it."""
    text = 'a = "^1"\n"b.c" = [{version = "1", python = "<3.8"}, {git = "x\\"y\\n", optional = true}]\n'
    text += 'd = {path = "../d"}\n'
    dependencies = poetry(text)["tool"]["poetry"]["dependencies"]
    written = tomllib.loads(write_project(dependencies, "/src"))
    assert written["build-system"]["build-backend"] == "poetry.core.masonry.api"
    assert written["tool"]["poetry"]["dependencies"] == {**dependencies, "d": {"path": "/src/../d"}}

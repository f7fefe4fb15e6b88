"""Builds that install from the machine's package index with uv: each kind of Python source, and what goes wrong."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from uv import find_uv_bin

from seaway.builder.base import BuildError
from seaway.builder.layout import ImageLayout
from tests.builder_kit import Dock, make_dock, write_app

PYPROJECT = """
[project]
name = "shop"
version = "1"
requires-python = ">=3.11"
dependencies = ["itsdangerous>=2"]
"""
SRC_LAYOUT = (
    PYPROJECT
    + """
[project.scripts]
shop = "shop:main"

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
"""
)
APP = "import itsdangerous\nprint('runs with', itsdangerous.__name__)\n"


@pytest.fixture
def dock(tmp_path: Path) -> Dock:
    return make_dock(tmp_path / "home")


def lock(app: Path) -> None:
    subprocess.run([find_uv_bin(), "lock", "--quiet"], cwd=app, check=True)


def count_layers(dock: Dock, image: str) -> list[str]:
    return [layer["digest"] for layer in ImageLayout(dock.home.images).read_json(image)["layers"]]


async def test_requirements(dock: Dock, tmp_path: Path) -> None:
    """requirements.txt is installed once; a changed line builds on the same layer and runs."""
    files = {"Procfile": "web: python app.py\n", "requirements.txt": "itsdangerous==2.2.0\nclick\n", "app.py": APP}
    app = write_app(tmp_path / "app", files)
    first = await dock.build(app)
    assert await dock.run(first.image, "python app.py") == (0, "runs with itsdangerous\n")
    second = await dock.build(write_app(app, {"app.py": APP + "print('changed')\n"}))
    assert count_layers(dock, first.image)[0] == count_layers(dock, second.image)[0]
    assert (await dock.run(second.image, "python app.py"))[1].endswith("changed\n")
    assert "Dependencies are unchanged: their layer is reused" in dock.steps


async def test_same_lock_same_digest(dock: Dock, tmp_path: Path) -> None:
    """uv.lock gives the same image in two homes; the project's own requirements come from the lock."""
    app = write_app(tmp_path / "app", {"Procfile": "web: python app.py", "pyproject.toml": PYPROJECT, "app.py": APP})
    lock(app)
    first = await dock.build(app)
    assert await dock.run(first.image, "python app.py") == (0, "runs with itsdangerous\n")
    assert await make_dock(tmp_path / "other").build(app) == first


async def test_stale_lock(dock: Dock, tmp_path: Path) -> None:
    """A lock older than pyproject.toml fails with what to do."""
    app = write_app(tmp_path / "app", {"Procfile": "web: x", "pyproject.toml": PYPROJECT})
    lock(app)
    write_app(app, {"pyproject.toml": PYPROJECT.replace('">=2"', '">=2", "click"').replace("s>=2", 's>=2", "click')})
    with pytest.raises(BuildError, match=r"uv.lock: is older than pyproject.toml \(differs in click\): run `uv lock`"):
        await dock.build(app)


async def test_src_layout(dock: Dock, tmp_path: Path) -> None:
    """A src-layout project with a real build backend is installed, and changes show without a new layer below."""
    files = {
        "Procfile": "web: shop\n",
        "pyproject.toml": SRC_LAYOUT,
        "src/shop/__init__.py": "def main(): print('one')",
    }
    app = write_app(tmp_path / "app", files)
    lock(app)
    first = await dock.build(app)
    assert await dock.run(first.image, "shop") == (0, "one\n")
    second = await dock.build(write_app(app, {"src/shop/__init__.py": "def main(): print('two')"}))
    assert await dock.run(second.image, "shop") == (0, "two\n")
    assert count_layers(dock, first.image)[0] == count_layers(dock, second.image)[0]


LOOK = """
import os, pathlib, sys, typing
import idna, own
assert pathlib.__file__.startswith(sys.base_prefix) and typing.__file__.startswith(sys.base_prefix)
packages = os.environ["VIRTUAL_ENV"] + "/lib/python%d.%d/site-packages" % sys.version_info[:2]
assert idna.__file__ == packages + "/idna/__init__.py"
assert (sys.prefix, sys.executable) == (os.environ["VIRTUAL_ENV"], os.environ["VIRTUAL_ENV"] + "/bin/python")
assert "_distutils_hack" in sys.modules or sys.version_info >= (3, 12)
print(own.WORD)
"""


async def test_virtual_environment(dock: Dock, tmp_path: Path) -> None:
    """As any: the standard library first, site-packages, .pth files; an app's own PYTHONPATH hides none of it."""
    files = {
        "Procfile": "web: x", "requirements.txt": "pathlib==1.0.1\ntyping==3.7.4.3\nidna\ngunicorn==20.1.0\n",
        "look.py": LOOK, "src/own.py": "WORD = 'well'",
    }  # fmt: skip
    image = (await dock.build(write_app(tmp_path / "app", files))).image
    assert await dock.run(image, "PYTHONPATH=src python look.py") == (0, "well\n")
    assert await dock.run(image, "gunicorn --version") == (0, "gunicorn (version 20.1.0)\n")


async def test_pkg_resources_for_who_does_not_say_so(dock: Dock, tmp_path: Path) -> None:
    """An app that imports it, and whose requirements do not lead to setuptools."""
    files = {"Procfile": "web: x", "requirements.txt": "idna", "app.py": "import pkg_resources, sys\nprint('there')\n"}
    image = (await dock.build(write_app(tmp_path / "app", files))).image
    code, said = await dock.run(image, "python app.py")
    assert (code, said.endswith("there\n")) == (0, True)


async def test_project_and_dependencies_are_in_one_environment(dock: Dock, tmp_path: Path) -> None:
    """Of two layers: what the project adds to a folder of the dependencies' is found beside them."""
    files = {
        "Procfile": "web: shop", "pyproject.toml": SRC_LAYOUT,
        "src/shop/__init__.py": "import itsdangerous, sys, importlib.metadata as m\n"
        "def main(): print(m.version('shop'), itsdangerous.__file__.startswith(sys.prefix), sys.argv[0][-9:])",
    }  # fmt: skip
    image = (await dock.build(write_app(tmp_path / "app", files))).image
    assert await dock.run(image, "shop") == (0, "1 True /bin/shop\n")


SETUPTOOLS = """
[project]
name = "shop"
version = "1"
dependencies = ["no-such-package-of-seaway"]

[build-system]
requires = ["setuptools"]
"""
POETRY = """
[tool.poetry]
package-mode = false

[tool.poetry.dependencies]
python = "^3.8"
itsdangerous = "^2"
click = {version = "*", optional = true}
"""
POETRY_LOCK = """
[[package]]
name = "itsdangerous"
version = "2.1.2"
optional = false
python-versions = ">=3.7"
files = []

[[package]]
name = "pytest"
version = "7.0.0"
optional = false
python-versions = ">=3.6"
files = []

[metadata]
lock-version = "2.0"
python-versions = "^3.8"
"""
VERSION = "import importlib.metadata as m, importlib.util as u\nprint(m.version('itsdangerous'), u.find_spec('click'))"


async def test_requirements_beside_a_project_that_is_no_package(dock: Dock, tmp_path: Path) -> None:
    """Folders that setuptools would take for packages do no harm, nor does what pyproject.toml asks for."""
    files = {"Procfile": "web: python app.py\n", "pyproject.toml": SETUPTOOLS, "app.py": APP}
    app = write_app(tmp_path / "app", files | dict.fromkeys(("static/a.css", "templates/a.html"), ""))
    (app / "requirements.txt").write_bytes("itsdangerous>=2\r\n".encode("utf-16"))
    assert await dock.run((await dock.build(app)).image, "python app.py") == (0, "runs with itsdangerous\n")
    assert "the project itself is not installed: a line `.` in requirements.txt does that" in dock.log.read_text()


@pytest.mark.parametrize(
    ("lock", "said"), [("", "2.2.0 None\n"), (POETRY_LOCK, "2.1.2 None\n")], ids=["without a lock", "with a lock"]
)
async def test_poetry_without_a_package(dock: Dock, tmp_path: Path, lock: str, said: str) -> None:
    """No build system, `package-mode = false`: what the table says is installed, or exactly what the lock says."""
    files = {"Procfile": "web: python app.py", "pyproject.toml": POETRY, "app.py": VERSION}
    app = write_app(tmp_path / "app", files | ({"poetry.lock": lock} if lock else {}))
    assert await dock.run((await dock.build(app)).image, "python app.py") == (0, said)


async def test_why_a_dependency_cannot_be_built(dock: Dock, tmp_path: Path) -> None:
    """The reason names the error, and not the way there."""
    broken = "import no_such_module_of_ours\n"
    files = {"Procfile": "web: x", "requirements.txt": "./libs/sunk\n", "libs/sunk/setup.py": broken}
    with pytest.raises(BuildError, match=r"requirements.txt: .*No module named 'no_such_module_of_ours'") as caught:
        await dock.build(write_app(tmp_path / "app", files))
    assert "line 1" not in str(caught.value)


@pytest.mark.parametrize("requirement", ["seaway-no-such-package-xyz==1.0", "click==99"])
async def test_dependency_that_does_not_resolve(dock: Dock, tmp_path: Path, requirement: str) -> None:
    """uv's reason in one sentence, the file to correct, and nothing left behind."""
    app = write_app(tmp_path / "app", {"Procfile": "web: x", "requirements.txt": requirement})
    with pytest.raises(BuildError) as caught:
        await dock.build(app)
    assert str(caught.value).startswith("requirements.txt: the dependencies cannot be installed: No solution found")
    assert requirement.partition("==")[0] in str(caught.value)
    assert str(caught.value).endswith("correct the name or the version in requirements.txt")
    assert dock.scratch == []


async def test_unreachable_index_hides_its_password(
    dock: Dock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index that does not answer is named without credentials."""
    monkeypatch.setenv("PIP_INDEX_URL", "http://bob:hunter2@127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    app = write_app(tmp_path / "app", {"Procfile": "web: x", "requirements.txt": "click"})
    with pytest.raises(BuildError, match="see that the package index can be reached"):
        await dock.build(app)
    assert "hunter2" not in dock.log.read_text()

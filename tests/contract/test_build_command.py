"""[build] command: what an app makes of its source in a build is in its image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seaway.builder.base import BuildError
from seaway.builder.hints import COLLECT
from tests.builder_kit import Dock, make_dock, write_app

GENERATE = """
import os, pathlib, sys
import idna
assert sys.prefix == os.environ["VIRTUAL_ENV"] and idna.__file__.startswith(sys.prefix)
pathlib.Path("out").mkdir()
pathlib.Path("out/page.txt").write_text(open("words.txt").read().upper())
print("page made")
"""
APP = {
    "Procfile": "web: cat out/page.txt",
    "requirements.txt": "idna",
    "generate.py": GENERATE,
    "words.txt": "two words",
    ".seawayignore": "out\n",
    "seaway.toml": '[build]\ncommand = "python generate.py && rm words.txt"\n',
}
SETTINGS = """
from pathlib import Path
SECRET_KEY, ROOT_URLCONF, ALLOWED_HOSTS = "x", "urls", ["*"]
INSTALLED_APPS = ["django.contrib.staticfiles"]
MIDDLEWARE = ["whitenoise.middleware.WhiteNoiseMiddleware"]
STATIC_URL, STATIC_ROOT = "static/", ""
STATIC_ROOT = Path(__file__).parent / "staticfiles"
STATICFILES_DIRS = [Path(__file__).parent / "assets"]
STORAGES = {"staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"}}
"""
MANAGE = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""
GET = """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
import django
from django.test import Client
django.setup()
print(b"".join(Client().get("/static/a.css")).decode())
"""
DJANGO = {
    "Procfile": "web: x", "requirements.txt": "django\nwhitenoise", "manage.py": MANAGE, "settings.py": SETTINGS,
    "urls.py": "urlpatterns = []\n", "assets/a.css": "b { color: red }", "get.py": GET,
}  # fmt: skip


@pytest.fixture
def dock(tmp_path: Path) -> Dock:
    return make_dock(tmp_path / "home")


async def test_what_it_makes_is_in_the_image(dock: Dock, tmp_path: Path) -> None:
    """With the dependencies in reach; also what ignore files name, and without what it removed. Seen in the log."""
    image = (await dock.build(write_app(tmp_path / "app", APP))).image
    assert await dock.run(image, "ls -I __pycache__; cat out/page.txt") == (
        0, "Procfile\ngenerate.py\nout\nrequirements.txt\nseaway.toml\nTWO WORDS",
    )  # fmt: skip
    log = dock.log.read_text()
    assert "-----> Running the build command: python generate.py && rm words.txt\n       page made\n" in log
    assert "-----> Files after it: 1 new, 1 removed\n" in log


async def test_it_runs_again_if_something_changed(dock: Dock, tmp_path: Path) -> None:
    """Its inputs are the whole source and the dependencies; the same ones give the same image, and it is not run."""
    app = write_app(tmp_path / "app", APP)
    first = await dock.build(app)
    for result in (dock.home.images / "seaway" / "results").iterdir():
        result.unlink()
    dock.steps.clear()
    assert await dock.build(app) == first
    assert "Source and command are unchanged: the layer with what it made is reused" in dock.steps
    second = await dock.build(write_app(app, {"words.txt": "others"}))
    assert await dock.run(second.image, "cat out/page.txt") == (0, "OTHERS")
    assert await make_dock(tmp_path / "other").build(app) == second


async def test_without_a_language(dock: Dock, tmp_path: Path) -> None:
    """A shell is there for every app; what the command leaves running does not write on."""
    more = "(trap '' HUP; while :; do echo more >> made; done) > /dev/null 2>&1 &"
    toml = f'[build]\ncommand = """echo made > made; {more} sleep 0.1"""\n'
    image = (await dock.build(write_app(tmp_path / "app", {"Procfile": "web: x", "seaway.toml": toml}))).image
    code, said = await dock.run(image, "cat made")
    assert (code, said.startswith("made\n")) == (0, True)
    assert dock.scratch == []


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("python -c 'import no_such_module'", "exited with 1: ModuleNotFoundError: No module named 'no_such_module'; "),
        ("exit 3", "exited with 3 and said nothing; the build's log has it in full"),
        ("ln -s /etc/passwd x", "what it left cannot be part of the image: x: links to /etc/passwd, outside the app's"),
    ],
)
async def test_why_it_failed(dock: Dock, tmp_path: Path, command: str, reason: str) -> None:
    """The reason names the field and ends with what was said last; nothing is left."""
    with pytest.raises(BuildError) as caught:
        await dock.build(write_app(tmp_path / "app", {**APP, "seaway.toml": f'[build]\ncommand = "{command}"\n'}))
    assert str(caught.value).startswith(f"seaway.toml: build.command: {reason}")
    assert dock.scratch == []


async def test_a_file_where_a_persistent_folder_is_to_be(dock: Dock, tmp_path: Path) -> None:
    """One that the command makes is in the way as one of the source is; what it makes in the folder is not."""
    mount = '[[mounts]]\nname = "db"\npath = "out/page.txt"\n'
    with pytest.raises(BuildError, match=r"mounts\[0\]\.path: out/page.txt is a file of the app's"):
        await dock.build(write_app(tmp_path / "app", {**APP, "seaway.toml": APP["seaway.toml"] + mount}))
    await dock.build(write_app(tmp_path / "app", {"seaway.toml": APP["seaway.toml"] + mount.replace("/page.txt", "")}))


async def test_static_files_of_django(dock: Dock, tmp_path: Path) -> None:
    """What a build's note says collects them; they are served."""
    toml = f"[build]\n{COLLECT.strip('`')}\n"
    image = (await dock.build(write_app(tmp_path / "app", {**DJANGO, "seaway.toml": toml}))).image
    code, said = await dock.run(image, "cat staticfiles/staticfiles.json && echo && python get.py")
    manifest, served = said.splitlines()
    assert (code, list(json.loads(manifest)["paths"]), served) == (0, ["a.css"], "b { color: red }")

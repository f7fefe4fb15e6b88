"""Hostile code in a build of Seaway as root: it reads nothing of the platform's, nor has the platform read it."""

from __future__ import annotations

import asyncio
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from seaway.builder.base import BuildError
from seaway.builder.interpreter import this_version
from seaway.builder.layout import ImageLayout
from seaway.builder.process import SubprocessBuilder
from seaway.builder.quarters import LIMITS, Quarters, find_cache
from seaway.sandbox.cgroups import Cgroups
from seaway.sandbox.users import Users
from tests.builder_kit import PROJECT_APP, Dock, make_dock, write_app

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give builds a user id of their own")

TOKEN = "the-admin-token"
REPORT = f"opt/seaway/venv/lib/python{this_version()}/site-packages/hello/report.json"
HOSTILE = """
import json, os, pathlib
report = {}

def attempt(name, action):
    try:
        found = action()
    except OSError:
        return
    if found:
        report[name] = repr(found)

def find_parent(pid):
    return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

def look_around(home):
    home = pathlib.Path(home)
    attempt("token", (home / "admin.token").read_bytes)
    attempt("home", lambda: set(os.listdir(home)) - {"builds"})
    for pid in filter(str.isdigit, os.listdir("/proc")):
        attempt(f"environ of {pid}", lambda: b"WORKERS_SECRET" in pathlib.Path(f"/proc/{pid}/environ").read_bytes())
    for place in ("/etc", "/usr/local/bin", "/root", home, home / "builds", home / "builds/cache/other/uv"):
        attempt(f"write {place}", lambda: pathlib.Path(place, "seaway-was-here").write_text("x"))
    attempt("become root", lambda: os.setuid(0) or "done")
    attempt("kill the worker", lambda: os.kill(find_parent(os.getppid()), 0) or "may be")

def leave_daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        for fd in range(3):
            os.close(fd)
        while True:
            with open("../project/late.txt", "a") as file:
                file.write("x")
"""


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nonexistent")


@pytest.fixture
def dock(tmp_path: Path) -> Iterator[Dock]:
    """A home with something to steal, in which no scratch folder is left in the end."""
    made = make_dock(tmp_path / "home")
    made.home.admin_token.write_text(TOKEN)
    Quarters(made.home).open("other")
    yield made
    assert made.scratch == []


def write_hostile_app(folder: Path, deeds: str) -> Path:
    """Write an app whose build does this, in `build_wheel`, and puts its `report` into the wheel."""
    backend = PROJECT_APP["backend.py"].replace(
        "    files = {\n", f"    {deeds}\n    files = {{\n        'hello/report.json': json.dumps(report),\n", 1
    )
    return write_app(folder, {**PROJECT_APP, "backend.py": HOSTILE + backend, "data.txt": "pushed"})


def read_files(dock: Dock, image: str) -> dict[str, bytes]:
    """Return the files of an image by name."""
    layout = ImageLayout(dock.home.images)
    files: dict[str, bytes] = {}
    for layer in layout.read_json(image)["layers"]:
        with tarfile.open(layout.path(layer["digest"])) as opened:
            files |= {member.name: opened.extractfile(member).read() for member in opened if member.isreg()}  # type: ignore[union-attr]
    return files


def list_running(dock: Dock) -> list[str]:
    """Return what runs under the user id of the app's builds."""
    user = Users(dock.home.node / "users.json").take("build/shop")
    return [p.info["name"] for p in psutil.process_iter(["uids", "name"]) if p.info["uids"].real == user]


async def test_builds_see_and_change_nothing(dock: Dock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither files nor processes of the platform, nor another app's cache; what is left running is ended."""
    monkeypatch.setenv("SEAWAY_SECRET", "WORKERS_SECRET")
    deeds = f"look_around({str(dock.home.root)!r}); leave_daemon(); report['names'] = sorted(os.environ)"
    built = await dock.build(write_hostile_app(tmp_path / "app", deeds))
    files = read_files(dock, built.image)
    report = json.loads(files[REPORT])
    assert "SSH_AUTH_SOCK" not in report.pop("names")
    assert report == {}
    assert list_running(dock) == []
    assert not any(TOKEN.encode() in content for content in files.values())


async def test_links_that_lead_out(dock: Dock, tmp_path: Path) -> None:
    """A link to the token among what was installed ends the build; so does one instead of the whole folder."""
    token = str(dock.home.admin_token)
    deeds = f"os.symlink({token!r}, '../project/x')"
    with pytest.raises(BuildError, match=r"x: what was installed links to .*admin.token, outside its folder"):
        await dock.build(write_hostile_app(tmp_path / "one", deeds))
    deeds = "os.rename('../project', '../gone'); os.symlink('home', '../project')"
    with pytest.raises(BuildError, match="outside its folder"):
        await dock.build(write_hostile_app(tmp_path / "two", deeds))
    assert ImageLayout(dock.home.images).list_images() == []
    assert list_running(dock) == []


async def test_builds_give_way(dock: Dock, tmp_path: Path) -> None:
    """They are in a group of all builds, with limits, and go before Seaway's own parts where memory is short."""
    deeds = "report.update({n: open('/proc/self/' + n).read().split()[-1] for n in ('cgroup', 'oom_score_adj')})"
    files = read_files(dock, (await dock.build(write_hostile_app(tmp_path / "app", deeds))).image)
    report = json.loads(files[REPORT])
    cgroups = Cgroups.open(dock.home.root)
    assert cgroups is not None
    assert report == {"cgroup": f"0::/seaway/{cgroups.base.name}/.builds", "oom_score_adj": "500"}
    bounds = Path("/sys/fs/cgroup").rglob(f"{cgroups.base.name}/.builds/pids.max")
    assert [path.read_text().strip() for path in bounds] == [str(LIMITS.pids)]
    cgroups.leave_own()
    cgroups.close()
    assert not cgroups.base.exists()


async def test_the_source_is_what_was_pushed(dock: Dock, tmp_path: Path) -> None:
    """What a build makes of its copy of the source is not in the image: neither changes nor links."""
    token = str(dock.home.admin_token)
    deeds = f"os.remove('data.txt'); os.symlink({token!r}, 'data.txt')"
    files = read_files(dock, (await dock.build(write_hostile_app(tmp_path / "app", deeds))).image)
    assert files["app/data.txt"] == b"pushed"


async def test_what_forks_faster_than_one_can_look_ends_too(dock: Dock, tmp_path: Path) -> None:
    """A build that leaves processes which replace themselves all the time."""
    deeds = "os.system(\"for i in 1 2 3; do (setsid sh -c 'f() { (f &); }; f' >/dev/null 2>&1 &); done\")"
    await dock.build(write_hostile_app(tmp_path / "app", deeds))
    assert list_running(dock) == []


async def test_nothing_reaches_another_app_or_the_next_of_the_name(dock: Dock, tmp_path: Path) -> None:
    """What code of one app's build had a hand in is used by builds of that app alone, until it is destroyed."""
    source, builder = dock.upload(write_app(tmp_path / "app", PROJECT_APP)), SubprocessBuilder(dock.home)

    async def builds_anew(app: str) -> bool:
        steps: list[str] = []
        await builder.build(app, source, dock.log, steps.append)
        return not steps[0].startswith("The source is unchanged")

    assert [await builds_anew(app) for app in ("shop", "shop", "blog")] == [True, False, True]
    cache, users = find_cache(dock.home, "shop"), Users(dock.home.node / "users.json")
    (cache / "poison").write_text("x")
    await asyncio.gather(builder.forget("shop"), builder.forget("shop"), SubprocessBuilder(dock.home).forget("none"))
    assert not cache.parent.exists()
    assert "build/shop" not in users.list_names()
    assert await builds_anew("shop")
    assert not (cache / "poison").exists()
    assert not list((dock.home.builds / "cache").glob(".old-*"))
    Quarters(dock.home).prune(unused_since=cache.parent.stat().st_mtime + 1)
    assert not cache.exists()

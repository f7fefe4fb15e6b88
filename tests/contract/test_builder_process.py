"""Whole builds in their own processes, without any package index; cancelling, crashing, unpacking, running."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from seaway.builder.base import BuildError
from seaway.builder.layout import ImageError, ImageLayout
from seaway.builder.process import SubprocessBuilder
from seaway.builder.unpack import CannotRun, ImageUnpacker
from seaway.model import Source
from seaway.sandbox.cgroups import Cgroups
from tests.builder_kit import PROJECT_APP, Dock, make_dock, make_wheel, write_app

SHELL_APP = {"Procfile": "web: ./serve\n", "serve": "#!/bin/sh\necho served by $0\n"}

HANGING_BACKEND = """
import os, time
with open({fifo!r}, "w") as fifo:
    fifo.write(str(os.getpid()))
time.sleep(600)
"""

PARENT = """
import asyncio, sys
from pathlib import Path
from seaway.builder.process import SubprocessBuilder
from seaway.home import Home
from seaway.model import Source
home = Home(Path(sys.argv[1]))
asyncio.run(SubprocessBuilder(home).build("shop", Source(archive=sys.argv[2]), home.builds / "log", print))
"""


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test here may need an index, or leave something in the user's cache."""
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))


@pytest.fixture
def dock(tmp_path: Path) -> Iterator[Dock]:
    """A builder in a fresh home that must have no scratch folder left in the end."""
    made = make_dock(tmp_path / "home")
    yield made
    assert made.scratch == []


async def test_procfile_only(dock: Dock, tmp_path: Path) -> None:
    """Files without a language become an image of one layer, and run."""
    app = write_app(tmp_path / "app", SHELL_APP)
    (app / "serve").chmod(0o755)
    built = await dock.build(app)
    assert built.manifest.processes["web"].command == "./serve"
    assert await dock.run(built.image, built.manifest.processes["web"].command) == (0, "served by ./serve\n")
    assert dock.steps[1].startswith("No language recognised")
    assert dock.steps[-1].startswith(f"Image {built.image}, ")
    assert [line for line in dock.log.read_text().splitlines() if line.startswith("----->")] == [
        f"-----> {step}" for step in dock.steps
    ]


async def test_same_source_same_digest(dock: Dock, tmp_path: Path) -> None:
    """Another home, folder, umask, time and file mode give the same image; a no-op is answered from memory."""
    app = write_app(tmp_path / "app", PROJECT_APP)
    first = await dock.build(app)
    other = make_dock(tmp_path / "elsewhere" / "deeper" / "home")
    copy = shutil.copytree(app, tmp_path / "copy")
    for path in copy.iterdir():
        os.utime(path, (5, 5))
        path.chmod(0o600)
    before = os.umask(0)
    try:
        second = await other.build(copy)
    finally:
        os.umask(before)
    assert second == first
    dock.steps.clear()
    assert await dock.build(app) == first
    assert dock.steps[0] == "The source is unchanged since it was last built: its image is reused"


async def test_project_is_installed_and_runs(dock: Dock, tmp_path: Path) -> None:
    """A project with a build system brings its command; nothing in the image names the scratch folder."""
    built = await dock.build(write_app(tmp_path / "app", PROJECT_APP))
    assert await dock.run(built.image, "hello") == (0, "hello from the project\n")
    code, where = await dock.run(built.image, "command -v python; python -c 'import sys; print(sys.path)'")
    assert code == 0
    assert str(dock.home.node) in where
    assert sys.prefix not in where
    for blob in ImageLayout(dock.home.images).blobs.iterdir():
        assert b"scratch-" not in blob.read_bytes()
        assert str(tmp_path).encode() not in blob.read_bytes()


async def test_dependency_layer_is_reused(dock: Dock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed line of the app leaves the dependency layer as it is; a changed requirement does not."""
    make_wheel(tmp_path / "wheels")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    files = {"Procfile": "web: hello\n", "requirements.txt": "hello==1.0\n"}
    first = await dock.build(write_app(tmp_path / "app", files))
    assert await dock.run(first.image, "hello") == (0, "hello from the project\n")
    assert "Installing dependencies from requirements.txt" in dock.steps
    dock.steps.clear()
    second = await dock.build(write_app(tmp_path / "app", {"extra.txt": "x"}))
    assert "Dependencies are unchanged: their layer is reused" in dock.steps
    dock.steps.clear()
    await dock.build(write_app(tmp_path / "app", {"requirements.txt": "hello>=1\n"}))
    assert "Installing dependencies from requirements.txt" in dock.steps
    layout = ImageLayout(dock.home.images)
    layers = [[layer["digest"] for layer in layout.read_json(image)["layers"]] for image in (first.image, second.image)]
    assert layers[0][0] == layers[1][0]
    assert layers[0][1] != layers[1][1]


BAD_SOURCES: list[tuple[dict[str, str], str]] = [
    ({"readme.txt": "x"}, "nothing recognisable in the source"),
    ({"app.py": "x"}, "found app.py, but neither a Procfile nor"),
    ({"Procfile": "web"}, "Procfile: line 1: 'web' has no colon"),
    ({"Procfile": "web: x", "seaway.toml": "[x\n"}, "seaway.toml: is not valid TOML"),
    (
        {"Procfile": "web: x", "requirements.txt": "a", ".python-version": "3.99"},
        ".python-version: asks for Python 3.99, this machine has",
    ),
    ({"Procfile": "web: x", "requirements.txt": "click=1"}, "requirements.txt: the dependencies cannot be installed: "),
]


@pytest.mark.parametrize(("files", "sentence"), BAD_SOURCES)
async def test_bad_sources(dock: Dock, tmp_path: Path, files: dict[str, str], sentence: str) -> None:
    """The reason is the error's message and the log's last lines; no image is made."""
    with pytest.raises(BuildError) as caught:
        await dock.build(write_app(tmp_path / "app", files))
    assert sentence in str(caught.value)
    assert sentence in dock.log.read_text().splitlines()[-1]
    assert ImageLayout(dock.home.images).list_images() == []


async def test_sources_that_are_not_there(dock: Dock) -> None:
    """A missing archive, a name that is no digest, and no source at all."""
    for source, sentence in [
        (Source(archive="ab" * 32), "is gone from the server: deploy again"),
        (Source(archive="../../etc/passwd"), "names no source"),
        (Source(), "names no source"),
        (Source(git="/nonexistent/repo"), "git: cannot fetch HEAD of /nonexistent/repo: "),
        (Source(git="https://bob:hunter2@127.0.0.1:9/x.git"), "of https://***@127.0.0.1:9/x.git"),
    ]:
        with pytest.raises(BuildError) as caught:
            await dock.build(source)
        assert sentence in str(caught.value)
    assert "hunter2" not in dock.log.read_text()


async def test_git_source(dock: Dock, tmp_path: Path) -> None:
    """A branch, a tag, a commit and the default of a repository build to the image of the same files."""
    app = write_app(tmp_path / "app", SHELL_APP)
    (app / "serve").chmod(0o755)
    uploaded = await dock.build(app)

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.com")
        return subprocess.run(
            ["git", *identity, *arguments], cwd=app, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    git("tag", "v1")
    old = git("rev-parse", "HEAD")
    write_app(app, {"new.txt": "x"})
    git("add", ".")
    git("commit", "-q", "-m", "two")
    for ref in ("v1", old):
        assert (await dock.build(Source(git=str(app), ref=ref))).image == uploaded.image
    assert (await dock.build(Source(git=f"file://{app}"))).image != uploaded.image
    with pytest.raises(BuildError, match="git: cannot fetch nope of"):
        await dock.build(Source(git=str(app), ref="nope"))


async def test_what_git_left_out_is_noted(dock: Dock, tmp_path: Path) -> None:
    """In the build's output; the build goes on."""
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    missing = {".gitmodules": '[submodule "t"]\n\tpath = theme\n', "model.bin": pointer}
    await dock.build(write_app(tmp_path / "app", SHELL_APP | missing))
    notes = [line for line in dock.log.read_text().splitlines() if "note: " in line]
    assert ["theme is empty" in notes[0], "model.bin: only pointers of git-lfs" in notes[1]] == [True, True]


async def test_concurrent_builds(dock: Dock, tmp_path: Path) -> None:
    """Three builds at once, two of them of the same source, all succeed."""
    one = dock.upload(write_app(tmp_path / "one", PROJECT_APP))
    two = dock.upload(write_app(tmp_path / "two", SHELL_APP))
    builder = SubprocessBuilder(dock.home)
    logs = [dock.home.builds / f"{name}.log" for name in "abc"]
    first, again, other = await asyncio.gather(
        *(builder.build("shop", source, log, lambda _: None) for source, log in zip((one, one, two), logs, strict=True))
    )
    assert first == again
    assert sorted(ImageLayout(dock.home.images).list_images()) == sorted({first.image, other.image})


@pytest.fixture
def meeting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that commands of builds can see, whoever runs them."""
    folder = tmp_path / "meeting"
    folder.mkdir()
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    return folder


def make_pipe(path: Path) -> Path:
    """Make a named pipe that everybody may write to."""
    os.mkfifo(path)
    path.chmod(0o666)
    return path


def write_hanging_app(tmp_path: Path) -> tuple[Path, Path]:
    """Return an app whose build writes its pid to a pipe in `meeting` and hangs, and the pipe."""
    fifo = make_pipe(tmp_path / "meeting" / "fifo")
    files = {**PROJECT_APP, "backend.py": HANGING_BACKEND.format(fifo=str(fifo))}
    return write_app(tmp_path / "app", files), fifo


def wait_gone(pid: int) -> None:
    """Wait until the process has ended (it may be a zombie that nobody reaps)."""
    try:
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            process.wait(timeout=10)
    except psutil.NoSuchProcess:
        return


@pytest.mark.usefixtures("meeting")
async def test_cancel_leaves_nothing_behind(dock: Dock, tmp_path: Path) -> None:
    """Cancelling kills the build's own children too, and removes its folder."""
    app, fifo = write_hanging_app(tmp_path)
    task = asyncio.create_task(dock.build(app))
    pid = int(await asyncio.to_thread(fifo.read_text))
    assert len(dock.scratch) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert dock.scratch == []
    await asyncio.to_thread(wait_gone, pid)
    assert ImageLayout(dock.home.images).list_images() == []


def leave_running(pipe: Path) -> str:
    """Return Python that leaves a process to itself, and writes its pid to the pipe."""
    shell = "echo $$ >$FILE; exec sleep 600"
    command = f"f=$(mktemp); (env -i FILE=$f setsid sh -c '{shell}' >/dev/null 2>&1 &); "
    command += f"until [ -s $f ]; do sleep 0.01; done; cat $f >{pipe}; rm $f"
    return f"import os; os.system({command!r})\n"


async def test_what_a_build_leaves_running_ends_with_it(dock: Dock, tmp_path: Path, meeting: Path) -> None:
    """In a session of its own and without the environment: when the build is done, and when it is cancelled."""
    first, second = make_pipe(meeting / "first"), make_pipe(meeting / "second")
    files = {**PROJECT_APP, "backend.py": leave_running(first) + PROJECT_APP["backend.py"]}
    held = os.open(first, os.O_RDWR)  # uv imports the backend more than once
    await dock.build(write_app(tmp_path / "done", files))
    left = os.read(held, 1000).split()
    os.close(held)
    assert left
    assert not any(psutil.pid_exists(int(pid)) for pid in left)
    app, fifo = write_hanging_app(tmp_path)
    write_app(app, {"backend.py": leave_running(second) + HANGING_BACKEND.format(fifo=str(fifo))})
    task = asyncio.create_task(dock.build(app))
    process = psutil.Process(int(await asyncio.to_thread(second.read_text)))
    await asyncio.to_thread(fifo.read_text)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(wait_gone, process.pid)


@pytest.mark.usefixtures("meeting")
async def test_build_timeout_of_the_app(dock: Dock, tmp_path: Path) -> None:
    """[build] timeout ends a build that hangs, and says so."""
    app, fifo = write_hanging_app(tmp_path)
    write_app(app, {"seaway.toml": '[build]\ntimeout = "1s"\n'})
    task = asyncio.create_task(dock.build(app))
    pid = int(await asyncio.to_thread(fifo.read_text))
    with pytest.raises(BuildError, match=r"took longer than its limit: raise build\.timeout"):
        await task
    await asyncio.to_thread(wait_gone, pid)


@pytest.mark.usefixtures("meeting")
async def test_kill_of_the_platform(dock: Dock, tmp_path: Path) -> None:
    """kill -9 of the control plane takes the build along; the next start removes what it left."""
    app, fifo = write_hanging_app(tmp_path)
    source = dock.upload(app)
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(dock.home.root), str(source.archive), stdout=subprocess.DEVNULL
    )
    pid = int(await asyncio.to_thread(fifo.read_text))
    builder = SubprocessBuilder(dock.home)
    assert builder.clean_leftovers() == 0
    parent.send_signal(signal.SIGKILL)
    await parent.wait()
    await asyncio.to_thread(wait_gone, pid)
    assert len(dock.scratch) == 1
    async with asyncio.timeout(10):
        while builder.clean_leftovers() == 0:  # the worker that held the lock may be dying still
            await asyncio.sleep(0.02)
    assert dock.scratch == []
    Cgroups.open(dock.home.root)  # those of the killed one go with this session's, now that it knows of them


async def test_unpacking_is_shared_and_released(dock: Dock, tmp_path: Path) -> None:
    """Many at once get one folder; release removes what no image in use has."""
    app = write_app(tmp_path / "app", SHELL_APP)
    one = await dock.build(app)
    two = await dock.build(write_app(app, {"more.txt": "x"}))
    unpacker = ImageUnpacker(dock.home)
    prepared = await asyncio.gather(*(unpacker.prepare(one.image) for _ in range(8)))
    assert len({found.workdir for found in prepared}) == 1
    kept = await unpacker.prepare(two.image)
    half = kept.workdir.parents[1] / ".old-half"
    half.mkdir()  # what a kill -9 in the middle of a release leaves
    await unpacker.release({two.image})
    assert not half.exists()
    assert not prepared[0].workdir.exists()
    assert kept.workdir.exists()
    assert (await unpacker.prepare(one.image)).workdir == prepared[0].workdir
    assert not list(dock.home.node.rglob(".new-*"))


async def test_images_that_need_containers(dock: Dock, tmp_path: Path) -> None:
    """Images for another machine, from another builder, or for a Python that is not here are refused."""
    built = await dock.build(write_app(tmp_path / "app", SHELL_APP))
    layout = ImageLayout(dock.home.images)

    def remake(**changes: object) -> str:
        manifest = layout.read_json(built.image)
        config = {**layout.read_json(manifest["config"]["digest"]), **changes}
        blob = layout.put_bytes(json.dumps(config).encode())
        manifest["config"] |= {"digest": blob.digest, "size": blob.size}
        return layout.put_bytes(json.dumps(manifest).encode()).digest

    python = {"Labels": {"io.seaway.local": "true", "io.seaway.runtime": "python3.99"}, "Env": []}
    for image, sentence in [
        (remake(architecture="s390x"), "is for s390x, this machine is"),
        (remake(config={"Env": []}), "was not built by Seaway's builder"),
        (remake(config=python), "has no Python 3.99"),
    ]:
        with pytest.raises(CannotRun) as caught:
            await ImageUnpacker(dock.home).prepare(image)
        assert sentence in str(caught.value)
        assert "needs containers: run it with the Kubernetes engine" in str(caught.value)
    with pytest.raises(ImageError, match="is not in the store"):
        await ImageUnpacker(dock.home).prepare("sha256:" + "0" * 64)

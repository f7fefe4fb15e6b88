"""Unpacked layers: who may read them, and the caches that the node compiles into them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib.util import cache_from_source
from io import BytesIO
from pathlib import Path

import psutil
import pytest

from seaway.builder.compiling import CacheCompiler
from seaway.builder.image import Layer, TextFile, write_image, write_layer
from seaway.builder.interpreter import this_version
from seaway.builder.layout import Blob, ImageLayout
from seaway.builder.plan import SourceFacts, make_plan
from seaway.builder.schema import BuildTable
from seaway.builder.unpack import ImageUnpacker, Prepared, _remove
from seaway.engine.local.files import copy_tree
from seaway.home import Home

VERSION = this_version()
SHOP = {
    "app/shop/__init__.py": "",
    "app/shop/cart.py": "",
    "app/shop/deep/last.py": "",
    "app/old.py": "print 'Python 2'\n",
}

AGENT = """
import sys
from pathlib import Path
from seaway.builder.compiling import CacheCompiler
root = Path(sys.argv[1])
CacheCompiler(root).compile([root / "layers" / "ab"], "{version}", Path(sys.executable))
sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Every compile ends before its test does."""
    yield
    for process in list_compiles():
        with suppress(psutil.NoSuchProcess):  # it has just ended
            process.kill()
            process.wait(10)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60  # at nice 19, beside other tests
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def list_compiles(pid: int | None = None) -> list[psutil.Process]:
    """Return what this process (or another) compiles now."""
    found = psutil.Process(pid).children()
    return [process for process in found if any("py_compile" in part for part in read_argv(process))]


def find_compile(pid: int | None = None) -> psutil.Process:
    """Return the one compile that runs, once it does."""
    found: list[psutil.Process] = []

    def look() -> list[psutil.Process]:
        found[:] = list_compiles(pid)
        return found

    wait_until(look)
    (process,) = found  # that a second look does not find while it becomes the image's interpreter
    return process


def read_argv(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # a zombie
        return []


def add_image(home: Home, files: Mapping[str, str]) -> str:
    """Put an image of one layer into the store."""
    layout = ImageLayout(home.images).create()
    blob = write_layer(layout, [TextFile(name, text.encode()) for name, text in files.items()], home.root)
    return name_image(layout, blob)


def name_image(layout: ImageLayout, blob: Blob) -> str:
    return write_image(layout, make_plan(SourceFacts(has_python_files=True), BuildTable()), [Layer(blob, "app")])


def prepare(home: Home, image: str) -> Prepared:
    return asyncio.run(ImageUnpacker(home).prepare(image))


def list_markers(home: Home) -> list[str]:
    folder = home.node / "rootfs" / "compiled"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def import_loudly(prepared: Prepared, folder: Path) -> str:
    """Import shop.cart as the image's processes do; return what Python says of where it comes from."""
    command = ["python", "-v", "-c", "import shop.cart"]
    env = {**prepared.env, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stderr


def make_layer(root: Path, *, is_endless: bool) -> Path:
    """Make a layer by hand; the compile of an endless one begins and does not end: it reads a pipe."""
    layer = root / "layers" / "ab"
    (layer / "deep").mkdir(parents=True)
    (layer / "first.py").write_text("x = 1\n")
    os.mkfifo(layer / "deep" / "last.py") if is_endless else (layer / "deep" / "last.py").write_text("x = 1\n")
    return layer


def make_endless(home: Home, prepared: Prepared) -> Path:
    """Make the compile of an unpacked and compiled layer begin again and not end; return a cache that it writes."""
    wait_until(lambda: list_markers(home))
    last = prepared.workdir / "shop" / "deep" / "last.py"
    last.parent.chmod(0o755)
    last.unlink()
    os.mkfifo(last)
    for name in list_markers(home):
        (home.node / "rootfs" / "compiled" / name).unlink()
    for cache in prepared.workdir.rglob("*.pyc"):
        cache.unlink()
    return Path(cache_from_source(str(prepared.workdir / "shop" / "__init__.py")))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").create()


def test_caches_appear_and_are_used(home: Home, tmp_path: Path) -> None:
    """Sources of this version are compiled, others passed over; a copy of the app's folder has valid caches too."""
    prepared = prepare(home, add_image(home, SHOP))
    wait_until(lambda: list_markers(home))
    app, copy = prepared.workdir, tmp_path / "copy"
    copy_tree(app, copy)
    for folder in (app, copy):
        assert f"code object from '{cache_from_source(str(folder / 'shop/cart.py'))}'" in import_loudly(
            prepared, folder
        )
    assert sorted(path.name for path in app.rglob("*.pyc")) == [
        f"{name}.cpython-{VERSION.replace('.', '')}.pyc" for name in ("__init__", "cart", "last")
    ]
    assert list_markers(home) == [f"{app.parent.name}-{VERSION}"]


def test_prepare_does_not_wait(home: Home) -> None:
    """While something else compiles, an image is ready, and a layer is asked for but once."""
    image = add_image(home, SHOP)
    (home.node / "rootfs").mkdir()
    unpacker = ImageUnpacker(home)
    with (home.node / "rootfs" / ".compiling").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for _ in range(3):
            prepared = asyncio.run(unpacker.prepare(image))
        find_compile()
        assert not list(prepared.workdir.rglob("*.pyc"))
    wait_until(lambda: list_markers(home))
    assert len(list(prepared.workdir.rglob("*.pyc"))) == 3


def test_compile_is_out_of_the_way(tmp_path: Path) -> None:
    """One process at nice 19, in a session of its own, whatever the umask is, leaves caches that all can read."""
    layer, compiler = make_layer(tmp_path, is_endless=True), CacheCompiler(tmp_path)
    before = os.umask(0o077)
    try:
        compiler.compile([layer], VERSION, Path(sys.executable))
        cache = Path(cache_from_source(str(layer / "first.py")))
        wait_until(cache.exists)
    finally:
        os.umask(before)
    process = find_compile()
    assert (process.nice(), os.getsid(process.pid)) == (19, process.pid)
    assert Path(f"/proc/{process.pid}/oom_score_adj").read_text() == "1000\n"
    assert cache.stat().st_mode & 0o777 == 0o644
    compiler.forget(lambda _: True)
    assert not process.is_running()


@pytest.mark.parametrize("end", [signal.SIGKILL, None])
def test_compile_ends_with_the_agent_and_is_finished_later(tmp_path: Path, end: signal.Signals | None) -> None:
    """Killed or just ending, half-way: nothing is left running or marked, and the next one does all."""
    layer = make_layer(tmp_path, is_endless=True)
    code = AGENT.format(version=VERSION)
    agent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE)
    cache = Path(cache_from_source(str(layer / "first.py")))
    wait_until(cache.exists)
    process = find_compile(agent.pid)
    if end:
        agent.send_signal(end)
    agent.communicate(None if end else b"\n", 10)
    wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
    assert not (tmp_path / "compiled").exists()
    half = cache.with_name(f"{cache.name}.4711")
    half.touch()
    (layer / "deep" / "last.py").unlink()
    (layer / "deep" / "last.py").write_text("x = 1\n")
    CacheCompiler(tmp_path).compile([layer], VERSION, Path(sys.executable))
    wait_until((tmp_path / "compiled" / f"ab-{VERSION}").exists)
    assert Path(cache_from_source(str(layer / "deep" / "last.py"))).exists()
    assert not half.exists()


def test_compile_that_is_killed_is_not_tried_for_ever(tmp_path: Path) -> None:
    """A source that no compiler survives costs a few attempts of an agent."""
    layer, compiler = make_layer(tmp_path, is_endless=True), CacheCompiler(tmp_path)
    for _ in range(3):
        compiler.compile([layer], VERSION, Path(sys.executable))
        wait_until(Path(cache_from_source(str(layer / "first.py"))).exists)
        find_compile().kill()
        wait_until(lambda: not any(thread.name == "compiling" for thread in threading.enumerate()))
    compiler.compile([layer], VERSION, Path(sys.executable))
    assert not any(thread.name == "compiling" for thread in threading.enumerate())


def test_done_is_by_version(tmp_path: Path) -> None:
    """A layer of two images with different Pythons is compiled by both, one after the other."""
    layer, compiler = make_layer(tmp_path, is_endless=False), CacheCompiler(tmp_path)
    compiler.compile([layer], "3.11", Path(sys.executable))
    compiler.compile([layer], "3.12", Path(sys.executable))
    wait_until(lambda: sorted(p.name for p in (tmp_path / "compiled").glob("*")) == ["ab-3.11", "ab-3.12"])


@pytest.mark.parametrize("python", ["/bin/false", "/nonexistent/python"])
def test_failed_compile_is_not_done(tmp_path: Path, python: str) -> None:
    """An interpreter that fails or is gone marks nothing, and holds up nothing."""
    layer, compiler = make_layer(tmp_path, is_endless=False), CacheCompiler(tmp_path)
    compiler.compile([layer], "3.12", Path(python))
    compiler.compile([tmp_path / "layers" / "gone"], VERSION, Path(sys.executable))
    compiler.compile([layer], VERSION, Path(sys.executable))
    wait_until((tmp_path / "compiled" / f"ab-{VERSION}").exists)
    assert [path.name for path in (tmp_path / "compiled").iterdir()] == [f"ab-{VERSION}"]


def test_forgotten_before_it_began(tmp_path: Path) -> None:
    """A layer that comes and goes while others do the same, as in prepares at once, is compiled in the end."""
    layer, compiler = make_layer(tmp_path, is_endless=False), CacheCompiler(tmp_path)
    for _ in range(50):
        compiler.compile([layer], VERSION, Path(sys.executable))
        compiler.forget(lambda _: True)
    compiler.compile([layer], VERSION, Path(sys.executable))
    wait_until((tmp_path / "compiled" / f"ab-{VERSION}").exists)


def test_links_lead_nowhere(tmp_path: Path) -> None:
    """What a link leads to, perhaps out of the layer, is not read into a cache that apps may read."""
    layer = make_layer(tmp_path, is_endless=False)
    (tmp_path / "secret").write_text("token\n")
    (layer / "link.py").symlink_to("../../secret")
    CacheCompiler(tmp_path).compile([layer], VERSION, Path(sys.executable))
    wait_until((tmp_path / "compiled" / f"ab-{VERSION}").exists)
    assert not Path(cache_from_source(str(layer / "link.py"))).exists()


def test_release_during_compile(home: Home) -> None:
    """Neither the layer, nor its marker, nor a process is left; unpacked again it is compiled again."""
    image = add_image(home, SHOP)
    cache = make_endless(home, prepare(home, image))
    unpacker = ImageUnpacker(home)
    asyncio.run(unpacker.prepare(image))
    wait_until(cache.exists)
    process = find_compile()
    asyncio.run(unpacker.release(set()))
    assert not process.is_running()
    assert list((home.node / "rootfs" / "layers").iterdir()) == []
    asyncio.run(unpacker.prepare(image))
    wait_until(lambda: list_markers(home))
    assert len(list((home.node / "rootfs" / "layers").rglob("*.pyc"))) == 3
    asyncio.run(unpacker.release(set()))
    assert list_markers(home) == []


def test_release_keeps_what_is_in_use(home: Home) -> None:
    """The compile of another image's layer goes on."""
    kept = add_image(home, SHOP)
    cache = make_endless(home, prepare(home, kept))
    unpacker = ImageUnpacker(home)
    asyncio.run(unpacker.prepare(kept))
    asyncio.run(unpacker.prepare(add_image(home, {"app/other.py": ""})))
    wait_until(cache.exists)
    asyncio.run(unpacker.release({kept}))
    process = find_compile()
    assert process.is_running()
    assert len(list((home.node / "rootfs" / "layers").iterdir())) == 1


def test_layer_that_is_written_to_can_be_removed(tmp_path: Path) -> None:
    """Another process's compile writes on, until it misses what it compiles."""
    layer = make_layer(tmp_path, is_endless=False)
    (layer / "deep" / "__pycache__").mkdir()

    def write() -> None:
        for number in range(10000):
            try:
                (layer / "deep" / "__pycache__" / str(number)).touch()
            except FileNotFoundError:
                return

    writer = threading.Thread(target=write)
    writer.start()
    _remove(layer)
    writer.join()
    assert not layer.exists()


@pytest.mark.parametrize("umask", [0o077, 0o000])
def test_everybody_may_read_and_nobody_write(home: Home, umask: int) -> None:
    """Whatever umask the agent and modes the layer has; only the node's own caches may be written, by their owner."""
    layout = ImageLayout(home.images).create()
    content = BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, mode in [
            ("app/run", 0o700),
            ("app/a.py", 0o600),
            ("app/open", 0o666),
            ("app/__pycache__/a.pyc", 0o600),
        ]:
            info = tarfile.TarInfo(name)
            info.mode = mode
            archive.addfile(info)
        folder = tarfile.TarInfo("app/sub")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o700
        archive.addfile(folder)
    image = name_image(layout, layout.put_bytes(content.getvalue()))
    before = os.umask(umask)
    try:
        app = prepare(home, image).workdir
    finally:
        os.umask(before)
    wait_until(lambda: list_markers(home))
    python = home.node / "rootfs" / "python" / VERSION
    assert {str(path.relative_to(app)): oct(path.stat().st_mode & 0o777) for path in app.rglob("*")} == {
        "run": "0o555", "a.py": "0o444", "open": "0o444", "sub": "0o555", "__pycache__": "0o755",
        str(Path(cache_from_source("a.py"))): "0o644",
    }  # fmt: skip
    inside = [path for path in (app.parent, *python.rglob("*")) if not path.is_symlink()]
    assert {path.stat().st_mode & 0o777 for path in inside if path.is_dir()} == {0o555}
    assert (python / "pyvenv.cfg").stat().st_mode & 0o777 == 0o444


def test_environment_of_an_older_seaway_is_opened(home: Home) -> None:
    """It was made for its owner alone; one whose interpreter has gone is made anew."""
    image = add_image(home, SHOP)
    prepare(home, image)
    python = home.node / "rootfs" / "python" / VERSION
    python.chmod(0o700)
    prepare(home, image)
    assert python.stat().st_mode & 0o777 == 0o555
    (python / "bin").chmod(0o755)
    (python / "bin" / "python").unlink()
    prepare(home, image)
    assert (python / "bin" / "python").exists()


def test_copy_passes_over_caches_that_are_being_written(tmp_path: Path) -> None:
    """They have another name for a moment, and would be gone when they are copied."""
    cache = tmp_path / "app" / "__pycache__"
    cache.mkdir(parents=True)
    (cache / "a.cpython-311.pyc").touch()
    (cache / "b.cpython-311.pyc.140001").symlink_to("gone")
    copy_tree(tmp_path / "app", tmp_path / "copy")
    assert [path.name for path in (tmp_path / "copy" / "__pycache__").iterdir()] == ["a.cpython-311.pyc"]

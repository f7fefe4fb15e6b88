"""Builds for containers, against a real registry and a real Debian with Python: what is pushed, shared, and runs."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from seaway.builder.base import BuildError, Built
from seaway.builder.cluster import RegistryBuilder
from seaway.builder.compose import LABEL_BASE_DIGEST
from seaway.builder.registry_stores import RegistryLogs, RegistrySources
from seaway.model import Source
from seaway.registry.images import Image, Registries
from seaway.registry.reference import parse_reference
from seaway.registry.transport import Access
from tests.builder_kit import PROJECT_APP, Dock, make_dock, make_wheel, write_app
from tests.image_kit import can_enter, run, unpack
from tests.registry_kit import Registry, make_htpasswd, push_base, run_registry, write_credentials

PLAIN = Access(insecure=True)
SHELL_APP = {"Procfile": "web: ./serve\n", "serve": "#!/bin/sh\necho served by $(id -u) in $(pwd)\n"}
WHEEL_APP = {
    "Procfile": "web: python app.py\n",
    "requirements.txt": "hello\n",
    "app.py": "import hello; hello.main()\n",
}
READ_ONLY = "web: hello && ! touch /app/x 2>/dev/null && touch $HOME/y\n"
HANGING = "import os, time\nopen({fifo!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Dependencies come from a folder of wheels, never from an index or a cache."""
    make_wheel(tmp_path / "wheels")
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "wheels"))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with run_registry(tmp_path_factory.mktemp("registry"), access=PLAIN) as running:
        yield running


@pytest.fixture(scope="module")
def base(registry: Registry) -> str:
    return push_base(registry)


@dataclass
class Replica:
    """One replica of the control plane: a disk of its own, the registry in common."""

    dock: Dock
    builder: RegistryBuilder
    sources: RegistrySources
    registries: Registries

    async def upload(self, folder: Path) -> Source:
        packed = self.dock.upload(folder)
        assert packed.archive is not None
        file = self.dock.home.sources / f"{packed.archive}.tar.gz"
        await self.sources.put(file.rename(file.with_name(".upload")), packed.archive)
        return packed

    async def build(self, source: Source | Path, app: str = "shop") -> Built:
        wanted = await self.upload(source) if isinstance(source, Path) else source
        return await self.builder.build(app, wanted, self.dock.log, self.dock.steps.append)

    async def read(self, image: str) -> Image:
        return await self.registries.read(parse_reference(image), "amd64")


def make_replica(root: Path, registries: Registries, base: str) -> Replica:
    dock = make_dock(root)
    sources = RegistrySources(registries, dock.home)
    builder = RegistryBuilder(dock.home, registries, sources, RegistryLogs(registries), base)
    return Replica(dock, builder, sources, registries)


@pytest_asyncio.fixture
async def registries(registry: Registry) -> AsyncIterator[Registries]:
    made = registry.registries()
    yield made
    await made.close()


@pytest.fixture
def replica(tmp_path: Path, registries: Registries, base: str) -> Iterator[Replica]:
    made = make_replica(tmp_path / "one", registries, base)
    yield made
    assert made.dock.scratch == []


async def test_an_image_on_its_base(replica: Replica, registry: Registry, base: str, tmp_path: Path) -> None:
    """Named by digest below the registry's path, the base's layers mounted, the base recorded by digest; it runs."""
    app = write_app(tmp_path / "app", SHELL_APP)
    (app / "serve").chmod(0o755)
    built = await replica.build(app)
    assert built.image.startswith(f"{registry.host}/apps/shop@sha256:")
    image, below = await replica.read(built.image), await replica.read(base)
    assert image.layers[: len(below.layers)] == below.layers
    assert image.labels[LABEL_BASE_DIGEST] == below.reference.digest
    assert replica.dock.steps[-1].startswith(f"Image {built.image}, ")
    if can_enter():
        image = await unpack(replica.registries, built.image, tmp_path / "root")
        assert run(image, tmp_path / "root").stdout == "served by 10001 in /app\n"


async def test_dependencies_and_project_run(replica: Replica, tmp_path: Path) -> None:
    """`python` is the base's interpreter, a wheel and an installed project are found, the root is read-only."""
    for name, files in [("wheel", WHEEL_APP), ("project", {**PROJECT_APP, "Procfile": READ_ONLY})]:
        built = await replica.build(write_app(tmp_path / name, files))
        if can_enter():
            image = await unpack(replica.registries, built.image, tmp_path / f"root-{name}")
            ran = run(image, tmp_path / f"root-{name}")
            assert (ran.returncode, ran.stdout) == (0, "hello from the project\n"), ran.stderr


async def test_another_replica_makes_the_same_and_nothing_twice(
    replica: Replica, registries: Registries, base: str, tmp_path: Path
) -> None:
    """With an empty disk it reads the source from the registry, answers from what was built, and installs nothing."""
    app = write_app(tmp_path / "app", WHEEL_APP)
    source = await replica.upload(app)
    first = await replica.build(source)
    other = make_replica(tmp_path / "two", registries, base)
    assert await other.build(source) == first
    assert other.dock.steps[0] == "The source is unchanged since it was last built: its image is reused"
    shutil.rmtree(tmp_path / "wheels")  # from here on an installation would fail
    changed = await replica.upload(write_app(app, {"app.py": WHEEL_APP["app.py"] + "# changed\n"}))
    third = make_replica(tmp_path / "three", registries, base)
    second = await third.build(changed)
    assert "Dependencies are unchanged: their layer is in the registry" in third.dock.steps
    assert second.image != first.image
    assert await make_replica(tmp_path / "four", registries, base).build(changed) == second


async def test_a_build_command_has_dependencies_of_the_registry(
    replica: Replica, registries: Registries, base: str, tmp_path: Path
) -> None:
    """A replica that has never installed them fetches their layer; what the command makes is in the image."""
    toml = '[build]\ncommand = "python app.py > made"\n'
    app = write_app(tmp_path / "app", {**WHEEL_APP, "Procfile": "web: cat made", "seaway.toml": toml})
    await replica.build(app)
    shutil.rmtree(tmp_path / "wheels")
    other = make_replica(tmp_path / "two", registries, base)
    built = await other.build(write_app(app, {"note": "changed"}))
    assert "Dependencies are unchanged: their layer is in the registry" in other.dock.steps
    if can_enter():
        image = await unpack(registries, built.image, tmp_path / "root")
        assert run(image, tmp_path / "root").stdout == "hello from the project\n"


async def test_a_base_that_moved_is_built_upon_anew(
    replica: Replica, registry: Registry, registries: Registries, tmp_path: Path
) -> None:
    """The same source on another base is another image; back on the first base it is the first image again."""
    base = push_base(registry, tag="moving")
    one = make_replica(tmp_path / "moving", registries, base)
    source = await one.upload(write_app(tmp_path / "app", {**SHELL_APP, "note": "moving"}))
    first = await one.build(source)
    push_base(registry, tag="moving", Labels={"changed": "yes"})
    second = await one.build(source)
    assert second.image != first.image
    push_base(registry, tag="moving")
    assert (await one.build(source)).image == first.image


async def test_a_base_that_the_app_names(replica: Replica, registry: Registry, tmp_path: Path) -> None:
    """[build] base without a host is looked for below the platform's own place; what does not fit is refused."""
    push_base(registry, name="apps/python", tag="3.11")
    toml = '[build]\nbase = "python:3.11"\n'
    built = await replica.build(write_app(tmp_path / "app", {**SHELL_APP, "seaway.toml": toml}))
    assert (await replica.read(built.image)).labels["org.opencontainers.image.base.name"].endswith("/apps/python:3.11")
    for changes, sentence in [
        ({"seaway.toml": '[build]\nbase = "none:1"\n'}, f"there is no {registry.host}/apps/none:1: see its name"),
        ({"seaway.toml": toml, ".python-version": "3.10"}, "has 3.11: ask for one that is there, or name another one"),
    ]:
        with pytest.raises(BuildError) as caught:
            await replica.build(write_app(tmp_path / "app", changes))
        assert sentence in str(caught.value)
        assert sentence in replica.dock.log.read_text().splitlines()[-1]


async def test_logs_are_read_elsewhere(replica: Replica, registries: Registries, tmp_path: Path) -> None:
    """While a build hangs and after it was cancelled, another replica reads its log."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    files = {**PROJECT_APP, "backend.py": HANGING.format(fifo=str(fifo))}
    task = asyncio.create_task(replica.build(write_app(tmp_path / "app", files)))
    await asyncio.to_thread(fifo.read_text)
    logs, copy = RegistryLogs(registries), tmp_path / "copy"
    async with asyncio.timeout(20):
        while not (await logs.fetch("shop.b1", copy) and "Installing the project itself" in copy.read_text()):
            await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await logs.fetch("shop.b1", copy)
    assert copy.read_text() == replica.dock.log.read_text()
    assert not await logs.fetch("shop.b1", copy, newer_than=copy.stat().st_mtime)


async def test_sources_are_used_and_deleted(replica: Replica, registries: Registries, tmp_path: Path) -> None:
    """A source stays while it is kept or of late use; then it is gone everywhere but from a replica's own disk."""
    now = 1000.0
    home = make_dock(tmp_path / "clocked").home
    sources = RegistrySources(registries, home, clock=lambda: now)
    file = tmp_path / "archive"
    file.write_bytes(b"\x1f\x8b of " + os.urandom(8))
    source = await replica.upload(write_app(tmp_path / "app", {"Procfile": "web: x", "n": "1"}))
    digest = str(source.archive)
    assert await sources.use(digest)  # long before its upload in replica's time: not noted
    assert await sources.delete_old({digest}, 10**10) >= 0
    assert await sources.use(digest)
    assert await sources.delete_old(set(), 0) == 0
    assert await sources.delete_old(set(), 10**10) >= 1
    assert not await sources.use(digest)
    assert not await sources.fetch(digest, tmp_path / "back")
    assert not await sources.fetch("ab" * 32, tmp_path / "back")


async def test_a_source_that_nobody_has(replica: Replica) -> None:
    """It says what to do, here and in the log that everybody can read."""
    with pytest.raises(BuildError, match="is gone from the server: deploy again"):
        await replica.build(Source(archive="ab" * 32))


async def test_a_registry_that_lets_nobody_push(base: str, tmp_path: Path) -> None:
    """The registry's words are the build's reason, without the password."""
    with run_registry(tmp_path / "r", auth=make_htpasswd(tmp_path / "htpasswd"), access=PLAIN) as registry:
        wrong = write_credentials(tmp_path / "config.json", registry.host, "wrong-password")
        registries = registry.registries(Access(insecure=True, credentials=wrong))
        replica = make_replica(tmp_path / "home", registries, "base:1")
        source = replica.dock.upload(write_app(tmp_path / "app", SHELL_APP))
        with pytest.raises(BuildError, match=r"refuses user and password for .*/apps/shop"):
            await replica.builder.build("shop", source, replica.dock.log, print)
        assert "wrong-password" not in replica.dock.log.read_text()
        await registries.close()


async def test_base_of_another_registry_is_copied(base: str, registries: Registries, tmp_path: Path) -> None:
    """Its layers are brought over once, by their digests; pruning then empties the local cache, not the registry."""
    with run_registry(tmp_path / "r", access=PLAIN) as registry:
        own = registry.registries()
        own._clients[base.partition("/")[0]] = registries.home  # plain HTTP is for the own host only
        replica = make_replica(tmp_path / "home", own, base)
        built = await replica.build(write_app(tmp_path / "app", WHEEL_APP))
        image = await replica.read(built.image)
        assert all([await own.home.has_blob("apps/shop", layer.digest) for layer in image.layers])
        assert (await replica.builder.prune(set(), 10**10, 0) or 0) > 0
        assert json.loads(image.manifest.content)["annotations"]["org.opencontainers.image.base.name"] == base
        assert (await replica.build(write_app(tmp_path / "app", {"new": "x"}))).image != built.image
        await own.close()

"""Pruning with the real builder, store and files: what is needed stays, the rest goes, builds don't notice."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from seaway.builder.layout import ImageLayout
from seaway.builder.process import SubprocessBuilder
from seaway.control.builds import BuildRunner
from seaway.control.pruning import SPARE, Pruner
from seaway.engine.memory import MemoryEngine
from seaway.model import (
    App,
    AppStatus,
    Build,
    BuildSpec,
    BuildState,
    BuildStatus,
    Document,
    Meta,
    Phase,
    Process,
    Release,
    ReleaseSpec,
    Rollout,
    RolloutSpec,
    RolloutStatus,
    Source,
    Workload,
    WorkloadKey,
    release_name,
)
from seaway.rollout.history import MOST_BUILDS, MOST_RELEASES
from seaway.store.memory import MemoryStore
from tests.builder_kit import PROJECT_APP, Dock, make_dock, write_app
from tests.contract.engine_kit import eventually

SHELL_APP = {"Procfile": "web: ./serve\n", "serve": "#!/bin/sh\necho served\n"}
SLOW_BACKEND = (
    PROJECT_APP["backend.py"]
    + """
_build = build_wheel
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    with open(FIFO) as fifo:
        fifo.read()
    return _build(wheel_directory)
"""
)


class Quay:
    """A builder with the documents and the pruner around it; `later` makes every file so far old."""

    def __init__(self, root: Path) -> None:
        self.dock: Dock = make_dock(root)
        self.store = MemoryStore()
        self.engine = MemoryEngine()
        self.builder = SubprocessBuilder(self.dock.home)
        self.layout = ImageLayout(self.dock.home.images)
        self.offset = 0.0
        self.leads = True
        self.pruner = Pruner(
            self.store, self.builder, self.engine, self.dock.home, clock=lambda: time.time() + self.offset,
            may_act=lambda: self.leads,
        )  # fmt: skip
        self.ended = 0
        self.runner = BuildRunner(
            self.store, self.builder, self.dock.home, clock=lambda: datetime.now(UTC), tell=self._tell,
            on_end=self._count,
        )  # fmt: skip

    async def _tell(self, event: object, team: str) -> None:
        """Nobody listens."""

    def _count(self) -> None:
        self.ended += 1

    def later(self) -> None:
        for path in (*self.dock.home.images.rglob("*"), *self.dock.home.sources.iterdir()):
            os.utime(path, (0, 0))

    async def queue(self, number: int, source: Source, *, deploy: bool = False) -> Build:
        spec = BuildSpec(app="shop", number=number, source=source, deploy=deploy)
        return await self.store.create(Build(meta=Meta(name=f"shop.b{number}", labels={"app": "shop"}), spec=spec))

    async def run(self, number: int) -> Build:
        """Let the build runner work until the build has ended."""
        app = await self.store.get(App, "shop")

        async def look() -> Build | None:
            await self.runner.reconcile(app)
            build = await self.store.get(Build, f"shop.b{number}")
            return None if build.status.state in (BuildState.QUEUED, BuildState.RUNNING) else build

        return await eventually(look, 60)


@pytest.fixture
async def quay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Quay:
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    made = Quay(tmp_path / "home")
    await made.store.create(App(meta=Meta(name="shop")))
    return made


def write_log(folder: Path) -> Path:
    """Make an old log of an app."""
    folder.mkdir(parents=True)
    (folder / "00000001.jsonl").touch()
    (folder / "current").symlink_to("00000001.jsonl")
    for path in folder.iterdir():
        os.utime(path, (0, 0), follow_symlinks=False)
    return folder


async def test_what_nothing_needs_goes(quay: Quay, tmp_path: Path) -> None:
    """Image, layers, source and logs of a destroyed app go; those of a release, and what still runs, stay."""
    app = write_app(tmp_path / "app", SHELL_APP)
    gone = await quay.dock.build(write_app(app, {"n": "1"}))
    running = await quay.dock.build(write_app(app, {"n": "2"}))
    key = WorkloadKey(app="lost", release=1, process="web")
    await quay.engine.apply(Workload(key=key, team="t", image=running.image, process=Process(command="x"), count=1))
    await quay.queue(1, quay.dock.upload(write_app(app, {"n": "3"})), deploy=True)
    kept = await quay.run(1)
    assert quay.ended == 1
    assert (await quay.store.list(Release)).documents[0].spec.image == kept.status.image
    assert await quay.pruner.prune()
    assert quay.layout.complete(gone.image), "built a moment ago: perhaps its document is not written yet"
    quay.later()
    orphan = quay.dock.home.builds / "lost.b1.log"
    orphan.touch()
    os.utime(orphan, (0, 0))
    written = [write_log(quay.dock.home.logs / app) for app in ("lost", "shop")]
    assert await quay.pruner.prune()
    assert not orphan.exists()
    assert [sorted(path.name for path in folder.iterdir()) for folder in written] == [[], ["00000001.jsonl", "current"]]
    assert sorted(quay.layout.list_images()) == sorted([running.image, str(kept.status.image)])
    assert quay.layout.complete(running.image)
    assert quay.layout.complete(str(kept.status.image))
    assert not quay.layout.has(gone.image)
    assert list(quay.dock.home.sources.iterdir()) == []
    again = await quay.dock.build(write_app(app, {"n": "1"}))
    assert again == gone
    assert quay.layout.complete(again.image)


async def test_a_build_meanwhile_is_unharmed(quay: Quay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Source and layers of a build under way stay, also those that it reuses; its image survives the next prune."""
    (fifo := tmp_path / "meeting" / "fifo").parent.mkdir()
    os.mkfifo(fifo)
    fifo.chmod(0o666)
    monkeypatch.setenv("UV_FIND_LINKS", str(fifo.parent))  # whoever runs the build's commands, they see it
    files = {**PROJECT_APP, "backend.py": SLOW_BACKEND.replace("FIFO", repr(str(fifo)))}
    await quay.queue(1, quay.dock.upload(write_app(tmp_path / "app", files)))
    old = await quay.dock.build(write_app(tmp_path / "old", SHELL_APP))
    quay.later()
    running = asyncio.create_task(quay.run(1))
    writer = await asyncio.to_thread(os.open, fifo, os.O_WRONLY)  # the build is inside its backend now
    quay.later()
    assert not await quay.pruner.prune()
    assert quay.layout.complete(old.image)
    assert len(list(quay.dock.home.sources.iterdir())) == 1
    os.close(writer)
    build = await running
    assert build.status.state is BuildState.SUCCEEDED, build.status.reason
    assert await quay.pruner.prune()
    assert quay.layout.complete(str(build.status.image))
    assert not quay.layout.has(old.image)
    code, output = await quay.dock.run(str(build.status.image), "hello")
    assert (code, output) == (0, "hello from the project\n")


async def test_reuse_makes_an_image_new(quay: Quay, tmp_path: Path) -> None:
    """An old image that a build has just been given again stays until the document that names it is written."""
    source = quay.dock.upload(write_app(tmp_path / "app", SHELL_APP))
    built = await quay.dock.build(source)
    quay.later()
    assert await quay.dock.build(source) == built
    assert await quay.pruner.prune()
    assert quay.layout.complete(built.image)
    quay.offset = SPARE + 60
    assert await quay.pruner.prune()
    assert not quay.layout.has(built.image)


async def test_runs_when_kicked_and_outlives_trouble(
    quay: Quay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop goes on after an outage of the engine, and a build's end brings the next look."""
    monkeypatch.setattr("seaway.control.pruning.SETTLE", 0.0)
    built = await quay.dock.build(write_app(tmp_path / "app", SHELL_APP))
    quay.later()
    quay.engine.available = False
    task = asyncio.create_task(quay.pruner.run())
    await eventually(lambda: _gone(quay.dock.home.sources))  # it has looked, and got as far as the engine
    assert quay.layout.complete(built.image)
    quay.engine.available = True
    quay.pruner.kick()
    await eventually(lambda: _gone(quay.layout.path(built.image)))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _gone(path: Path) -> bool:
    return not path.exists() or (path.is_dir() and not list(path.iterdir()))


async def store_history(quay: Quay, count: int) -> None:
    """Store so many releases that served, one rollout each, and so many builds that failed, with their logs."""
    labels = {"app": "shop"}
    for number in range(1, count + 1):
        name = release_name("shop", number)
        spec = ReleaseSpec(app="shop", number=number, image=f"i{number}")
        await quay.store.create(Release(meta=Meta(name=name, labels=labels), spec=spec))
        rollout = Rollout(
            meta=Meta(name=name, labels=labels),
            spec=RolloutSpec(app="shop", target=number),
            status=RolloutStatus(phase=Phase.SUCCEEDED),
        )
        await quay.store.create(rollout)
        build = await quay.queue(number, Source(archive="0" * 64))
        failed = BuildStatus(state=BuildState.FAILED)
        build = await quay.store.update(build.model_copy(update={"status": failed}))
        quay.dock.home.build_log(build.name, build.meta.uid).touch()
    app = await quay.store.get(App, "shop")
    status = AppStatus(current=count, traffic={2: 100})
    await quay.store.update(app.model_copy(update={"status": status}))


async def count_history(quay: Quay) -> list[list[int]]:
    """Return the numbers of releases, rollouts and builds, and how many logs of builds there are."""
    releases = [release.spec.number for release in (await quay.store.list(Release)).documents]
    rollouts = [rollout.spec.target for rollout in (await quay.store.list(Rollout)).documents]
    builds = [build.spec.number for build in (await quay.store.list(Build)).documents]
    return [sorted(releases), sorted(rollouts), sorted(builds), [len(list(quay.dock.home.builds.iterdir()))]]


async def test_old_documents_go(quay: Quay) -> None:
    """But for young ones, and those in use; rollouts and logs of builds follow. Only who leads deletes any."""
    await store_history(quay, MOST_RELEASES + 5)
    key = WorkloadKey(app="shop", release=4, process="web")
    await quay.engine.apply(Workload(key=key, team="t", image="i4", process=Process(command="x"), count=1))
    before = await count_history(quay)
    assert await quay.pruner.prune()
    assert await count_history(quay) == before
    quay.offset = SPARE + 60
    quay.leads = False
    assert await quay.pruner.prune()
    assert await count_history(quay) == before
    quay.leads = True
    assert await quay.pruner.prune()
    assert await quay.pruner.prune()
    kept = [2, 4, *range(6, MOST_RELEASES + 6)]
    assert await count_history(quay) == [
        kept, kept, [*range(MOST_RELEASES + 6 - MOST_BUILDS, MOST_RELEASES + 6)], [MOST_BUILDS]
    ]  # fmt: skip


async def test_what_changed_meanwhile_stays(quay: Quay, monkeypatch: pytest.MonkeyPatch) -> None:
    """A document that somebody writes while it is chosen is not deleted; the others are."""
    await store_history(quay, MOST_RELEASES + 5)
    quay.offset = SPARE + 60
    delete = quay.store.delete

    async def write_first(kind: type[Document], name: str, revision: int | None = None) -> None:
        document = await quay.store.get(kind, name)
        if name == "shop.v1":
            meta = document.meta.model_copy(update={"labels": {**document.meta.labels, "by": "another"}})
            await quay.store.update(document.model_copy(update={"meta": meta}))
        await delete(kind, name, revision)

    monkeypatch.setattr(quay.store, "delete", write_first)
    assert await quay.pruner.prune()
    assert (await count_history(quay))[0] == [1, 2, *range(6, MOST_RELEASES + 6)]

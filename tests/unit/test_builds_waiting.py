"""Builds that wait for their turn, and those that are not begun once more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from seaway.control import builds
from seaway.control.builds import AT_ONCE, MAX_ATTEMPTS, BuildRunner
from seaway.home import Home
from seaway.model import App, Build, BuildSpec, BuildState, BuildStatus, Meta, Source
from seaway.store.memory import MemoryStore
from tests.unit.test_forgetting import NOW, HangingBuilder, tell_nobody


class Yard:
    """A build runner whose builds never end by themselves."""

    def __init__(self, root: Path) -> None:
        home = Home(root).create()
        self.store, self.builder = MemoryStore(), HangingBuilder(home)
        self.shortages = {False: "", True: ""}  # of who begins, of who runs
        self.runner = BuildRunner(
            self.store,
            self.builder,
            home,
            clock=lambda: NOW,
            tell=tell_nobody,
            find_shortage=self.shortages.__getitem__,
        )

    async def queue(self, app: App, number: int, status: BuildStatus | None = None) -> None:
        """Store a build, and let the runner find it."""
        spec = BuildSpec(app=app.name, number=number, source=Source(archive="0" * 64))
        meta = Meta(name=f"{app.name}.b{number}", labels={"app": app.name})
        await self.store.create(Build(meta=meta, spec=spec, status=status or BuildStatus()))
        await self.runner.reconcile(app)
        await settle()

    async def list_states(self) -> dict[str, str]:
        """Return the state of each build."""
        return {build.name: build.status.state.value for build in (await self.store.list(Build)).documents}


async def settle() -> None:
    """Let all that can go on go on."""
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    made = Yard(tmp_path)
    yield made
    await made.runner.close()


async def test_so_many_builds_run_at_once(yard: Yard) -> None:
    """Of different apps; the next one waits, says so, and begins when one has ended."""
    apps = [await yard.store.create(App(meta=Meta(name=f"a{n}"))) for n in range(AT_ONCE + 1)]
    for app in apps:
        await yard.queue(app, 1)
    assert list((await yard.list_states()).values()) == ["running"] * AT_ONCE + ["queued"]
    assert (await yard.store.get(Build, f"a{AT_ONCE}.b1")).status.reason == "waiting for a builder"
    first = await yard.store.get(Build, "a0.b1")
    await yard.store.update(first.model_copy(update={"spec": first.spec.model_copy(update={"cancel": True})}))
    await yard.runner.reconcile(apps[0])
    await settle()
    assert list((await yard.list_states()).values()) == ["cancelled"] + ["running"] * AT_ONCE


async def test_an_app_has_one_build_at_a_time(yard: Yard) -> None:
    """So one app alone does not take every builder."""
    shop, blog = [await yard.store.create(App(meta=Meta(name=name))) for name in ("shop", "blog")]
    await yard.queue(shop, 1)
    await yard.queue(shop, 2)
    await yard.queue(blog, 1)
    assert await yard.list_states() == {"shop.b1": "running", "shop.b2": "queued", "blog.b1": "running"}


async def test_a_build_that_was_interrupted_too_often_is_given_up(yard: Yard) -> None:
    """Until then it is run again."""
    shop = await yard.store.create(App(meta=Meta(name="shop")))
    running = BuildStatus(state=BuildState.RUNNING, attempts=MAX_ATTEMPTS)
    await yard.queue(shop, 1, running.model_copy(update={"attempts": MAX_ATTEMPTS - 1}))
    await yard.queue(shop, 2, running)
    found = (await yard.store.list(Build)).documents
    assert [build.status.state for build in found] == [BuildState.RUNNING, BuildState.FAILED]
    assert yard.builder.said == ["builds shop"]
    assert found[1].status.reason == "interrupted 3 times; deploy again"


async def test_builds_give_way_where_the_disk_is_almost_full(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are queued wait and say once why; one that runs goes on, until there is hardly any room."""
    monkeypatch.setattr(builds, "LOOK_INTERVAL", 0)
    shop, blog = [await yard.store.create(App(meta=Meta(name=name))) for name in ("shop", "blog")]
    await yard.queue(shop, 1)
    yard.shortages[False] = "the disk of /home is 96% full"
    await yard.queue(blog, 1)
    yard.shortages[False] = "the disk of /home is 97% full"
    await yard.runner.reconcile(blog)
    assert await yard.list_states() == {"shop.b1": "running", "blog.b1": "queued"}
    assert (await yard.store.get(Build, "blog.b1")).status.reason == "waits for room: the disk of /home is 96% full"
    yard.shortages[True] = "the disk of /home is 99% full"
    await settle()
    ended = await yard.store.get(Build, "shop.b1")
    assert ended.status.state is BuildState.FAILED
    assert ended.status.reason == "ended, as the disk of /home is 99% full; build it again when there is room"
    assert yard.builder.said == ["builds shop", "stopped shop"]
    yard.shortages.update({False: "", True: ""})
    await yard.runner.reconcile(blog)
    await settle()
    assert await yard.list_states() == {"shop.b1": "failed", "blog.b1": "running"}

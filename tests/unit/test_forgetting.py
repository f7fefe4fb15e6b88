"""The builds of a destroyed app end, and what they left is removed, before anybody can take its name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from seaway.builder.base import Built
from seaway.builder.process import SubprocessBuilder
from seaway.control.builds import BuildRunner
from seaway.control.reconcile import Reconciler
from seaway.engine.memory import MemoryEngine
from seaway.home import Home
from seaway.model import App, AppSpec, Build, BuildSpec, EventSpec, Meta, Source
from seaway.store.memory import MemoryStore

NOW = datetime(2030, 1, 1, tzinfo=UTC)


class NoRouters:
    """No router is there."""

    def publish(self, *_: object) -> tuple[()]:
        return ()

    def withdraw(self, app: str) -> None:
        """Nothing to do."""


class HangingBuilder(SubprocessBuilder):
    """Never ends a build, and keeps in `said` what happened."""

    def __init__(self, home: Home) -> None:
        super().__init__(home)
        self.said: list[str] = []

    async def build(self, app: str, source: Source, log: Path, progress: Callable[[str], None]) -> Built:
        self.said.append(f"builds {app}")
        try:
            await asyncio.Event().wait()
        finally:
            self.said.append(f"stopped {app}")
        raise AssertionError("it never ends")

    async def forget(self, app: str) -> None:
        self.said.append(f"forgot {app}")


async def tell_nobody(event: EventSpec, team: str) -> None:
    """Nobody listens."""


async def test_a_destroyed_app_is_forgotten_before_its_name_is_free(tmp_path: Path) -> None:
    """Also where a build of it runs; those of others go on."""
    store, home = MemoryStore(), Home(tmp_path).create()
    builder = HangingBuilder(home)
    runner = BuildRunner(store, builder, home, clock=lambda: NOW, tell=tell_nobody)
    for name in ("shop", "blog"):
        app = await store.create(App(meta=Meta(name=name)))
        spec = BuildSpec(app=name, number=1, source=Source(archive="0" * 64))
        await store.create(Build(meta=Meta(name=f"{name}.b1", labels={"app": name}), spec=spec))
        await runner.reconcile(app)
        while f"builds {name}" not in builder.said:
            await asyncio.sleep(0)

    async def forget(app: str) -> None:
        assert await store.get(App, app)
        await runner.forget(app)

    shop = await store.get(App, "shop")
    await store.update(shop.model_copy(update={"spec": AppSpec(destroy=True)}))
    reconciler = Reconciler(store, MemoryEngine(), NoRouters(), clock=lambda: NOW, tell=tell_nobody, forget=forget)
    await reconciler.reconcile("shop")
    assert builder.said == ["builds shop", "builds blog", "stopped shop", "forgot shop"]
    assert [app.name for app in (await store.list(App)).documents] == ["blog"]
    await runner.close()

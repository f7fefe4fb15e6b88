"""Records of routers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

from seaway.control.routers import RouterKeeper, list_expected
from seaway.model import RouterRecord
from seaway.router.base import RouterView
from seaway.store.memory import MemoryStore

START = datetime(2026, 1, 1, tzinfo=UTC)


class Bench:
    """Routers that come and go, and a clock."""

    def __init__(self) -> None:
        self.now = START
        self.connected: dict[str, bool] = {}
        self.came: asyncio.Queue[str] = asyncio.Queue()
        self.store = MemoryStore()
        self.keeper = RouterKeeper(self.store, self, lambda: self.now)

    def views(self) -> tuple[RouterView, ...]:
        return tuple(RouterView(name, on, self.now) for name, on in self.connected.items())

    async def watch(self) -> AsyncIterator[str]:
        while True:
            yield await self.came.get()

    async def names(self) -> list[str]:
        return [record.name for record in (await self.store.list(RouterRecord)).documents]


async def test_who_connects_is_expected_for_a_while() -> None:
    """A control plane that starts within a minute waits for it; later it does not."""
    bench = Bench()
    bench.connected = {"a": True, "b": False}
    await bench.keeper.look()
    assert await bench.names() == ["a"]
    assert await list_expected(bench.store, START + timedelta(seconds=59)) == ["a"]
    assert await list_expected(bench.store, START + timedelta(seconds=61)) == []


async def test_a_record_is_written_now_and_then() -> None:
    """Not at every look: each write wakes watchers."""
    bench = Bench()
    bench.connected = {"a": True}
    revisions = []
    for seconds in (0, 5, 19, 21, 25):
        bench.now = START + timedelta(seconds=seconds)
        await bench.keeper.look()
        revisions.append((await bench.store.get(RouterRecord, "a")).meta.revision)
    assert revisions == [1, 1, 1, 2, 2]


async def test_a_router_that_is_gone_for_long_is_forgotten() -> None:
    """After an hour; one that is connected never is."""
    bench = Bench()
    bench.connected = {"a": True, "b": True}
    await bench.keeper.look()
    bench.connected["a"] = False
    bench.now = START + timedelta(minutes=59)
    await bench.keeper.look()
    assert await bench.names() == ["a", "b"]
    bench.now = START + timedelta(minutes=61)
    await bench.keeper.look()
    assert await bench.names() == ["b"]


async def test_a_router_that_comes_is_written_down_at_once() -> None:
    """Without waiting for the next look."""
    bench = Bench()
    running = asyncio.create_task(bench.keeper.run())
    bench.connected = {"a": True}
    bench.came.put_nowait("")
    async with asyncio.timeout(5):
        while await bench.names() != ["a"]:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

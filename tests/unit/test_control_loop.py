"""The loop with an app whose passes fail for ever, and the order of its queue."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime

from seaway.control.loop import BEHIND, TELL_AFTER, ControlLoop, WorkQueue
from seaway.model import App, Meta
from seaway.store.memory import MemoryStore
from tests.clock import jumping


@jumping
async def test_an_app_that_always_fails_holds_nobody_up_and_is_told_of_once() -> None:
    """The others are synced without it; its failure is told once however often it is tried."""
    store = MemoryStore()
    for name in ("bad", "good", "fine"):
        await store.create(App(meta=Meta(name=name)))
    passes: Counter[str] = Counter()
    told: list[tuple[str, str]] = []
    enough = asyncio.Event()

    async def reconcile(name: str) -> None:
        passes[name] += 1
        if name == "bad":
            if passes[name] > TELL_AFTER + 1:
                enough.set()
            raise ValueError("it is beyond repair")

    async def hear(name: str, error: Exception) -> None:
        told.append((name, str(error)))

    loop = ControlLoop(store, reconcile, clock=lambda: datetime.now(UTC), on_failure=hear)
    running = asyncio.create_task(loop.run())
    try:
        async with asyncio.timeout(20):
            await loop.synced.wait()
            await enough.wait()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert {"good", "fine"} <= passes.keys()
    assert loop.list_known() == {"bad", "good", "fine"}
    assert told == [("bad", "it is beyond repair")]


async def test_a_change_overtakes_a_full_round() -> None:
    """All keys in line, then one that changed: it comes first, once; none of the others is lost."""
    queue = WorkQueue()
    names = [f"app{number}" for number in range(100)]
    for name in names:
        queue.add(name, behind=True)
    queue.add("app77")
    taken = [await queue.take() for _ in names]
    assert taken[0] == "app77"
    assert sorted(taken) == sorted(names)
    for name in taken:
        queue.done(name)
    assert len(queue) == 0


async def test_who_stands_behind_is_not_overtaken_for_ever() -> None:
    """After BEHIND keys that came later it is its turn."""
    queue = WorkQueue()
    queue.add("patient", behind=True)
    for number in range(2 * BEHIND):
        queue.add(f"app{number}")
    taken = [await queue.take() for _ in range(BEHIND + 1)]
    assert "patient" in taken

"""The loop with an app whose passes fail for ever."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime

from seaway.control.loop import TELL_AFTER, ControlLoop
from seaway.model import App, Meta
from seaway.store.memory import MemoryStore


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

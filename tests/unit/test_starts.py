"""Turns to begin: so many of an app at once, none lost, none kept."""

from __future__ import annotations

import asyncio

import pytest

from seaway.engine.local import starts
from seaway.engine.local.starts import Starts


async def has_turn(given: Starts, app: str) -> bool:
    """Whether somebody who asks now need not wait."""
    asking = asyncio.create_task(given.take(app))
    await asyncio.sleep(0)
    if asking.done():
        asking.result().end()
        return True
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    return False


async def test_an_app_waits_for_its_own_instances_alone() -> None:
    """In the order in which they ask."""
    given, order = Starts(at_once=2), list[int]()

    async def begin(number: int) -> None:
        (await given.take("shop")).end()
        order.append(number)

    first, second = await given.take("shop"), await given.take("shop")
    assert not await has_turn(given, "shop")
    assert await has_turn(given, "blog")
    (await given.take("blog")).end()
    waiting = [asyncio.create_task(begin(number)) for number in range(5)]
    await asyncio.sleep(0)
    assert order == []
    first.end()
    first.end()
    await asyncio.gather(*waiting)
    assert order == [0, 1, 2, 3, 4]
    third = await given.take("shop")
    assert not await has_turn(given, "shop"), "ended twice, given back once"
    second.end()
    third.end()


async def test_who_stops_waiting_takes_no_turn() -> None:
    """An instance that is told to stop before it began."""
    given = Starts(at_once=1)
    turn = await given.take("shop")
    waiting = asyncio.create_task(given.take("shop"))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    turn.end()
    assert await has_turn(given, "shop")


async def test_a_slow_start_keeps_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody gives the first turn back."""
    monkeypatch.setattr(starts, "BEGINNING", 0.01)
    given = Starts(at_once=1)
    await given.take("shop")
    (await given.take("shop")).end()

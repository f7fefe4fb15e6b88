"""Who waits for a one-off, and what becomes of one that nobody waits for any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from seaway.control.attachments import LONG_RETURN, RETURN, TICK, Attachments
from seaway.engine.memory import MemoryEngine
from seaway.model import App, AppSpec, EventSpec, Meta, Observation, TaskState
from seaway.store.memory import MemoryStore
from tests.clock import jumping
from tests.contract.engine_kit import eventually, make_task

NAMES = ("shop-run-a", "shop-run-b")
STEPS = st.lists(
    st.tuples(st.sampled_from(("attach", "leave")), st.sampled_from(NAMES))
    | st.tuples(st.just("pass"), st.floats(0.0, 2 * LONG_RETURN)),
    max_size=120,
)


def make_states(*names: str) -> tuple[TaskState, ...]:
    return tuple(TaskState(id=name, app="shop", attached=True) for name in names)


class Caller:
    """Opens and closes streams of one command, and counts the time without one that a watchful process saw."""

    def __init__(self, attachments: Attachments, name: str) -> None:
        self.attachments, self.name = attachments, name
        self.streams: list[AbstractContextManager[None]] = []
        self.allowed, self.absent = LONG_RETURN, 0.0

    def attach(self) -> None:
        self.streams.append(self.attachments.attach(self.name))
        self.streams[-1].__enter__()

    def leave(self) -> None:
        if self.streams:
            self.streams.pop(0).__exit__(None, None, None)
            self.allowed, self.absent = RETURN, 0.0


@given(steps=STEPS)
def test_who_has_left_is_missed_soon_and_nobody_else(steps: list[tuple[str, float | str]]) -> None:
    """Whatever comes and goes: never one with a stream, never before its time, and then at once.

    However long this process itself was away between two looks, that counts for little.
    """
    attachments = Attachments()
    callers = {name: Caller(attachments, name) for name in NAMES}
    assert attachments.take_abandoned(make_states(*callers)) == []
    for what, value in steps:
        if what == "pass":
            assert isinstance(value, float)
            attachments.pass_time(value)
            for caller in callers.values():
                caller.absent += 0.0 if caller.streams else min(value, 2 * TICK)
            for state in attachments.take_abandoned(make_states(*callers)):
                caller = callers.pop(state.id)
                assert not caller.streams
                assert caller.absent >= caller.allowed - 1e-6
            assert all(c.streams or c.absent <= c.allowed + 1e-6 for c in callers.values())
        elif (there := callers.get(str(value))) is not None:
            (there.attach if what == "attach" else there.leave)()


def test_only_what_is_attached_and_not_done_is_missed() -> None:
    """Whatever was missed and has ended since is forgotten."""
    attachments = Attachments()
    with attachments.attach("shop-run-a"):
        pass
    ended = TaskState(id="shop-run-a", app="shop", attached=True, done=True)
    detached = TaskState(id="shop-run-b", app="shop")
    for _ in range(1000):
        attachments.pass_time(TICK)
        assert attachments.take_abandoned((ended, detached)) == []
    assert attachments.take_abandoned(make_states("shop-run-a")) == [], "another one of its name"


class Bench:
    """The duty of a leader over an engine in memory."""

    def __init__(self, store: MemoryStore) -> None:
        self.store, self.engine, self.attachments = store, MemoryEngine(), Attachments()
        self.told: list[EventSpec] = []

    async def tell(self, event: EventSpec, team: str) -> None:
        assert team == "crew"
        self.told.append(event)

    async def lead(self) -> None:
        await self.attachments.run(self.engine, self.store, self.tell, lambda: datetime.now(UTC))

    async def start(self, *names: str, attached: bool = True) -> None:
        for name in names:
            await self.engine.start_task(make_task(name, "sleep", attached=attached))

    async def await_left(self, *names: str) -> float:
        """Return after how many seconds only these are left."""
        began = asyncio.get_running_loop().time()

        async def look() -> bool:
            return set(self.engine.tasks) == set(names)

        await eventually(look)
        return asyncio.get_running_loop().time() - began


@asynccontextmanager
async def leading() -> AsyncIterator[Bench]:
    """A leader that kills what nobody holds, of the app shop of team crew."""
    store = MemoryStore()
    await store.create(App(meta=Meta(name="shop"), spec=AppSpec(team="crew")))
    bench = Bench(store)
    duty = asyncio.create_task(bench.lead())
    await asyncio.sleep(0)
    yield bench
    assert not duty.done()
    duty.cancel()
    await asyncio.gather(duty, return_exceptions=True)
    await store.close()


@jumping
async def test_a_command_is_killed_soon_after_its_stream_and_told() -> None:
    """Others stay: one that is held, one whose caller came back in time, one that was detached."""
    async with leading() as bench:
        await bench.start(*NAMES, "shop-run-c")
        await bench.start("shop-run-d", attached=False)
        with bench.attachments.attach(NAMES[1]), bench.attachments.attach("shop-run-c"):
            with bench.attachments.attach(NAMES[0]), bench.attachments.attach("shop-run-c"):
                pass
            took = await bench.await_left(NAMES[1], "shop-run-c", "shop-run-d")
            assert RETURN - 2 * TICK <= took <= RETURN + TICK
        async with asyncio.timeout(10):
            while not bench.told:
                await asyncio.sleep(0.01)
        (event,) = bench.told
        assert (event.app, event.about, event.reason) == ("shop", f"task {NAMES[0]}", "TaskKilled")
        assert "whoever ran it is gone" in event.message


@jumping
async def test_an_absence_of_the_platforms_own_kills_nothing() -> None:
    """The engine was away when the stream broke: its caller was told so, and comes back when everybody does."""
    async with leading() as bench:
        await bench.start(*NAMES)
        with bench.attachments.attach(NAMES[0]):
            bench.engine.available = False
        looks, observe = 0, bench.engine.observe

        async def look() -> Observation:
            nonlocal looks
            looks += 1
            return await observe()

        async def has_looked(times: int) -> bool:
            return looks >= times

        bench.engine.observe = look  # type: ignore[method-assign]
        await eventually(lambda: has_looked(1))
        bench.engine.available, looks_before = True, looks
        await eventually(lambda: has_looked(looks_before + 3 + int(RETURN / TICK)))  # a tick each, or more
        assert set(bench.engine.tasks) == set(NAMES)
        assert bench.told == []

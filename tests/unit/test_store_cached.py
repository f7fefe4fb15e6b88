"""The picture of documents that the control loop reads."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress

import pytest

from seaway.model import App, AppSpec, Document, Meta
from seaway.store.base import Change, Conflict, Expired, NotFound, StoreError, Unavailable
from seaway.store.cached import CachedStore
from seaway.store.memory import MemoryStore

NAMES = ("a", "b", "c")


class SlowStore(MemoryStore):
    """A store whose watch tells late, and expires or breaks when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.dice = random.Random(0)
        self.trouble: StoreError | None = None
        self.mute = False  # the watch tells nothing any more

    async def watch(self, kinds: tuple[type[Document], ...], since: int) -> AsyncGenerator[Change, None]:
        """Yield late."""
        async with aclosing(super().watch(kinds, since)) as changes:
            async for change in changes:
                for _ in range(self.dice.randrange(4)):
                    await asyncio.sleep(0)
                if self.trouble:
                    trouble, self.trouble = self.trouble, None
                    raise trouble
                if not self.mute:
                    yield change


@pytest.fixture
async def slow() -> AsyncIterator[SlowStore]:
    store = SlowStore()
    yield store
    await store.close()


@pytest.fixture
async def cached(slow: SlowStore) -> AsyncIterator[CachedStore]:
    picture = CachedStore(slow, (App,))
    running = asyncio.create_task(picture.run())
    await picture.synced.wait()
    yield picture
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def app(name: str, count: int = 1) -> App:
    return App(meta=Meta(name=name, labels={"app": name}), spec=AppSpec(scale={"web": count}))


async def settle(slow: SlowStore, cached: CachedStore) -> None:
    """Wait until the picture is what the store holds."""
    async with asyncio.timeout(10):
        while (await slow.list(App)).documents != (await cached.list(App)).documents:
            await asyncio.sleep(0.001)


async def write(store: CachedStore | SlowStore, dice: random.Random) -> None:
    """Create, change or delete something; another writer may have been quicker."""
    name = dice.choice(NAMES)
    with suppress(StoreError):
        match dice.randrange(3):
            case 0:
                await store.create(app(name))
            case 1:
                read = await store.get(App, name)
                spec = AppSpec(scale={"web": dice.randrange(100)})
                await store.update(read.model_copy(update={"spec": spec}))
            case _:
                await store.delete(App, name)


async def test_nothing_is_read_before_the_first_list() -> None:
    """An empty picture is not an empty platform."""
    with pytest.raises(Unavailable, match="not been listed yet"):
        await CachedStore(MemoryStore(), (App,)).list(App)


@pytest.mark.parametrize("seed", range(20))
async def test_the_picture_comes_to_be_what_the_store_holds(slow: SlowStore, cached: CachedStore, seed: int) -> None:
    """However this process and others write, with watches that break and expire in between."""
    dice = random.Random(seed)
    for _ in range(60):
        await write(dice.choice((slow, cached)), dice)
        if dice.random() < 0.1:
            slow.trouble = dice.choice((Expired("too old"), Expired("too old"), Unavailable("away")))
        for _ in range(dice.randrange(5)):
            await asyncio.sleep(0)
    slow.trouble = None
    await settle(slow, cached)


@pytest.mark.parametrize("seed", range(20))
async def test_own_writes_are_read_at_once(slow: SlowStore, cached: CachedStore, seed: int) -> None:
    """Never behind what this process wrote, and a document it deleted does not come back."""
    slow.dice = random.Random(seed)
    created = await cached.create(app("a"))
    assert await cached.get(App, "a") == created
    changed = await cached.update(created.model_copy(update={"spec": AppSpec(scale={"web": 5})}))
    await cached.delete(App, "a")
    for _ in range(20):
        await asyncio.sleep(0)
        with pytest.raises(NotFound):
            await cached.get(App, "a")
    assert changed.meta.uid == created.meta.uid
    again = await cached.create(app("a", 7))
    for _ in range(20):
        await asyncio.sleep(0)
        assert await cached.get(App, "a") == again


async def test_a_decision_on_an_old_picture_is_refused(slow: SlowStore, cached: CachedStore) -> None:
    """The store's compare-and-swap is the judge."""
    old = await cached.create(app("a"))
    await slow.update(old.model_copy(update={"spec": AppSpec(scale={"web": 2})}))
    with pytest.raises(Conflict):
        await cached.update(old.model_copy(update={"spec": AppSpec(scale={"web": 3})}))


async def test_a_change_that_the_watch_leaves_out_holds_nobody_up(slow: SlowStore, cached: CachedStore) -> None:
    """As one of a resource's metadata alone: what is refused for an old revision is read anew."""
    old = await cached.create(app("a"))
    slow.mute = True
    labels = old.meta.model_copy(update={"labels": {"by": "another"}})
    await slow.update(old.model_copy(update={"meta": labels}))
    for expected in (Conflict, None):
        read = await cached.get(App, "a")
        if expected:
            with pytest.raises(expected):
                await cached.update(read.model_copy(update={"spec": AppSpec(scale={"web": 3})}))
        else:
            await cached.update(read.model_copy(update={"spec": AppSpec(scale={"web": 3})}))


async def test_who_hears_of_a_change_also_reads_it(slow: SlowStore, cached: CachedStore) -> None:
    """The picture is changed before the watch tells."""
    listing = await cached.list(App)
    await slow.create(app("a"))
    await slow.create(app("b"))
    async with asyncio.timeout(10), aclosing(cached.watch((App,), listing.revision)) as changes:
        async for change in changes:
            assert await cached.get(App, change.document.name) == change.document
            if change.document.name == "b":
                break


async def test_lists_by_label_follow_changes(slow: SlowStore, cached: CachedStore) -> None:
    """The index by app forgets what has left."""
    for name in NAMES:
        await cached.create(app(name))
    assert [d.name for d in (await cached.list(App, {"app": "b"})).documents] == ["b"]
    await slow.delete(App, "b")
    await settle(slow, cached)
    assert (await cached.list(App, {"app": "b"})).documents == ()


async def test_a_watch_that_slept_too_long_is_told(cached: CachedStore) -> None:
    """A count from another life is no place to go on from."""
    with pytest.raises(Expired):
        await anext(cached.watch((App,), 10_000))


async def test_a_refresh_takes_in_what_others_wrote_until_now(slow: SlowStore, cached: CachedStore) -> None:
    """Without waiting for the watch."""
    await cached.create(app("a"))
    await slow.delete(App, "a")
    written = await slow.create(app("b"))
    await cached.refresh()
    assert (await cached.list(App)).documents == (written,)

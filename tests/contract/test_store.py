"""The store contract, over every store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest

from seaway.model import App, AppSpec, Build, BuildSpec, Event, Meta, Source, Token
from seaway.store.base import AlreadyExists, Change, Conflict, Expired, NotFound, Store, Unavailable, Written
from seaway.store.events import KEEP_EVENTS_OF_APP, record_event, trim_events
from seaway.store.memory import Contents, MemoryStore
from seaway.store.sqlite import SqliteStore

KEPT = 50  # changes that the stores under test keep for watchers


class Stores:
    """One store under test, which can be closed and opened again."""

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open = open_store
        self.store = open_store()

    async def reopen(self) -> Store:
        await self.store.close()
        self.store = self._open()
        return self.store


@pytest.fixture(params=["sqlite", "memory"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    contents = Contents()
    if request.param == "sqlite":
        opened = Stores(lambda: SqliteStore.open(tmp_path / "seaway.db", keep_changes=KEPT))
    else:
        opened = Stores(lambda: MemoryStore(KEPT, contents))
    yield opened
    await opened.store.close()


@pytest.fixture
def store(stores: Stores) -> Store:
    return stores.store


@pytest.fixture
async def origin(store: Store) -> int:
    """The revision of the empty store."""
    return (await store.list(App)).revision


def app(name: str, **labels: str) -> App:
    return App(meta=Meta(name=name, labels=labels))


def scaled(document: App, count: int) -> App:
    return document.model_copy(update={"spec": AppSpec(scale={"web": count})})


async def take(count: int, changes: AsyncGenerator[Change, None]) -> list[Change]:
    """Return the next `count` changes; fail rather than wait for ever."""
    async with asyncio.timeout(10), aclosing(changes):
        return [await anext(changes) for _ in range(count)]


def summary(changes: list[Change]) -> list[tuple[str, str]]:
    return [(change.type, change.document.name) for change in changes]


async def test_create_sets_identity_and_get_returns_it(store: Store) -> None:
    """What create returns is what get returns: with uid, revision and times."""
    created = await store.create(app("shop"))
    assert created.meta.uid
    assert created.meta.revision > 0
    assert created.meta.created_at == created.meta.updated_at
    assert created.meta.created_at.year > 2000
    assert await store.get(App, "shop") == created


async def test_create_refuses_a_taken_name(store: Store) -> None:
    """A second document of the same kind and name is refused; another kind may use the name."""
    await store.create(app("shop"))
    with pytest.raises(AlreadyExists):
        await store.create(app("shop"))
    await store.create(Build(meta=Meta(name="shop"), spec=BuildSpec(app="shop", number=1, source=Source(archive="x"))))


async def test_get_of_nothing_is_not_found(store: Store) -> None:
    """Reading, updating and deleting what is not there all say so."""
    for attempt in (store.get(App, "shop"), store.delete(App, "shop"), store.update(app("shop"))):
        with pytest.raises(NotFound):
            await attempt


async def test_update_keeps_identity_and_moves_the_revision(store: Store) -> None:
    """An update keeps uid and creation time, whatever the caller put there."""
    created = await store.create(app("shop"))
    forged = scaled(created, 2).model_copy(update={"meta": created.meta.model_copy(update={"uid": "forged"})})
    updated = await store.update(forged)
    assert updated.meta.uid == created.meta.uid
    assert updated.meta.created_at == created.meta.created_at
    assert updated.meta.revision > created.meta.revision
    assert await store.get(App, "shop") == updated
    assert updated.spec.scale == {"web": 2}


async def test_update_that_changes_nothing_keeps_the_revision(store: Store) -> None:
    """A level-triggered writer may write the same again without waking anybody."""
    created = await store.create(app("shop"))
    assert await store.update(created) == created
    assert await store.get(App, "shop") == created
    await store.create(app("other"))
    assert summary(await take(1, store.watch((App,), created.meta.revision))) == [("put", "other")]


async def test_update_of_a_stale_read_conflicts(store: Store) -> None:
    """The second of two writers that read the same revision is refused, and changes nothing."""
    created = await store.create(app("shop"))
    await store.update(scaled(created, 2))
    with pytest.raises(Conflict):
        await store.update(scaled(created, 3))
    assert (await store.get(App, "shop")).spec.scale == {"web": 2}


async def test_recreated_document_conflicts_with_the_old_one(store: Store) -> None:
    """A revision is never used twice, so a read from before a deletion cannot overwrite the successor."""
    old = await store.create(app("shop"))
    await store.delete(App, "shop")
    new = await store.create(app("shop"))
    assert new.meta.uid != old.meta.uid
    with pytest.raises(Conflict):
        await store.update(scaled(old, 9))


async def test_concurrent_writers_lose_no_increment(store: Store) -> None:
    """Eight writers that retry on Conflict add up exactly."""
    await store.create(scaled(app("shop"), 0))

    async def increment() -> int:
        conflicts = 0
        for _ in range(10):
            while True:
                read = await store.get(App, "shop")
                try:
                    await store.update(scaled(read, read.spec.scale["web"] + 1))
                    break
                except Conflict:
                    conflicts += 1
        return conflicts

    conflicts = await asyncio.gather(*(increment() for _ in range(8)))
    assert (await store.get(App, "shop")).spec.scale == {"web": 80}
    assert sum(conflicts) > 0


async def test_concurrent_creates_have_one_winner(store: Store) -> None:
    """Of many that create the same name, one succeeds."""
    results = await asyncio.gather(*(store.create(app("shop")) for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(result, App) for result in results) == 1
    assert sum(isinstance(result, AlreadyExists) for result in results) == 9


async def test_delete_with_a_revision_is_compare_and_swap(store: Store) -> None:
    """A deletion that names a revision only deletes that one."""
    created = await store.create(app("shop"))
    updated = await store.update(scaled(created, 2))
    with pytest.raises(Conflict):
        await store.delete(App, "shop", created.meta.revision)
    await store.delete(App, "shop", updated.meta.revision)
    with pytest.raises(NotFound):
        await store.get(App, "shop")


async def test_list_is_by_name_and_by_labels(store: Store) -> None:
    """All labels must match; an update moves a document to its new labels."""
    for name, team in (("b", "red"), ("a", "red"), ("c", "blue")):
        await store.create(app(name, team=team, tier="x"))
    assert [d.name for d in (await store.list(App)).documents] == ["a", "b", "c"]
    assert [d.name for d in (await store.list(App, {"team": "red", "tier": "x"})).documents] == ["a", "b"]
    assert (await store.list(App, {"team": "red", "tier": "y"})).documents == ()
    moved = await store.get(App, "a")
    meta = moved.meta.model_copy(update={"labels": {"team": "blue"}})
    await store.update(moved.model_copy(update={"meta": meta}))
    assert [d.name for d in (await store.list(App, {"team": "red"})).documents] == ["b"]
    assert [d.name for d in (await store.list(App, {"team": "blue"})).documents] == ["a", "c"]


async def test_watch_from_the_beginning_tells_everything_in_order(store: Store, origin: int) -> None:
    """Creations, updates and deletions of the kinds asked for, with rising revisions."""
    created = await store.create(app("shop"))
    await record_event(store, about="app shop", reason="AppCreated", message="Made.")
    updated = await store.update(scaled(created, 2))
    await store.delete(App, "shop")
    seen = await take(3, store.watch((App,), origin))
    assert summary(seen) == [("put", "shop"), ("put", "shop"), ("deleted", "shop")]
    assert [change.document for change in seen[:2]] == [created, updated]
    last = seen[2].document.meta  # the revision of the last version or of its deletion, as the store has it
    assert seen[2].document == updated.model_copy(update={"meta": last})
    assert last.uid == updated.meta.uid
    revisions = [change.revision for change in seen]
    assert revisions == sorted(set(revisions))
    assert revisions[:2] == [created.meta.revision, updated.meta.revision]


async def test_watch_wakes_at_once(store: Store, origin: int) -> None:
    """A waiting watch hears of a change when its writer does, give or take a moment."""
    watching = asyncio.create_task(take(1, store.watch((App,), origin)))
    await asyncio.sleep(0.05)
    assert not watching.done()
    await store.create(app("shop"))
    async with asyncio.timeout(0.5):
        assert summary(await watching) == [("put", "shop")]


async def test_list_then_watch_misses_and_repeats_nothing(store: Store, origin: int) -> None:
    """While a writer writes, a list plus the watch from its revision hold every document exactly once."""

    async def write() -> None:
        for number in range(40):
            await store.create(app(f"app{number}"))

    async def follow(after: int) -> list[str]:
        if after:
            await take(after, store.watch((App,), origin))
        listing = await store.list(App)
        missing = 40 - len(listing.documents)
        rest = await take(missing, store.watch((App,), listing.revision))
        return [document.name for document in listing.documents] + [change.document.name for change in rest]

    writing = asyncio.create_task(write())
    for names in await asyncio.gather(*(follow(after) for after in (0, 1, 13, 39, 40))):
        assert sorted(names) == sorted(f"app{number}" for number in range(40))
    await writing


async def test_watch_from_before_the_kept_changes_expires(store: Store) -> None:
    """Whoever slept too long is told to list again rather than left with a gap."""
    await store.create(app("shop"))
    for number in range(KEPT * 2):
        await record_event(store, about=f"app {number}", reason="Tick", message=f"{number}")
    with pytest.raises(Expired):
        await take(1, store.watch((Event,), 1))
    listing = await store.list(Event)
    waiting = asyncio.create_task(take(1, store.watch((Event,), listing.revision)))
    event = await record_event(store, about="app shop", reason="Tick", message="last")
    assert [change.document for change in await waiting] == [event]


async def test_watch_of_a_quiet_kind_does_not_expire(store: Store, origin: int) -> None:
    """A watch that has missed nothing goes on, however much was written of other kinds."""
    watching = asyncio.create_task(take(1, store.watch((Token, App), origin)))
    for number in range(KEPT * 2):
        await record_event(store, about=f"app {number}", reason="Tick", message=f"{number}")
    await store.create(app("shop"))
    assert summary(await watching) == [("put", "shop")]


async def test_watch_from_the_future_expires(store: Store) -> None:
    """A revision from another history (a restored backup) is not waited for."""
    with pytest.raises(Expired):
        await take(1, store.watch((App,), (await store.list(App)).revision + 1_000_000))


async def test_labels_go_with_their_document(store: Store) -> None:
    """Whoever takes the name of one that was deleted or trimmed is not found by its labels."""
    spec = BuildSpec(app="shop", number=1, source=Source(archive="0" * 64))
    for name in ("shop.b1", "shop.b2"):
        await store.create(Build(meta=Meta(name=name, labels={"team": "red"}), spec=spec))
    await store.delete(Build, "shop.b1")
    assert await store.trim(Build, lambda written: written) == 1
    for name in ("shop.b1", "shop.b2"):
        await store.create(Build(meta=Meta(name=name), spec=spec))
    assert (await store.list(Build, {"team": "red"})).documents == ()


async def test_trim_deletes_what_is_chosen(store: Store) -> None:
    """In the order of the choice, and watchers hear of it; the choice is by name, labels and revision of each."""
    events = [
        await record_event(store, about=f"app {name}", reason="Tick", message=f"{n}", app=name, team="red")
        for n, name in enumerate(["shop", "Not a label, of Kubernetes' kind", "blog"])
    ]
    since = (await store.list(Event)).revision
    seen: list[Written] = []

    def choose(written: Sequence[Written]) -> list[Written]:
        seen.extend(sorted(written, key=lambda one: one.revision))
        return [seen[2], seen[0]]

    assert await store.trim(Event, choose) == 2
    assert [(one.name, one.revision, dict(one.labels)) for one in seen] == [
        (event.name, event.meta.revision, event.meta.labels) for event in events
    ]
    assert (await store.list(Event)).documents == (events[1],)
    gone = [("deleted", events[2].name), ("deleted", events[0].name)]
    assert summary(await take(2, store.watch((Event,), since))) == gone
    assert await store.trim(Event, lambda _: []) == 0
    assert await store.trim(App, lambda written: written) == 0


async def test_an_app_takes_nobodys_events(store: Store) -> None:
    """However many one records: those of others, of no app, and the newest of its own stay."""
    await store.create(app("loud"))
    await store.create(app("shop"))
    others = [
        await record_event(store, about="a thing", reason="Tick", message="first", app=name)
        for name in ("shop", None, "gone")
    ]
    loud = [
        await record_event(store, about="app loud", reason="Tick", message=f"{number}", app="loud")
        for number in range(KEEP_EVENTS_OF_APP + 3)
    ]
    assert await trim_events(store) == 3
    assert (await store.list(Event)).documents == (*others, *loud[3:])
    assert await trim_events(store) == 0


async def test_reopened_store_has_everything(stores: Stores, origin: int) -> None:
    """Documents, revision and changes are there after closing and opening."""
    created = await stores.store.create(app("shop", team="red"))
    listing = await stores.store.list(App)
    store = await stores.reopen()
    again = await store.list(App, {"team": "red"})
    assert again.documents == listing.documents == (created,)
    assert again.revision >= listing.revision
    updated = await store.update(scaled(created, 2))
    assert updated.meta.revision > created.meta.revision
    assert summary(await take(2, store.watch((App,), origin))) == [("put", "shop"), ("put", "shop")]


async def test_closing_ends_watches_and_refuses_work(store: Store, origin: int) -> None:
    """Nobody hangs on a closed store."""
    watching = asyncio.create_task(take(1, store.watch((App,), origin)))
    await asyncio.sleep(0.01)
    await store.close()
    async with asyncio.timeout(1):
        with pytest.raises(StopAsyncIteration):
            await watching
    with pytest.raises(Unavailable):
        await store.get(App, "shop")

"""The level-triggered loop: keys in, one pass per key at a time, called again when asked to be.

A key is an app's name. Keys come from the store's watch, the engine's watch, the routers, and a full resync; a
key that fails is tried again with growing delays. The loop remembers nothing that a restart would lose.

Where all keys come at once, a key of which something changed does not wait for those before it.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime

import structlog

from seaway.model import App, Build, Document, Release, Rollout
from seaway.store.base import Conflict, Expired, Store, StoreError

log = structlog.get_logger()

RESYNC_INTERVAL = 30.0  # seconds; every key once, whatever the watches said
FIRST_DELAY, LAST_DELAY = 0.05, 10.0  # seconds between tries of a key that fails
WORKERS = 8
BEHIND = 1000  # places that a key may be overtaken by in line if nothing is known to have changed
TELL_AFTER = 4  # passes of a key that failed in a row before somebody is told


async def _ignore(key: str, error: Exception) -> None:
    del key, error


class WorkQueue:
    """Keys to work on: each at most once in line, never two workers on one key, with delays."""

    def __init__(self) -> None:
        self._ready: asyncio.PriorityQueue[tuple[int, str]] = asyncio.PriorityQueue()
        self._queued: dict[str, int] = {}  # key -> its place in line; what else `_ready` has of it is void
        self._count = 0
        self._working: set[str] = set()
        self._again: set[str] = set()
        self._delayed: list[tuple[float, str]] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, key: str, *, behind: bool = False) -> None:
        """Put a key in line, unless it is; one that is being worked on comes again afterwards.

        `behind`: there is no hurry, up to BEHIND keys that come later may go first.
        """
        if key in self._working:
            self._again.add(key)
            return
        self._count += 1
        place = self._count + (BEHIND if behind else 0)
        if place < self._queued.get(key, place + 1):
            self._queued[key] = place
            self._ready.put_nowait((place, key))

    def add_after(self, key: str, delay: float) -> None:
        """Put a key in line after `delay` seconds."""
        if delay <= 0:
            self.add(key)
            return
        heapq.heappush(self._delayed, (asyncio.get_running_loop().time() + delay, key))
        self._arm()

    async def take(self) -> str:
        """Return the next key; `done` must be called for it."""
        while True:
            place, key = await self._ready.get()
            if self._queued.get(key) == place:
                del self._queued[key]
                self._working.add(key)
                return key

    def done(self, key: str) -> None:
        """Say that the work on a key is over."""
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def __len__(self) -> int:
        return len(self._queued) + len(self._working)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._delayed:
            self._timer = asyncio.get_running_loop().call_at(self._delayed[0][0], self._release)

    def _release(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._delayed and self._delayed[0][0] <= now + 0.001:
            self.add(heapq.heappop(self._delayed)[1])
        self._timer = None
        self._arm()


class ControlLoop:
    """Runs `reconcile` for every key that may need it."""

    def __init__(
        self,
        store: Store,
        reconcile: Callable[[str], Awaitable[datetime | None]],
        *,
        clock: Callable[[], datetime],
        sources: tuple[Callable[[], AsyncIterator[str]], ...] = (),
        on_failure: Callable[[str, Exception], Awaitable[None]] = _ignore,
    ) -> None:
        """`on_failure` hears of a key whose passes keep failing, once until one is good again."""
        self._store = store
        self._reconcile = reconcile
        self._clock = clock
        self._sources = sources
        self._on_failure = on_failure
        self._queue = WorkQueue()
        self._failures: dict[str, int] = {}
        self._known: set[str] = set()
        self._unsynced: set[str] = set()
        self.synced = asyncio.Event()  # every app that was there at the start has been through a pass, good or bad

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_store(), name="watch-store")
            for number, source in enumerate(self._sources):
                group.create_task(self._watch_source(source), name=f"watch-{number}")
            group.create_task(self._resync(), name="resync")
            for number in range(WORKERS):
                group.create_task(self._work(), name=f"worker-{number}")

    def list_known(self) -> frozenset[str]:
        """Return the apps there are, as far as the store's watch has told."""
        return frozenset(self._known)

    def kick(self, key: str) -> None:
        """Ask for a pass over an app, or over all ("")."""
        for name in (key,) if key else tuple(self._known):
            self._queue.add(name, behind=not key)

    async def _work(self) -> None:
        while True:
            key = await self._queue.take()
            try:
                again = await self._reconcile(key)
                self._failures.pop(key, None)
                self._mark_synced(key)
                if again is not None:
                    self._queue.add_after(key, max(0.01, (again - self._clock()).total_seconds()))
            except Conflict:
                self._queue.add_after(key, 0.01)
            except Exception as error:  # a bug or an outage in one app must not stop the others
                failures = self._failures[key] = self._failures.get(key, 0) + 1
                delay = min(LAST_DELAY, FIRST_DELAY * 2**failures)
                log.exception("a pass failed", app=key, again_in=delay, error=str(error))
                self._queue.add_after(key, delay)
                self._mark_synced(key)
                if failures == TELL_AFTER:
                    await self._on_failure(key, error)
            finally:
                self._queue.done(key)

    def _mark_synced(self, key: str) -> None:
        self._unsynced.discard(key)
        if not self._unsynced:
            self.synced.set()

    async def _watch_store(self) -> None:
        kinds: tuple[type[Document], ...] = (App, Build, Release, Rollout)
        first = True
        while True:
            try:
                listing = await self._store.list(App)
                self._known = {app.name for app in listing.documents} | {error.name for error in listing.unreadable}
                if first:
                    first = False
                    self._unsynced = set(self._known)
                    if not self._unsynced:
                        self.synced.set()
                self.kick("")
                async for change in self._store.watch(kinds, listing.revision):
                    document = change.document
                    name = document.name if isinstance(document, App) else document.meta.labels.get("app", "")
                    self._known.add(name)
                    self._queue.add(name)
                    if isinstance(document, App) and change.type == "deleted":
                        self._known.discard(name)
                return  # the store was closed
            except Expired:
                log.warning("the store's watch fell behind; listing again")
            except StoreError as error:
                log.warning("the store does not answer", error=str(error))
                await asyncio.sleep(1)

    async def _watch_source(self, source: Callable[[], AsyncIterator[str]]) -> None:
        async for key in source():
            self.kick(key)

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(RESYNC_INTERVAL)
            self.kick("")

"""Keeps a record of each router that connects, so that a control plane that starts anew knows whom to wait for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Protocol

from seaway.model import Meta, RouterRecord, RouterStatus
from seaway.router.base import RouterView
from seaway.store.base import AlreadyExists, Conflict, NotFound, Store

FRESH = timedelta(seconds=20)  # a record is written again when it is older
INTERVAL = 10.0  # seconds between looks
EXPECTED = timedelta(seconds=60)  # a router seen within this may still be serving
FORGOTTEN = timedelta(hours=1)  # a record of a router that was away for longer is deleted


class Plane(Protocol):
    """What is needed of the routers' end."""

    def views(self) -> tuple[RouterView, ...]:
        """Return every router that is or was connected."""
        ...

    def watch(self) -> AsyncIterator[str]:
        """Yield "" whenever a router comes or goes."""
        ...


class RouterKeeper:
    """The leader's: writes down which routers there are. One keeper at a time."""

    def __init__(self, store: Store, plane: Plane, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._plane = plane
        self._clock = clock

    async def run(self) -> None:
        """Look now, whenever a router comes, and every INTERVAL, until cancelled."""
        came = asyncio.Event()
        hearing = asyncio.create_task(self._hear(came))
        try:
            while True:
                came.clear()
                await self.look()
                with suppress(TimeoutError):
                    async with asyncio.timeout(INTERVAL):
                        await came.wait()
        finally:
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)

    async def _hear(self, came: asyncio.Event) -> None:
        async for owner in self._plane.watch():
            if owner == "":
                came.set()

    async def look(self) -> None:
        """Bring the records up to date."""
        now = self._clock()
        records = {record.name: record for record in (await self._store.list(RouterRecord)).documents}
        connected = {view.name for view in self._plane.views() if view.connected}
        for name in sorted(connected):
            seen = _seen(records[name]) if name in records else None
            if seen is None or now - seen >= FRESH:
                await self._write(name, records.get(name), now)
        for name, record in records.items():
            if name not in connected and now - _seen(record) >= FORGOTTEN:
                with suppress(NotFound, Conflict):
                    await self._store.delete(RouterRecord, name, record.meta.revision)

    async def _write(self, name: str, record: RouterRecord | None, now: datetime) -> None:
        status = RouterStatus(seen_at=now)
        with suppress(AlreadyExists, Conflict, NotFound):
            if record is None:
                await self._store.create(RouterRecord(meta=Meta(name=name), status=status))
            else:
                await self._store.update(record.model_copy(update={"status": status}))


def _seen(record: RouterRecord) -> datetime:
    return record.status.seen_at or record.meta.created_at


async def list_expected(store: Store, now: datetime) -> list[str]:
    """Return the routers that were there a moment ago."""
    records = (await store.list(RouterRecord)).documents
    return sorted(record.name for record in records if now - _seen(record) < EXPECTED)

"""One watch over several kinds: a stream each, put in order as far as that can be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Protocol

from seaway.kube.client import KubeClient
from seaway.kube.listing import Resource as Collection
from seaway.kube.watching import Seen, watch_objects
from seaway.model import Document
from seaway.store.base import Change
from seaway.store.kubernetes.documents import Resource, fingerprint

HOLD = 0.02  # seconds in which changes of several kinds are collected and put in order


class Source(Protocol):
    """What is needed of the store."""

    client: KubeClient

    def collection(self, kind: type[Document], selector: str = "") -> Collection[Resource]:
        """Return where the resources of a kind are."""
        ...

    async def decode_change(self, kind: type[Document], resource: Resource, *, deleted: bool) -> Document | None:
        """Return the document, or None if there is nothing to tell of."""
        ...


class Follower:
    """Follows kinds from a revision on; `end` ends it from outside."""

    def __init__(self, source: Source, kinds: tuple[type[Document], ...], since: int) -> None:
        self._source = source
        self._kinds = kinds
        self._since = str(since)
        self._queue: asyncio.Queue[Change | Exception | None] = asyncio.Queue(maxsize=1000)
        self._ended = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def end(self) -> None:
        """Let `run` end."""
        self._ended.set()
        for task in self._tasks:
            task.cancel()

    async def stop(self) -> None:
        """End, and wait until nothing runs any more."""
        self.end()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def run(self) -> AsyncGenerator[Change, None]:
        """Yield changes until ended; raise what a stream raises."""
        self._tasks = [asyncio.create_task(self._follow(kind), name=f"follow-{kind.kind}") for kind in self._kinds]
        self._tasks.append(asyncio.create_task(self._announce_end()))
        while not self._ended.is_set():
            found = [await self._queue.get()]
            if len(self._kinds) > 1:
                await asyncio.sleep(HOLD)
            while not self._queue.empty():
                found.append(self._queue.get_nowait())
            changes = [item for item in found if isinstance(item, Change)]
            for change in sorted(changes, key=lambda change: change.revision):
                yield change
            for item in found:
                if isinstance(item, Exception) and not self._ended.is_set():
                    raise item

    async def _announce_end(self) -> None:
        try:
            await self._ended.wait()
        finally:
            while self._queue.full():
                self._queue.get_nowait()
            self._queue.put_nowait(None)

    async def _follow(self, kind: type[Document]) -> None:
        told: dict[str, int] = {}  # uid -> fingerprint of what was told of it
        watching = watch_objects(self._source.client, self._source.collection(kind), self._since)
        try:
            async with aclosing(watching) as lumps:
                async for lump in lumps:
                    await self._pass_on(kind, lump, told)
        except Exception as error:  # handed to whoever watches
            await self._queue.put(error)

    async def _pass_on(self, kind: type[Document], lump: Sequence[Seen[Resource]], told: dict[str, int]) -> None:
        for seen in lump:
            metadata = seen.item.metadata
            deleted = seen.type == "deleted"
            mark = fingerprint(seen.item)
            if not deleted and told.get(metadata.uid) == mark:
                continue
            document = await self._source.decode_change(kind, seen.item, deleted=deleted)
            if deleted:
                told.pop(metadata.uid, None)
            else:
                told[metadata.uid] = mark
            if document is not None:
                await self._queue.put(Change(seen.type, int(metadata.resource_version), document))

"""A store in memory, for property tests: the same contract as SQLite, nothing kept."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import cast

from seaway.model import Document
from seaway.store.base import AlreadyExists, Change, Choose, Conflict, D, Expired, Listing, NotFound, Written


class MemoryStore:
    """Documents in a dict; every change is kept for watches up to `history` changes."""

    def __init__(self, history: int = 10_000) -> None:
        self._documents: dict[tuple[str, str], Document] = {}
        self._changes: list[Change] = []
        self._history = history
        self._revision = 0
        self._changed = asyncio.Condition()
        self._closed = False

    async def get(self, kind: type[D], name: str) -> D:
        """Return the document or raise NotFound."""
        try:
            return cast(D, self._documents[kind.kind, name])
        except KeyError:
            raise NotFound(f"no {kind.kind} named {name}") from None

    async def list(self, kind: type[D], labels: Mapping[str, str] | None = None) -> Listing[D]:
        """Return the documents that carry the labels, by name."""
        wanted = (labels or {}).items()
        found = [
            cast(D, document)
            for (k, _), document in sorted(self._documents.items())
            if k == kind.kind and wanted <= document.meta.labels.items()
        ]
        return Listing(self._revision, tuple(found))

    async def create(self, document: D) -> D:
        """Store a new document."""
        if (document.kind, document.name) in self._documents:
            raise AlreadyExists(f"{document.kind} {document.name} exists")
        return await self._put(document, uuid.uuid4().hex, datetime.now(UTC))

    async def update(self, document: D) -> D:
        """Replace if unchanged since it was read."""
        old = await self.get(type(document), document.name)
        if old.meta.revision != document.meta.revision or old.meta.uid != document.meta.uid:
            raise Conflict(f"{document.kind} {document.name} was changed by another writer")
        return await self._put(document, old.meta.uid, old.meta.created_at)

    async def delete(self, kind: type[Document], name: str, revision: int | None = None) -> None:
        """Delete, if given a revision only if unchanged since."""
        old = await self.get(kind, name)
        if revision is not None and old.meta.revision != revision:
            raise Conflict(f"{kind.kind} {name} was changed by another writer")
        del self._documents[kind.kind, name]
        self._revision += 1
        await self._record(Change("deleted", self._revision, old))

    async def trim(self, kind: type[Document], choose: Choose) -> int:
        """Delete those documents of the kind that `choose` returns."""
        metas = [document.meta for document in (await self.list(kind)).documents]
        gone = 0
        for written in choose([Written(meta.name, meta.revision, meta.labels) for meta in metas]):
            with suppress(NotFound, Conflict):
                await self.delete(kind, written.name, written.revision)
                gone += 1
        return gone

    async def watch(self, kinds: tuple[type[Document], ...], since: int) -> AsyncGenerator[Change, None]:
        """Yield changes after `since`."""
        names = {kind.kind for kind in kinds}
        while not self._closed:
            oldest = self._changes[0].revision if self._changes else self._revision + 1
            if since < oldest - 1:
                raise Expired(f"revision {since} is older than {oldest}")
            for change in [c for c in self._changes if c.revision > since]:
                since = change.revision
                if change.document.kind in names:
                    yield change
            async with self._changed:
                while self._revision <= since and not self._closed:
                    await self._changed.wait()

    async def close(self) -> None:
        """End all watches."""
        self._closed = True
        async with self._changed:
            self._changed.notify_all()

    async def _put(self, document: D, uid: str, created_at: datetime) -> D:
        self._revision += 1
        update = {"uid": uid, "revision": self._revision, "created_at": created_at, "updated_at": datetime.now(UTC)}
        stored = document.model_copy(update={"meta": document.meta.model_copy(update=update)})
        self._documents[document.kind, document.name] = stored
        await self._record(Change("put", self._revision, stored))
        return stored

    async def _record(self, change: Change) -> None:
        self._changes.append(change)
        del self._changes[: -self._history]
        async with self._changed:
            self._changed.notify_all()

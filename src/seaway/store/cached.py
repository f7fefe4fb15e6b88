"""A picture of documents in memory for whoever reads many and often: the control loop.

Reads are answered from the picture, which a list and a watch of the store behind keep true; they may be behind by
what the watch takes (milliseconds), never behind this process's own writes. Writes go to the store, whose
compare-and-swap refuses what was decided on an old picture. Kinds that are not followed pass through.

Listings carry this picture's own count as their revision, and `watch` goes on from such a count: a change is told
after it is in the picture, so whoever hears of it also reads it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from itertools import islice
from typing import cast

import structlog

from seaway.model import Document
from seaway.store.base import (
    Change,
    Choose,
    Conflict,
    D,
    Expired,
    Listing,
    NotFound,
    Store,
    StoreError,
    Unavailable,
    Unreadable,
)

log = structlog.get_logger(__name__)

HISTORY = 10_000  # changes kept for watches
INDEXED = "app"  # the label by which most lists are asked for
RETRY = (0.2, 5.0)  # seconds before the first and the latest attempts to reach the store again, doubling


class _Kind:
    """Documents of one kind, by name and by their label INDEXED."""

    def __init__(self) -> None:
        self.by_name: dict[str, Document] = {}
        self.by_app: dict[str, dict[str, Document]] = {}
        self.unreadable: tuple[Unreadable, ...] = ()  # of the last list

    def put(self, document: Document) -> None:
        self.remove(document.name)
        self.by_name[document.name] = document
        if app := document.meta.labels.get(INDEXED):
            self.by_app.setdefault(app, {})[document.name] = document

    def remove(self, name: str) -> Document | None:
        old = self.by_name.pop(name, None)
        if old is not None and (app := old.meta.labels.get(INDEXED)):
            self.by_app[app].pop(name, None)
            if not self.by_app[app]:
                del self.by_app[app]
        return old

    def select_unreadable(self, labels: Mapping[str, str]) -> tuple[Unreadable, ...]:
        """Documents of an app are named APP.SOMETHING."""
        app = labels.get(INDEXED)
        return tuple(u for u in self.unreadable if app is None or u.name.partition(".")[0] == app)

    def select(self, labels: Mapping[str, str]) -> list[Document]:
        pool = self.by_app.get(labels[INDEXED], {}) if INDEXED in labels else self.by_name
        wanted = labels.items()
        return [pool[name] for name in sorted(pool) if wanted <= pool[name].meta.labels.items()]


class CachedStore:
    """Implements Store but for revisions of listings (see the module); `run` keeps the picture until cancelled."""

    def __init__(self, store: Store, kinds: tuple[type[Document], ...]) -> None:
        self.synced = asyncio.Event()  # the first list of every kind is in the picture
        self.trouble = ""  # why the store cannot be followed now
        self._store = store
        self._kinds = kinds
        self._pictures: dict[str, _Kind] = {kind.kind: _Kind() for kind in kinds}
        self._gone: dict[tuple[str, str], str] = {}  # what this process deleted: uid, until the watch tells so too
        self._changes: deque[Change] = deque(maxlen=HISTORY)
        self._count = 1  # of the latest change; a listing of 0 would look like one that was never made
        self._changed = asyncio.Event()
        self._closed = False

    async def run(self) -> None:
        """Follow the store for ever; an outage is waited out, the picture stays as it is meanwhile."""
        delay = RETRY[0]
        while True:
            try:
                since = await self._fill()
                self.synced.set()
                self.trouble, delay = "", RETRY[0]
                async with aclosing(self._store.watch(self._kinds, since)) as changes:
                    async for change in changes:
                        self._note(change.type, change.document)
                return  # the store was closed
            except Expired:
                log.info("the store's watch fell behind; listing again")
            except StoreError as error:
                if not self.trouble:
                    log.warning("the store cannot be followed now", error=str(error))
                self.trouble = str(error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, RETRY[1])

    async def refresh(self) -> None:
        """Take in everything that was written until now, by whomever: for a replica that begins to lead."""
        await self.synced.wait()
        await self._fill()

    async def _fill(self) -> int:
        """List every kind and make the picture of it the list; return the revision to watch from."""
        revisions = []
        for kind in self._kinds:
            listing = await self._store.list(kind)
            revisions.append(listing.revision)
            self._pictures[kind.kind].unreadable = listing.unreadable
            listed = {document.name for document in listing.documents}
            for document in listing.documents:
                self._note("put", document)
            for name in [n for n in self._pictures[kind.kind].by_name if n not in listed]:
                old = self._pictures[kind.kind].by_name[name]
                if old.meta.revision <= listing.revision:
                    self._note("deleted", old)
        return min(revisions)

    def _note(self, type_: str, document: Document) -> None:
        """Take in a change of the store or of this process, unless the picture is ahead of it."""
        picture, key = self._pictures[document.kind], (document.kind, document.name)
        known = picture.by_name.get(document.name)
        if type_ == "deleted":
            if self._gone.get(key) == document.meta.uid:
                del self._gone[key]
            if known is None or known.meta.uid != document.meta.uid:
                return
            picture.remove(document.name)
            self._tell(Change("deleted", self._count + 1, known))
            return
        if self._gone.get(key) == document.meta.uid:
            return
        if known is not None and known.meta.revision >= document.meta.revision:
            return
        picture.put(document)
        self._tell(Change("put", self._count + 1, document))

    def _tell(self, change: Change) -> None:
        self._count = change.revision
        self._changes.append(change)
        self._changed.set()
        self._changed = asyncio.Event()

    async def get(self, kind: type[D], name: str) -> D:
        """See Store.get."""
        if kind.kind not in self._pictures:
            return await self._store.get(kind, name)
        self._check()
        try:
            return cast(D, self._pictures[kind.kind].by_name[name])
        except KeyError:
            raise NotFound(f"there is no {kind.kind} {name!r}") from None

    async def list(self, kind: type[D], labels: Mapping[str, str] | None = None) -> Listing[D]:
        """See Store.list; the revision is this picture's own count."""
        if kind.kind not in self._pictures:
            return await self._store.list(kind, labels)
        self._check()
        picture = self._pictures[kind.kind]
        found = tuple(cast(list[D], picture.select(labels or {})))
        return Listing(self._count, found, picture.select_unreadable(labels or {}))

    async def create(self, document: D) -> D:
        """See Store.create."""
        return self._wrote(await self._store.create(document))

    async def update(self, document: D) -> D:
        """See Store.update. What was refused for being old is read anew, so that the next try knows better.

        The watch may never tell of the newer revision: a store leaves out changes that are none to its documents.
        """
        try:
            return self._wrote(await self._store.update(document))
        except (Conflict, NotFound):
            await self._look_again(type(document), document.name)
            raise

    async def delete(self, kind: type[Document], name: str, revision: int | None = None) -> None:
        """See Store.delete."""
        followed = self._pictures.get(kind.kind)
        known = followed.by_name.get(name) if followed else None
        await self._store.delete(kind, name, revision)
        if known is not None:
            self._note("deleted", known)
            self._gone[kind.kind, name] = known.meta.uid

    async def trim(self, kind: type[Document], choose: Choose) -> int:
        """See Store.trim."""
        return await self._store.trim(kind, choose)

    async def watch(self, kinds: tuple[type[Document], ...], since: int) -> AsyncGenerator[Change, None]:
        """Yield every change of the picture after the count `since`; Expired if it is too old."""
        names = {kind.kind for kind in kinds}
        while not self._closed:
            changed = self._changed
            oldest = self._changes[0].revision if self._changes else self._count + 1
            if since < oldest - 1 or since > self._count:
                raise Expired(f"changes after {since} are not all kept any more: list again")
            for change in reversed(tuple(islice(reversed(self._changes), self._count - since))):
                since = change.revision
                if change.document.kind in names:
                    yield change
            if since >= self._count:
                await changed.wait()

    async def close(self) -> None:
        """End the watches; the store behind is its owner's to close."""
        self._closed = True
        self._changed.set()

    async def _look_again(self, kind: type[Document], name: str) -> None:
        if kind.kind not in self._pictures:
            return
        try:
            self._note("put", await self._store.get(kind, name))
        except NotFound:
            if known := self._pictures[kind.kind].by_name.get(name):
                self._note("deleted", known)

    def _wrote(self, document: D) -> D:
        if document.kind in self._pictures:
            self._note("put", document)
        return document

    def _check(self) -> None:
        if self._closed:
            raise Unavailable("the store is closed")
        if not self.synced.is_set():
            raise Unavailable(f"the documents have not been listed yet{f': {self.trouble}' if self.trouble else ''}")

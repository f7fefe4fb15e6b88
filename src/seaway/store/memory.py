"""A store in memory: passes the store contract and keeps nothing. For tests and for trying things out.

Each operation lets others go first, as one that waits for a disk does: who forgets that a store changes between a
read and a write meets a Conflict here, too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast

from seaway.model import Document
from seaway.store.base import AlreadyExists, Change, Choose, D, Expired, Listing, NotFound, Unavailable, Written
from seaway.store.stamps import check_revision, stamp_changed, stamp_new


@dataclass
class Contents:
    """What outlives a store that is closed: give it to the next one."""

    documents: dict[tuple[str, str], Document] = field(default_factory=dict)  # by kind and name
    changes: deque[Change] = field(default_factory=deque)
    lost: dict[str, int] = field(default_factory=dict)  # kind -> revision of its newest change that is not kept
    revision: int = 0


class MemoryStore:
    """Implements Store over a dict; the newest `keep_changes` changes are kept for watches."""

    def __init__(self, keep_changes: int = 10_000, contents: Contents | None = None) -> None:
        self._contents = Contents() if contents is None else contents
        self._keep_changes = keep_changes
        self._watchers: set[asyncio.Event] = set()
        self._closed = False

    async def get(self, kind: type[D], name: str) -> D:
        """Return the document or raise NotFound."""
        await self._wait()
        return self._get(kind, name)

    async def list(self, kind: type[D], labels: Mapping[str, str] | None = None) -> Listing[D]:
        """Return the documents that carry the labels, by name."""
        await self._wait()
        wanted = (labels or {}).items()
        found = [d for d in self._all(kind) if wanted <= d.meta.labels.items()]
        return Listing(self._contents.revision, tuple(sorted(found, key=lambda document: document.name)))

    async def create(self, document: D) -> D:
        """Store a new document; set uid, revision and times; or raise AlreadyExists."""
        await self._wait()
        if (document.kind, document.name) in self._contents.documents:
            raise AlreadyExists(f"{document.kind} {document.name!r} exists")
        return self._put(stamp_new(document, self._contents.revision + 1, datetime.now(UTC)))

    async def update(self, document: D) -> D:
        """Replace the document if unchanged since it was read; one that changes nothing keeps its revision."""
        await self._wait()
        stored = self._get(type(document), document.name)
        check_revision(stored, document.meta.revision)
        if document == stored:
            return stored
        return self._put(stamp_changed(document, stored, self._contents.revision + 1, datetime.now(UTC)))

    async def delete(self, kind: type[Document], name: str, revision: int | None = None) -> None:
        """Delete; with `revision` only if unchanged since (Conflict otherwise); NotFound if it is not there."""
        await self._wait()
        stored = self._get(kind, name)
        if revision is not None:
            check_revision(stored, revision)
        self._delete(stored)

    async def trim(self, kind: type[Document], choose: Choose) -> int:
        """Delete those of all documents of the kind that `choose` returns; return how many went."""
        await self._wait()
        metas = [document.meta for document in self._all(kind)]
        chosen = choose([Written(meta.name, meta.revision, meta.labels) for meta in metas])
        for written in chosen:
            self._delete(self._get(kind, written.name))
        return len(chosen)

    async def watch(self, kinds: tuple[type[Document], ...], since: int) -> AsyncGenerator[Change, None]:
        """Yield every change after `since` in order until the store is closed; raise Expired if it is too old."""
        names = {kind.kind for kind in kinds}
        changed = asyncio.Event()
        self._watchers.add(changed)
        try:
            while not self._closed:
                changed.clear()
                held = self._contents
                if since > held.revision or any(held.lost.get(name, 0) > since for name in names):
                    raise Expired(f"changes after revision {since} are not all there any more: list again")
                for change in [c for c in held.changes if c.revision > since and c.document.kind in names]:
                    since = change.revision
                    yield change
                if not changed.is_set():
                    await changed.wait()
        finally:
            self._watchers.discard(changed)

    async def close(self) -> None:
        """End all watches; what is asked for afterwards is Unavailable."""
        self._closed = True
        self._wake()

    async def _wait(self) -> None:
        await asyncio.sleep(0)
        if self._closed:
            raise Unavailable("the store is closed")

    def _all(self, kind: type[D]) -> tuple[D, ...]:
        return tuple(cast(D, one) for (name, _), one in self._contents.documents.items() if name == kind.kind)

    def _get(self, kind: type[D], name: str) -> D:
        try:
            return cast(D, self._contents.documents[kind.kind, name])
        except KeyError:
            raise NotFound(f"there is no {kind.kind} {name!r}") from None

    def _put(self, document: D) -> D:
        """Store a document that is stamped."""
        self._contents.documents[document.kind, document.name] = document
        self._record(Change("put", document.meta.revision, document))
        return document

    def _delete(self, stored: Document) -> None:
        del self._contents.documents[stored.kind, stored.name]
        self._record(Change("deleted", self._contents.revision + 1, stored))

    def _record(self, change: Change) -> None:
        held = self._contents
        held.revision = change.revision
        held.changes.append(change)
        while len(held.changes) > self._keep_changes:
            gone = held.changes.popleft()
            held.lost[gone.document.kind] = gone.revision
        self._wake()

    def _wake(self) -> None:
        for changed in self._watchers:
            changed.set()


__all__ = ["Contents", "MemoryStore"]

"""The store contract. SQLite, Kubernetes and, for tests, memory pass tests/contract/test_store.py."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from seaway.model import Document

D = TypeVar("D", bound=Document)


class StoreError(Exception):
    """Base of what a store raises."""


class NotFound(StoreError):
    """There is no such document."""


class AlreadyExists(StoreError):
    """A document of that kind and name exists."""


class Conflict(StoreError):
    """Somebody else wrote the document since it was read; read again, decide again."""


class Expired(StoreError):
    """The revision to watch from is too old; list again and watch from the new revision."""


class Unavailable(StoreError):
    """The store does not answer now; nothing is known to have changed."""


class OutOfRoom(Unavailable):
    """The store's disk is full; nothing was changed."""


class Unreadable(StoreError):
    """A stored document does not fit the model, as one of a newer Seaway; it stays as it is."""

    def __init__(self, kind: str, name: str, problem: str) -> None:
        """`problem` names the fields and what to do."""
        super().__init__(problem)
        self.kind = kind
        self.name = name


@dataclass(frozen=True)
class Change:
    """One change seen by a watch: `document` is the new version, or the last one for "deleted"."""

    type: Literal["put", "deleted"]
    revision: int
    document: Document


@dataclass(frozen=True)
class Listing(Generic[D]):
    """Documents as of `revision`; watching from it misses nothing and repeats nothing.

    `unreadable` are left out, so that one document that does not fit stops nobody else.
    """

    revision: int
    documents: tuple[D, ...]
    unreadable: tuple[Unreadable, ...] = ()

    def whole(self) -> tuple[D, ...]:
        """Return the documents or raise Unreadable: for whoever would act on one's not being there."""
        if self.unreadable:
            raise self.unreadable[0]
        return self.documents


@dataclass(frozen=True)
class Written:
    """What trimming knows of a document: not its content, which may not fit the model."""

    name: str
    revision: int  # of its last write
    labels: Mapping[str, str]


Choose = Callable[[Sequence[Written]], Sequence[Written]]
"""Returns those that are to go, in the order in which they are deleted. Pure: a store may call it in another thread."""


class Store(Protocol):
    """Versioned documents. Every method may raise Unavailable."""

    async def get(self, kind: type[D], name: str) -> D:
        """Return the document or raise NotFound (Unreadable if it does not fit the model)."""
        ...

    async def list(self, kind: type[D], labels: Mapping[str, str] | None = None) -> Listing[D]:
        """Return all documents of the kind that carry the labels, by name, and the store's revision."""
        ...

    async def create(self, document: D) -> D:
        """Store a new document; set uid, revision and times; or raise AlreadyExists."""
        ...

    async def update(self, document: D) -> D:
        """Replace the document if it still has the revision of `document.meta`; else Conflict (or NotFound)."""
        ...

    async def delete(self, kind: type[Document], name: str, revision: int | None = None) -> None:
        """Delete; with `revision` only if unchanged since (Conflict otherwise); NotFound if it is not there."""
        ...

    async def trim(self, kind: type[Document], choose: Choose) -> int:
        """Delete those of all documents of the kind that `choose` returns; return how many went.

        One that is written or deleted while they are chosen is left as it is.
        """
        ...

    def watch(self, kinds: tuple[type[Document], ...], since: int) -> AsyncGenerator[Change, None]:
        """Yield every change after revision `since` in order until closed; raise Expired if it is too old."""
        ...

    async def close(self) -> None:
        """Release what is held; watches end."""
        ...

"""What a store writes into the `meta` of a document, and when it refuses to: one rule for SQLite and memory."""

from __future__ import annotations

import uuid
from datetime import datetime

from seaway.model import SCHEMA_VERSION, Document
from seaway.store.base import Conflict, D


def stamp_new(document: D, revision: int, now: datetime) -> D:
    """Return a document as it is stored the first time, with a uid of its own."""
    return _stamp(document, uuid.uuid4().hex, revision, now, now)


def stamp_changed(document: D, stored: D, revision: int, now: datetime) -> D:
    """Return a document as it replaces `stored`, whose identity it keeps whatever the writer put there."""
    return _stamp(document, stored.meta.uid, revision, stored.meta.created_at, now)


def check_revision(stored: Document, revision: int) -> None:
    """Raise Conflict if a stored document is not the one that its writer read."""
    if stored.meta.revision != revision:
        raise Conflict(
            f"{stored.kind} {stored.name!r} was changed by another writer (it is at revision "
            f"{stored.meta.revision}, not {revision}): read it again and decide again"
        )


def _stamp(document: D, uid: str, revision: int, created_at: datetime, now: datetime) -> D:
    meta = document.meta.model_copy(
        update={
            "uid": uid, "revision": revision, "created_at": created_at, "updated_at": now,
            "schema_version": SCHEMA_VERSION,
        }
    )  # fmt: skip
    return document.model_copy(update={"meta": meta})

"""The SQL of the SQLite store: schema, documents, changes. Synchronous; one thread at a time uses a Database."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from seaway.model import KINDS, SCHEMA_VERSION, Document
from seaway.store.base import (
    AlreadyExists,
    Change,
    Choose,
    D,
    Expired,
    Listing,
    NotFound,
    StoreError,
    Unreadable,
    Written,
)
from seaway.store.stamps import check_revision, stamp_changed, stamp_new

APPLICATION_ID = 0x5EA3A7  # marks the file as Seaway's (PRAGMA application_id)
DATABASE_VERSION = 1  # version of the tables (PRAGMA user_version)
KEEP_CHANGES = 10_000  # changes that stay for watchers to catch up from

SCHEMA = """
CREATE TABLE documents (
    kind TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL, data TEXT NOT NULL, labels TEXT NOT NULL,
    PRIMARY KEY (kind, name)
) WITHOUT ROWID;
CREATE INDEX documents_by_revision ON documents (kind, revision);
CREATE TABLE labels (
    kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, name TEXT NOT NULL,
    PRIMARY KEY (kind, key, value, name)
) WITHOUT ROWID;
CREATE TABLE changes (
    revision INTEGER PRIMARY KEY, type TEXT NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL
);
CREATE TABLE compacted (kind TEXT PRIMARY KEY, revision INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE state (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), revision INTEGER NOT NULL);
INSERT INTO state VALUES (1, 0);
"""

LOST = "SELECT 1 FROM compacted WHERE kind IN (SELECT value FROM json_each(?)) AND revision > ?"
CHANGES = """
SELECT type, revision, kind, data FROM changes
WHERE revision > ? AND kind IN (SELECT value FROM json_each(?)) ORDER BY revision LIMIT ?
"""


class Unusable(StoreError):
    """The database file cannot be used: damaged, foreign, too new, or held; the message says what to do."""


def connect(path: Path) -> sqlite3.Connection:
    """Open or make the database; raise Unusable if it is damaged, foreign or of a newer Seaway."""
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    except sqlite3.Error as error:
        raise Unusable(f"cannot open {path}: {error}; check the folder's owner and free space") from error
    try:
        _prepare(connection, path)
    except sqlite3.OperationalError as error:
        connection.close()
        advice = "check the file's owner, other programs that use it, and free space"
        raise Unusable(f"cannot use {path}: {error}; {advice}") from error
    except sqlite3.DatabaseError as error:
        connection.close()
        raise damaged(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def damaged(path: Path, detail: object) -> Unusable:
    """Return the error for a file that SQLite cannot read."""
    return Unusable(
        f"{path} is damaged or not a database ({detail}): move it away together with {path.name}-wal and "
        f"{path.name}-shm, then put a copy in its place or start afresh"
    )


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and application != APPLICATION_ID:
        raise Unusable(f"{path} is a database of another program: move it away or set another SEAWAY_HOME")
    if version > DATABASE_VERSION:
        raise Unusable(
            f"{path} was written by a newer Seaway (its tables have version {version}, this Seaway knows "
            f"{DATABASE_VERSION}): run that Seaway or a later one"
        )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA temp_store = MEMORY")
    if version == 0:
        script = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {DATABASE_VERSION};"
        connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} {script} COMMIT;")
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise damaged(path, verdict)


def keep_room(connection: sqlite3.Connection, path: Path, size: int) -> bool:
    """Have the file hold `size` free bytes, and its log as many, that nobody else can take; return whether it had less.

    Documents can be written then for a while after the disk is full. Where a file system never writes in place (Btrfs,
    ZFS) there is no such promise. For a connection without a transaction; sqlite3.Error if there is no room for it.
    """
    (page,) = connection.execute("PRAGMA page_size").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    written = path.with_name(f"{path.name}-wal")
    if page * free >= size / 2 and written.exists() and written.stat().st_size >= size:
        return False
    # In two transactions: pages that are freed in the one that takes them are never written.
    connection.execute("CREATE TABLE IF NOT EXISTS room (bytes BLOB)")
    connection.execute("INSERT INTO room VALUES (zeroblob(?))", (size,))
    connection.execute("DROP TABLE room")
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return True


class Database:
    """Documents and their changes in one connection; the caller holds a transaction around every call."""

    def __init__(self, connection: sqlite3.Connection, keep_changes: int = KEEP_CHANGES) -> None:
        self._connection = connection
        self._keep_changes = keep_changes

    def revision(self) -> int:
        """Return the revision of the latest change, 0 before the first."""
        (revision,) = self._connection.execute("SELECT revision FROM state").fetchone()
        return int(revision)

    def get(self, kind: type[D], name: str) -> D:
        """Return the document or raise NotFound."""
        query = "SELECT data FROM documents WHERE kind = ? AND name = ?"
        row = self._connection.execute(query, (kind.kind, name)).fetchone()
        if row is None:
            raise NotFound(f"there is no {kind.kind} {name!r}")
        return _decode(kind, name, row[0])

    def list(self, kind: type[D], labels: Mapping[str, str]) -> Listing[D]:
        """Return the documents of a kind that carry all labels, by name."""
        query, values = "SELECT name, data FROM documents WHERE kind = ?", [kind.kind]
        for key, value in labels.items():
            query += " AND name IN (SELECT name FROM labels WHERE kind = ? AND key = ? AND value = ?)"
            values += [kind.kind, key, value]
        found: list[D] = []
        unreadable: list[Unreadable] = []
        for name, data in self._connection.execute(query + " ORDER BY name", values):
            try:
                found.append(_decode(kind, name, data))
            except Unreadable as error:
                unreadable.append(error)
        return Listing(self.revision(), tuple(found), tuple(unreadable))

    def create(self, document: D, now: datetime) -> D:
        """Store a new document or raise AlreadyExists."""
        query = "SELECT 1 FROM documents WHERE kind = ? AND name = ?"
        if self._connection.execute(query, (document.kind, document.name)).fetchone():
            raise AlreadyExists(f"{document.kind} {document.name!r} exists")
        stored = stamp_new(document, self._next_revision(), now)
        self._put(stored)
        return stored

    def update(self, document: D, now: datetime) -> D:
        """Replace the document if its revision is the stored one; one that changes nothing keeps its revision."""
        stored = self.get(type(document), document.name)
        check_revision(stored, document.meta.revision)
        if document == stored:
            return stored
        changed = stamp_changed(document, stored, self._next_revision(), now)
        self._put(changed)
        return changed

    def delete(self, kind: type[Document], name: str, revision: int | None) -> None:
        """Delete the document; raise NotFound, or Conflict if it is not at `revision`."""
        stored = self.get(kind, name)
        if revision is not None:
            check_revision(stored, revision)
        self._delete(kind.kind, name, stored.model_dump_json())

    def trim(self, kind: type[Document], choose: Choose) -> int:
        """Delete those documents of a kind that `choose` returns; return how many went."""
        rows = self._connection.execute("SELECT name, revision, labels FROM documents WHERE kind = ?", (kind.kind,))
        chosen = choose([Written(name, revision, json.loads(labels)) for name, revision, labels in rows])
        for written in chosen:
            query = "SELECT data FROM documents WHERE kind = ? AND name = ?"
            (data,) = self._connection.execute(query, (kind.kind, written.name)).fetchone()
            self._delete(kind.kind, written.name, data)
        return len(chosen)

    def changes(self, kinds: Sequence[type[Document]], since: int, limit: int) -> tuple[Sequence[Change], int]:
        """Return up to `limit` changes of the kinds after `since`, oldest first, and the revision they reach to.

        Raise Expired if some are gone. What cannot be read is left out, as from a list.
        """
        names = json.dumps([kind.kind for kind in kinds])
        if since > self.revision() or self._connection.execute(LOST, (names, since)).fetchone():
            raise Expired(f"changes after revision {since} are not all there any more: list again and watch from there")
        rows = self._connection.execute(CHANGES, (since, names, limit)).fetchall()
        found: list[Change] = []
        for type_, revision, kind, data in rows:
            with contextlib.suppress(Unreadable):
                found.append(Change(type_, revision, _decode(KINDS[kind], "", data)))
        return found, rows[-1][1] if rows else since

    def _put(self, document: Document) -> None:
        data, name = document.model_dump_json(), document.name
        labels = json.dumps(document.meta.labels, sort_keys=True)
        self._drop_labels(document.kind, name)
        self._connection.execute(
            "INSERT OR REPLACE INTO documents (kind, name, revision, data, labels) VALUES (?, ?, ?, ?, ?)",
            (document.kind, name, document.meta.revision, data, labels),
        )
        rows = [(document.kind, key, value, name) for key, value in document.meta.labels.items()]
        self._connection.executemany("INSERT INTO labels (kind, key, value, name) VALUES (?, ?, ?, ?)", rows)
        self._record("put", document.meta.revision, document.kind, data)

    def _delete(self, kind: str, name: str, data: str) -> None:
        self._drop_labels(kind, name)
        self._connection.execute("DELETE FROM documents WHERE kind = ? AND name = ?", (kind, name))
        self._record("deleted", self._next_revision(), kind, data)

    def _drop_labels(self, kind: str, name: str) -> None:
        """Delete the labels of a stored document by their whole keys: by its name alone all of the kind are read."""
        query = "SELECT labels FROM documents WHERE kind = ? AND name = ?"
        for (labels,) in self._connection.execute(query, (kind, name)).fetchall():
            rows = [(kind, key, value, name) for key, value in json.loads(labels).items()]
            gone = "DELETE FROM labels WHERE kind = ? AND key = ? AND value = ? AND name = ?"
            self._connection.executemany(gone, rows)

    def _next_revision(self) -> int:
        (revision,) = self._connection.execute("UPDATE state SET revision = revision + 1 RETURNING revision").fetchone()
        return int(revision)

    def _record(self, type_: str, revision: int, kind: str, data: str) -> None:
        row = (revision, type_, kind, data)
        self._connection.execute("INSERT INTO changes (revision, type, kind, data) VALUES (?, ?, ?, ?)", row)
        # Dropping in lumps of a tenth costs little per write; at most 1.1 times the bound is on disk.
        if revision % max(1, self._keep_changes // 10) == 0:
            self._compact(revision - self._keep_changes)

    def _compact(self, until: int) -> None:
        """Drop changes up to revision `until`, remembering per kind what is gone (for Expired)."""
        gone = "SELECT kind, max(revision) FROM changes WHERE revision <= ? GROUP BY kind"
        rows = self._connection.execute(gone, (until,)).fetchall()
        self._connection.executemany("INSERT OR REPLACE INTO compacted (kind, revision) VALUES (?, ?)", rows)
        self._connection.execute("DELETE FROM changes WHERE revision <= ?", (until,))


def _decode(kind: type[D], name: str, data: str) -> D:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        fields = "; ".join(".".join(map(str, e["loc"])) + ": " + e["msg"] for e in error.errors(include_input=False))
        raise Unreadable(
            kind.kind,
            name,
            f"the stored {kind.kind} {name!r} (schema version {_find_version(data)}, this Seaway knows "
            f"{SCHEMA_VERSION}) does not fit the model: {fields.removeprefix(': ')}; run the Seaway that wrote it, or "
            f"a later one, or put it right in the database",
        ) from error


def _find_version(data: str) -> object:
    try:
        return json.loads(data)["meta"]["schema_version"]
    except (ValueError, KeyError, TypeError):
        return "unknown"

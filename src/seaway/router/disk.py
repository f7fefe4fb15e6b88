"""A router's last good resources on disk: routes survive the loss of the control plane and a restart without it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import structlog

from seaway.router.base import ResourceKey
from seaway.router.catalog import Resource

log = structlog.get_logger("seaway.router")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS resources (
    type TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (type, name)
) WITHOUT ROWID
"""


class LastGood:
    """One SQLite file (WAL: a kill loses nothing committed). A damaged file is put aside and begun anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._database = self._open()
        except sqlite3.DatabaseError as error:
            aside = path.with_suffix(f".damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}")
            path.replace(aside)
            for suffix in ("-wal", "-shm"):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
            log.error("last good resources are damaged: begin without", kept=str(aside), error=str(error))
            self._database = self._open()

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute(_SCHEMA)
            database.execute("SELECT count(*) FROM resources").fetchone()
        except sqlite3.DatabaseError:
            database.close()
            raise
        return database

    def load(self) -> dict[ResourceKey, Resource]:
        """Return everything kept."""
        rows = self._database.execute("SELECT type, name, version, body FROM resources")
        return {(kind, name): Resource.pack((kind, name), body, version) for kind, name, version, body in rows}

    def apply(self, puts: Mapping[ResourceKey, Resource], removals: Iterable[ResourceKey] = ()) -> None:
        """Put and remove in one transaction."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            self._database.executemany("DELETE FROM resources WHERE type = ? AND name = ?", list(removals))
            self._database.executemany(
                "INSERT OR REPLACE INTO resources VALUES (?, ?, ?, ?)",
                [(*key, resource.version, resource.body) for key, resource in puts.items()],
            )
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._database.close()

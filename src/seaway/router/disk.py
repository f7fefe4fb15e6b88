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
    """One SQLite file (WAL: a kill loses nothing committed). A damaged file is put aside and begun anew.

    What cannot be written (a full disk) is kept in memory until `catch_up` has written it; routes do not wait for it.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError or sqlite3.OperationalError if the file cannot be opened now: it may be whole."""
        self._path = path
        self._late: dict[ResourceKey, Resource | None] = {}  # to be written; None: to be removed
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._database = self._open()
        except sqlite3.OperationalError:
            raise
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
        """Put and remove in one transaction, with what could not be written before."""
        was_late = bool(self._late)
        self._late.update(dict.fromkeys(removals))
        self._late.update(puts)
        try:
            self._write(self._late)
        except sqlite3.OperationalError as error:
            if not was_late:
                log.error("routes cannot be written to disk now; Envoy has them all the same", error=str(error))
            return
        self._late.clear()
        if was_late:
            log.info("every route is on disk again")

    def catch_up(self) -> None:
        """Write what could not be written before, if there is any."""
        if self._late:
            self.apply({})

    def _write(self, changes: Mapping[ResourceKey, Resource | None]) -> None:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            gone = [key for key, resource in changes.items() if resource is None]
            self._database.executemany("DELETE FROM resources WHERE type = ? AND name = ?", gone)
            self._database.executemany(
                "INSERT OR REPLACE INTO resources VALUES (?, ?, ?, ?)",
                [(*key, resource.version, resource.body) for key, resource in changes.items() if resource],
            )
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Write what is late, and close the file."""
        self.catch_up()
        self._database.close()

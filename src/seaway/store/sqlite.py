"""The embedded store: one SQLite file, owned by one process. SQL is in database.py, the thread in worker.py.

Every change is on disk (WAL, synchronous=FULL) before its writer hears of it. Watchers live in this process
and are woken by the commit itself; that is why a second process may read the file but not open the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from seaway.disk import Level, judge, read_disk
from seaway.model import Document
from seaway.store.base import Change, Choose, Listing, Unavailable
from seaway.store.database import KEEP_CHANGES, Database, Unusable, connect, keep_room
from seaway.store.worker import Worker

__all__ = ["RESERVE", "SqliteStore", "Unusable"]

D = TypeVar("D", bound=Document)
T = TypeVar("T")

PID_BYTES = 32
RESERVE = 8 << 20  # bytes; some thousand documents
WATCH_BATCH = 200  # changes read at once by a watch


@dataclass(frozen=True, eq=False)
class _Watcher:
    """Who is to be woken when something was committed."""

    loop: asyncio.AbstractEventLoop
    changed: asyncio.Event

    def wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(self.changed.set)


class SqliteStore:
    """Versioned documents in one SQLite file (mode 0600); the contract is seaway.store.base.Store."""

    def __init__(self, connection: sqlite3.Connection, path: Path, lock: int, keep_changes: int, reserve: int) -> None:
        """Take over a prepared connection and a held lock; use `open`."""
        self._database = Database(connection, keep_changes)
        self._lock = lock
        self._watchers: set[_Watcher] = set()
        self._woken_at = self._database.revision()
        self._closed = False
        self._worker = Worker(connection, path, self._wake, partial(_keep_room, connection, path, reserve))

    @classmethod
    def open(cls, path: Path, *, keep_changes: int = KEEP_CHANGES, reserve: int = 0) -> SqliteStore:
        """Open or make the store; raise Unusable with what to do if that cannot be.

        `reserve`: bytes for documents that are kept free in its files, for when the disk is full.
        """
        lock = _hold(path)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.fchmod(descriptor, 0o600)
            os.close(descriptor)
            connection = connect(path)
        except OSError as error:
            os.close(lock)
            raise Unusable(f"cannot open {path}: {error.strerror}") from error
        except BaseException:
            os.close(lock)
            raise
        return cls(connection, path, lock, keep_changes, reserve)

    async def get(self, kind: type[D], name: str) -> D:
        """Return the document or raise NotFound."""
        return await self._do(lambda: self._database.get(kind, name))

    async def list(self, kind: type[D], labels: Mapping[str, str] | None = None) -> Listing[D]:
        """Return all documents of the kind that carry the labels, by name, and the store's revision."""
        wanted = dict(labels or {})
        return await self._do(lambda: self._database.list(kind, wanted))

    async def create(self, document: D) -> D:
        """Store a new document; set uid, revision and times; or raise AlreadyExists."""
        return await self._do(lambda: self._database.create(document, datetime.now(UTC)))

    async def update(self, document: D) -> D:
        """Replace the document if unchanged since it was read; else Conflict (or NotFound)."""
        return await self._do(lambda: self._database.update(document, datetime.now(UTC)))

    async def delete(self, kind: type[Document], name: str, revision: int | None = None) -> None:
        """Delete; with `revision` only if unchanged since (Conflict otherwise); NotFound if it is not there."""
        await self._do(lambda: self._database.delete(kind, name, revision))

    async def trim(self, kind: type[Document], choose: Choose) -> int:
        """Delete those of all documents of the kind that `choose` returns; return how many went."""
        return await self._do(lambda: self._database.trim(kind, choose))

    async def watch(self, kinds: tuple[type[Document], ...], since: int) -> AsyncGenerator[Change, None]:
        """Yield every change after revision `since` in order until the store is closed; raise Expired if too old."""
        watcher = _Watcher(asyncio.get_running_loop(), asyncio.Event())
        self._watchers.add(watcher)
        position = since
        try:
            while not self._closed:
                watcher.changed.clear()
                changes, reached = await self._do(partial(self._database.changes, kinds, position, WATCH_BATCH))
                for change in changes:
                    yield change
                if reached > position:
                    position = reached
                elif not self._closed:
                    await watcher.changed.wait()
        except Unavailable:
            if not self._closed:
                raise
        finally:
            self._watchers.discard(watcher)

    async def close(self) -> None:
        """Finish what is queued, end the watches, release the file."""
        if self._closed:
            return
        self._closed = True
        for watcher in tuple(self._watchers):
            watcher.wake()
        await asyncio.to_thread(self._worker.close)
        os.close(self._lock)

    async def _do(self, action: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._worker.submit(action))

    def _wake(self) -> None:
        """In the store's thread, after a commit: wake the watchers if it held a change."""
        revision = self._database.revision()
        if revision != self._woken_at:
            self._woken_at = revision
            for watcher in tuple(self._watchers):
                watcher.wake()


def _keep_room(connection: sqlite3.Connection, path: Path, reserve: int) -> None:
    """Make the reserve whole where the disk is not short of room itself."""
    if reserve and judge(read_disk(path.parent)) < Level.TIGHT:
        with contextlib.suppress(sqlite3.Error):  # others were faster
            keep_room(connection, path, reserve)


def _hold(path: Path) -> int:
    """Take the lock beside the file (the kernel drops it when this process ends, however it ends)."""
    name = path.with_name(path.name + ".lock")
    try:
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unusable(f"cannot open {name}: {error.strerror}; check that the folder exists and is yours") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, PID_BYTES, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        advice = "only one control plane may use it; stop that one first"
        raise Unusable(f"{path} is held by process {holder}: {advice}") from None
    try:
        os.pwrite(lock, str(os.getpid()).ljust(PID_BYTES).encode(), 0)  # over the one before: that needs no room
        os.ftruncate(lock, PID_BYTES)
    except OSError as error:
        os.close(lock)
        raise Unusable(f"cannot write {name}: {error.strerror}") from error
    return lock

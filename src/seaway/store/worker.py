"""One thread that owns a SQLite connection and commits the jobs that wait together with one sync to disk."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from seaway.store.base import OutOfRoom, StoreError, Unavailable
from seaway.store.database import damaged

T = TypeVar("T")

TEND_EVERY = 1000
BATCH = 64  # jobs in one transaction; a reader waits for at most so many


@dataclass(frozen=True)
class Job:
    """Something to do inside a transaction, and who waits for the result."""

    action: Callable[[], Any]
    future: Future[Any]


class Worker:
    """Runs jobs in order in its own thread. A result is handed out only after the commit that holds it."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        committed: Callable[[], None],
        tend: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the thread; `committed` is called in it after each commit, before results are handed out.

        `tend` is called in it, outside of any transaction, at first and after every TEND_EVERY batches.
        """
        self._connection = connection
        self._path = path
        self._committed = committed
        self._tend = tend
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="seaway-store", daemon=True)
        self._thread.start()

    def submit(self, action: Callable[[], T]) -> Future[T]:
        """Queue a job; its future carries the result, what it raised, or Unavailable."""
        future: Future[T] = Future()
        with self._closing:
            if self._closed:
                raise Unavailable("the store is closed")
            self._jobs.put(Job(action, future))
        return future

    def close(self) -> None:
        """Finish what is queued, close the connection, end the thread."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        last, batches = False, 0
        while not last:
            if batches % TEND_EVERY == 0:
                self._tend()
            batches += 1
            batch, last = self._next_batch()
            batch = [job for job in batch if job.future.set_running_or_notify_cancel()]
            if batch:
                self._run_batch(batch)
        self._connection.close()

    def _next_batch(self) -> tuple[list[Job], bool]:
        """Wait for a job; return it with those queued behind it, and whether it is time to end."""
        batch: list[Job] = []
        job = self._jobs.get()
        while job is not None:
            batch.append(job)
            try:
                job = self._jobs.get_nowait() if len(batch) < BATCH else None
            except Empty:
                return batch, False
            if len(batch) == BATCH:
                return batch, False
        return batch, True

    def _run_batch(self, batch: list[Job]) -> None:
        outcomes: list[tuple[Job, Any, Exception | None]] = []
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            outcomes = [(job, *self._attempt(job)) for job in batch]
            self._connection.execute("COMMIT")
        except Exception as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            translated = self._translate(error)
            for job in batch:
                job.future.set_exception(translated)
            return
        self._committed()
        for job, result, failure in outcomes:
            if failure is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(failure)

    def _attempt(self, job: Job) -> tuple[Any, Exception | None]:
        """Run one job inside a savepoint, so that its failure undoes only its own writes."""
        self._connection.execute("SAVEPOINT job")
        try:
            result = job.action()
        except sqlite3.Error:
            raise  # the disk or the file failed: nobody in this batch may believe in its write
        except Exception as error:
            self._connection.execute("ROLLBACK TO job")
            self._connection.execute("RELEASE job")
            return None, error
        self._connection.execute("RELEASE job")
        return result, None

    def _translate(self, error: Exception) -> Exception:
        if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            return OutOfRoom(f"{self._path}: {error}; nothing was changed")
        if isinstance(error, sqlite3.OperationalError):
            return Unavailable(f"{self._path}: {error}; nothing was changed")
        if isinstance(error, sqlite3.DatabaseError):
            return damaged(self._path, error)
        return error if isinstance(error, StoreError) else StoreError(str(error))

"""The node agent's OutputCollector: a copier in a thread of its own.

So neither a flood of output nor a slow disk holds up the agent's loop. While the thread does not run (before `run`,
after it) what is asked for is done at once, by who asks.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from seaway.home import Home
from seaway.logs.copier import Copier
from seaway.logs.intake import STREAMS, open_pipe
from seaway.logs.segments import Limits
from seaway.logs.shape import Labels


class FileLogCollector:
    """Copies to files below SEAWAY_HOME/logs. Call its methods in one event loop."""

    def __init__(self, home: Home, limits: Limits | None = None) -> None:
        self._copier = Copier(home, limits or Limits())
        self._followed: set[str] = set()
        self._orders: deque[Callable[[], None]] = deque()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def follow(
        self, instance: str, folder: Path, *, app: str, team: str, release: int, process: str, node: str
    ) -> None:
        """See OutputCollector.follow."""
        if instance in self._followed:
            return
        labels = Labels(app=app, team=team, release=release, process=process, instance=instance, node=node)
        pipes = {stream: open_pipe(folder, stream) for stream in STREAMS}
        self._followed.add(instance)
        self._order(lambda: self._copier.follow(labels, folder, pipes))

    async def run(self) -> None:
        """Copy until cancelled."""
        loop = asyncio.get_running_loop()
        failed: asyncio.Future[None] = loop.create_future()
        self._copier.drop_unknown()
        self._thread = threading.Thread(target=self._work, args=(loop, failed), name="output")
        self._thread.start()
        try:
            await failed
        finally:
            self._stopping.set()
            self._copier.wake()
            self._thread.join()  # it is done with its slice in a moment
            self._thread = None
            self._stopping.clear()
            self._obey()

    async def drain(self, instance: str) -> None:
        """See OutputCollector.drain."""
        await self._ask(lambda done: self._copier.drain(instance, done))

    async def flush(self, instance: str) -> None:
        """See OutputCollector.flush."""
        await self._ask(lambda done: self._copier.flush(instance, done))

    async def finish(self, instance: str) -> None:
        """See OutputCollector.finish."""
        await self.flush(instance)
        self._followed.discard(instance)
        await self._ask(lambda done: self._copier.finish(instance, done))

    def forget(self, instance: str) -> None:
        """See OutputCollector.forget."""
        self._order(lambda: self._copier.forget(instance))

    def give_way(self, *, tight: bool) -> None:
        """See OutputCollector.give_way."""
        self._order(lambda: self._copier.give_way(tight=tight))

    async def close(self) -> None:
        """See OutputCollector.close."""
        self._copier.close()

    def _work(self, loop: asyncio.AbstractEventLoop, failed: asyncio.Future[None]) -> None:
        try:
            while not self._stopping.is_set():
                self._obey()
                self._copier.step()
        except Exception as error:  # whatever it is ends `run`, and with it the agent
            loop.call_soon_threadsafe(_fail, failed, error)

    def _obey(self) -> None:
        while self._orders:
            self._orders.popleft()()

    def _order(self, work: Callable[[], None]) -> None:
        if self._thread is None:
            work()
            return
        self._orders.append(work)
        self._copier.wake()

    async def _ask(self, work: Callable[[Future[None]], None]) -> None:
        """Have it done, and wait until it is."""
        done: Future[None] = Future()
        self._order(lambda: work(done))
        while self._thread is None and not done.done():
            self._copier.step()
        await asyncio.wrap_future(done)


def _fail(future: asyncio.Future[None], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)

"""Tells watchers which apps changed: each watcher has a set of names, so a slow one costs a name per app at most."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator


class Changes:
    """Fans names out to watchers."""

    def __init__(self) -> None:
        self._watchers: dict[asyncio.Event, dict[str, None]] = {}
        self._closed = False

    def notify(self, app: str) -> None:
        """Tell every watcher that something of the app may have changed ("": anything)."""
        for event, names in self._watchers.items():
            names[app] = None
            event.set()

    def close(self) -> None:
        """End every watch."""
        self._closed = True
        for event in self._watchers:
            event.set()

    async def watch(self, heartbeat: float) -> AsyncGenerator[list[str], None]:
        """Yield the names changed since the last yield; an empty list after `heartbeat` seconds without any.

        First of all [""]: whatever changes from then on is told.
        """
        event = asyncio.Event()
        names: dict[str, None] = {}
        self._watchers[event] = names
        try:
            yield [""]
            while not self._closed:
                try:
                    async with asyncio.timeout(heartbeat):  # wait_for of 3.11 may swallow a cancellation
                        await event.wait()
                except TimeoutError:
                    yield []
                    continue
                event.clear()
                changed = list(names)
                names.clear()
                yield changed
        finally:
            del self._watchers[event]

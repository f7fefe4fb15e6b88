"""How many instances of one app begin at once: a scale to hundreds must not take the processors from everybody."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict

BEGINNING = 2.0  # seconds; a start that takes longer counts no more: what boots slowly mostly waits
LEAST = 2


class Turn:
    """An instance's right to begin; it is given back when that has begun, at the latest after some seconds."""

    def __init__(self, turns: asyncio.Semaphore) -> None:
        self._turns = turns
        self._ended = False
        self._timer = asyncio.get_running_loop().call_later(BEGINNING, self.end)

    def end(self) -> None:
        """Give it back, once."""
        if not self._ended:
            self._ended = True
            self._timer.cancel()
            self._turns.release()


class Starts:
    """Gives each app as many turns at once as there are processors, in the order in which they are asked for."""

    def __init__(self, at_once: int | None = None) -> None:
        most = at_once or max(LEAST, len(os.sched_getaffinity(0)))
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(most))

    async def take(self, app: str) -> Turn:
        """Wait for a turn."""
        turns = self._turns[app]
        await turns.acquire()
        return Turn(turns)

"""How late the agent's event loop gets its turns: what was asked of an instance then says nothing about it."""

from __future__ import annotations

import asyncio
import time
from collections import deque

BEAT = 0.05  # seconds
NOTICED = 0.02  # seconds late that are worth remembering
KEPT = 600  # such moments; at least half a minute


class Lag:
    """Remembers when the loop was late, and by how much."""

    def __init__(self) -> None:
        self._beat = time.monotonic()
        self._late: deque[tuple[float, float]] = deque(maxlen=KEPT)  # when, seconds

    async def watch(self) -> None:
        """Take the loop's pulse, for ever."""
        while True:
            self._beat = time.monotonic()
            await asyncio.sleep(BEAT)
            self._note(time.monotonic())

    def find_worst(self, since: float) -> float:
        """Return by how many seconds it was late at worst since then (of time.monotonic), up to this moment."""
        late = [seconds for at, seconds in self._late if at >= since]
        return max([*late, time.monotonic() - self._beat - BEAT, 0.0])

    def _note(self, now: float) -> None:
        late = now - self._beat - BEAT
        if late > NOTICED:
            self._late.append((now, late))

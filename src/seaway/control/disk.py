"""Watches the disk that the platform is on: tells when it fills up, and has what nothing needs deleted early."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path

import structlog

from seaway.disk import Disk, Level, judge, read_disk
from seaway.model import EventSpec
from seaway.store.base import StoreError

log = structlog.get_logger()

INTERVAL = 1.0  # seconds between looks
PRUNE_INTERVAL = 60.0  # seconds between early prunings for as long as it is not fine
ABOUT = "disk"
WORDS = {
    Level.LOW: ("DiskLow", "images and caches that nothing needs are deleted early"),
    Level.TIGHT: ("DiskAlmostFull", "new builds wait or are refused, and old logs are deleted, until there is room"),
    Level.FULL: ("DiskFull", "builds that run are ended, too"),
    Level.FINE: ("DiskHasRoom", "nothing gives way any more"),
}


class DiskKeeper:
    """Follows the level of the home's disk; `level` is for whoever gives way."""

    def __init__(
        self,
        path: Path,
        tell: Callable[[EventSpec, str], Awaitable[None]],
        prune: Callable[[], None],
        *,
        clock: Callable[[], datetime],
        read: Callable[[Path], Disk] = read_disk,
    ) -> None:
        self._path = path
        self._tell = tell
        self._prune = prune
        self._clock = clock
        self._read = read
        self.disk = Disk(path, 0, 0)  # before the first look
        self.level = Level.FINE
        self._told = Level.FINE
        self._pruned_at: datetime | None = None

    def look(self) -> None:
        """See how things stand now. Raises OSError."""
        self.disk = self._read(self._path)
        self.level = judge(self.disk, self.level)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            try:
                await asyncio.to_thread(self.look)
                self._prune_when_due()
                await self._tell_change()
            except (OSError, StoreError) as error:  # told when the store answers
                log.warning("the disk cannot be looked after now", error=str(error))
            await asyncio.sleep(INTERVAL)

    def _prune_when_due(self) -> None:
        if self.level is Level.FINE:
            self._pruned_at = None
            return
        now = self._clock()
        if self._pruned_at is None or (now - self._pruned_at).total_seconds() >= PRUNE_INTERVAL:
            self._pruned_at = now
            self._prune()

    async def _tell_change(self) -> None:
        level = self.level
        if level is self._told:
            return
        reason, consequence = WORDS[level]
        message = f"{self.disk}: {consequence}"
        note = log.warning if level else log.info
        note(message)
        await self._tell(EventSpec(at=self._clock(), about=ABOUT, reason=reason, message=message), "")
        self._told = level

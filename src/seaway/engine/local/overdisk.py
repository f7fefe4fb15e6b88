"""Ends what writes more to the disk than it may: looks at what each instance's files take, a little at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog

from seaway.disk import read_disk
from seaway.engine.local.footprint import Footprint
from seaway.engine.local.kin import Kin
from seaway.engine.local.state import RECORD

log = structlog.get_logger(__name__)

LOOK = 1.0  # seconds between looks at what is due
SHARE = 0.02  # of a processor that looking may take
SHARE_IN_HASTE = 0.1
SUDDEN = 0.95  # of the room that was free: where less is left all are looked at, at once


@dataclass(frozen=True)
class Place:
    """Folders that have a limit together, in bytes. `key`: another one for each run of an instance.

    `holder`: the instance whose processes may have deleted files of these folders open, "": none. `on_over` is called
    once it holds more than its limit.
    """

    key: str
    folders: tuple[Path, ...]
    most: int
    on_over: Callable[[], None]
    holder: str = ""

    def measure(self, kin: Kin) -> Footprint:
        """Begin to measure it. May raise OSError."""
        if not self.holder:
            return Footprint(self.folders, self.most)
        device = self.folders[0].with_name(RECORD).stat().st_dev  # a file: overlays give folders another number
        return Footprint(self.folders, self.most, lambda: [stat.pid for stat in kin.find(self.holder)], device)


class DiskWatch:
    """Measures each place every `interval` seconds, or as often as `SHARE` allows.

    The steps of all measurements take turns, so a huge tree delays its own alone. They are in a thread, and short
    rather than of low priority: a thread that waits for a processor while it holds Python's lock stops the agent.
    """

    def __init__(self, home: Path, kin: Kin, interval: float, list_places: Callable[[], Iterable[Place]]) -> None:
        self._home = home
        self._kin = kin
        self._interval = interval
        self._list_places = list_places
        self._due: dict[str, float] = {}
        self._walks: dict[str, Footprint] = {}
        self._free = 0
        self._hastens = False

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            await self._look()
            await asyncio.sleep(min(LOOK, self._interval))

    async def _look(self) -> None:
        """Go one step on with whatever is due."""
        places = list(self._list_places())
        self._forget_all_but({place.key for place in places})
        try:
            self._note_free(await asyncio.to_thread(lambda: read_disk(self._home).free))
        except OSError as error:  # a bad disk
            log.warning("it cannot be told how full the disk is", error=str(error))
        for place in places:
            now = time.monotonic()
            if place.key in self._walks or self._due.setdefault(place.key, now + self._interval) <= now:
                await self._go_on(place)
        self._hastens = self._hastens and bool(self._walks)

    def _note_free(self, free: int) -> None:
        if free < SUDDEN * self._free:
            self._hastens = True
            self._due = dict.fromkeys(self._due, 0.0)
        if self._hastens or free > self._free:
            self._free = free

    async def _go_on(self, place: Place) -> None:
        """Take a step, and the rest that it is worth."""
        try:
            done, took = await asyncio.to_thread(self._step, place)
        except FileNotFoundError:  # it has ended
            done, took = True, 0.0
        except OSError as error:
            done, took = True, 0.0
            log.warning("what an instance wrote cannot be measured now", place=place.key, error=str(error))
        if done:
            self._due[place.key] = time.monotonic() + self._interval
            walk = self._walks.pop(place.key, None)
            if walk is not None and walk.is_over:
                self._say_over(place)
        await asyncio.sleep(took / (SHARE_IN_HASTE if self._hastens else SHARE))

    def _say_over(self, place: Place) -> None:
        log.warning("more of the disk than it may have", place=place.key, most=place.most)
        try:
            place.on_over()
        except OSError as error:
            log.warning("not all could be done about it; it is tried again", place=place.key, error=str(error))

    def _step(self, place: Place) -> tuple[bool, float]:
        """Return whether its measurement is done, and the seconds of a processor that this step took."""
        began = time.thread_time()
        if place.key not in self._walks:
            self._walks[place.key] = place.measure(self._kin)
        walk = self._walks[place.key]
        done = walk.go_on()
        if done:
            walk.close()
        return done, time.thread_time() - began

    def _forget_all_but(self, keys: set[str]) -> None:
        self._due = {key: due for key, due in self._due.items() if key in keys}
        for key in self._walks.keys() - keys:
            self._walks.pop(key).close()

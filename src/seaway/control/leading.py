"""Who acts: of several replicas of the control plane one leads, the others publish routes and serve the API."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import structlog

log = structlog.get_logger()

RETRY = 2.0  # seconds until a duty that broke is taken up again

Duty = Callable[[], Awaitable[None]]
"""Something that only the leader does, for as long as it leads."""


class Leadership(Protocol):
    """Tells whether this replica may act."""

    @property
    def leads(self) -> bool:
        """Whether it may act, now; ask before every act."""
        ...

    async def run(self, turned: Callable[[bool], None]) -> None:
        """Take part until cancelled; `turned` hears of each beginning and end of leading."""
        ...


class Alone:
    """The only replica there is."""

    leads = True

    async def run(self, turned: Callable[[bool], None]) -> None:
        """Lead from the start."""
        turned(True)
        await asyncio.Event().wait()


class Duties:
    """Runs duties while this replica leads; one that breaks is taken up again and holds up no other."""

    def __init__(self, duties: Sequence[Duty]) -> None:
        self._duties = duties
        self._tasks: list[asyncio.Task[None]] = []

    def turn(self, leads: bool) -> None:
        """Begin, or end."""
        for task in self._tasks:
            task.cancel()
        self._tasks = [asyncio.create_task(_keep(duty)) for duty in self._duties] if leads else []

    async def close(self) -> None:
        """End, and wait until nothing runs any more."""
        tasks = self._tasks
        self.turn(False)
        await asyncio.gather(*tasks, return_exceptions=True)


async def _keep(duty: Duty) -> None:
    while True:
        try:
            await duty()
        except Exception:
            log.exception("a duty of the leader broke; it is taken up again", seconds=RETRY)
        await asyncio.sleep(RETRY)

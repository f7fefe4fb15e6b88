"""Documents that do not fit the model, as events: each told once, however often it is seen."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import structlog

from seaway.control.incidents import Tell
from seaway.model import KINDS, Event, EventSpec
from seaway.store.base import Store, Unreadable

log = structlog.get_logger()

REASON = "DocumentUnreadable"
APPS_OWN = frozenset({"Build", "Release", "Rollout"})  # kinds whose names begin with the app's


class UnreadableTeller:
    """Looks at every kind; what lists leave out is logged and told to those who see every team."""

    def __init__(self, store: Store, tell: Tell, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._tell = tell
        self._clock = clock

    async def look(self) -> None:
        """Tell of each document that has not been told of yet, in this run or one before."""
        found = [error for kind in KINDS.values() for error in (await self._store.list(kind)).unreadable]
        if not found:
            return
        events = (await self._store.list(Event)).documents
        told = {(event.spec.about, event.spec.message) for event in events if event.spec.reason == REASON}
        for error in found:
            event = describe(error, self._clock())
            if (event.about, event.message) not in told:
                log.error("a document is left out", kind=error.kind, document=error.name, error=str(error))
                await self._tell(event, "")


def describe(error: Unreadable, now: datetime) -> EventSpec:
    """Return the event for a document that cannot be read."""
    app = error.name if error.kind == "App" else error.name.partition(".")[0] if error.kind in APPS_OWN else None
    return EventSpec(
        at=now, app=app, about=f"{error.kind.lower()} {error.name}", reason=REASON,
        message=f"Left out, and nothing is done that it would decide: {error}",
    )  # fmt: skip

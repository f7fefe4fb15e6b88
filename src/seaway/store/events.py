"""Recording events: one helper for the API and the control loop."""

from __future__ import annotations

import itertools
import secrets
from datetime import UTC, datetime

from seaway.model import Event, EventSpec, Meta
from seaway.store.base import Store

KEEP_EVENTS = 10_000
"""How many events a platform keeps; older ones are trimmed by the control loop."""

_calls = itertools.count()


async def record_event(
    store: Store,
    *,
    about: str,
    reason: str,
    message: str,
    app: str | None = None,
    team: str | None = None,
    by: str = "seaway",
    at: datetime | None = None,
) -> Event:
    """Store one event and return it. `about` is a kind and a name ("rollout shop.v3"), `reason` a CamelCase word.

    Its name sorts by time (and within one process by call); its labels are app and team, to narrow lists by.
    """
    moment = at or datetime.now(UTC)
    order = next(_calls) % 0x10000
    name = f"{int(moment.timestamp() * 1_000_000):016d}-{order:04x}{secrets.token_hex(3)}"
    labels = {key: value for key, value in (("app", app), ("team", team)) if value}
    spec = EventSpec(at=moment, app=app, about=about, reason=reason, message=message, by=by)
    return await store.create(Event(meta=Meta(name=name, labels=labels), spec=spec))

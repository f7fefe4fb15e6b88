"""Recording events: one helper for the API and the control loop."""

from __future__ import annotations

import hashlib
import itertools
import secrets
from contextlib import suppress
from datetime import UTC, datetime

from seaway.model import Event, EventSpec, Meta
from seaway.store.base import AlreadyExists, Store

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
    spec = EventSpec(at=moment, app=app, about=about, reason=reason, message=message, by=by)
    return await store.create(_make(spec, f"{order:04x}{secrets.token_hex(3)}", team))


async def record_once(store: Store, spec: EventSpec, team: str) -> None:
    """Store an event whose name follows from what it says and when: recorded again, it is the same one."""
    said = "\0".join((spec.app or "", spec.about, spec.reason, spec.message, spec.by))
    with suppress(AlreadyExists):
        await store.create(_make(spec, hashlib.sha256(said.encode()).hexdigest()[:10], team))


def _make(spec: EventSpec, suffix: str, team: str | None) -> Event:
    labels = {key: value for key, value in (("app", spec.app), ("team", team)) if value}
    return Event(meta=Meta(name=f"{int(spec.at.timestamp() * 1_000_000):016d}-{suffix}", labels=labels), spec=spec)

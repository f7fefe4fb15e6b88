"""Recording events, for the API and the control loop, and which of them are kept.

So that no app takes another's history, each has a share of it (`select_surplus`). An instance that fails for ever is
told of ever more seldom (control/incidents.py), and who writes by the API is held to its token's rate.
"""

from __future__ import annotations

import hashlib
import itertools
import secrets
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence, Set
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter, itemgetter

from seaway.model import App, Event, EventSpec, Meta
from seaway.store.base import AlreadyExists, Store, Written

KEEP_EVENTS = 10_000
"""How many events a platform keeps; the control loop deletes the others now and then."""

KEEP_EVENTS_OF_APP = 1_000
"""How many of these may be of one app, of no app (nodes, the disk, tokens), or of all apps that are gone."""

GONE = ""
"""Whose the events of apps that are gone are; no app is called so."""

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


def select_surplus(
    events: Sequence[Written], apps: Set[str], of_app: int = KEEP_EVENTS_OF_APP, whole: int = KEEP_EVENTS
) -> list[Written]:
    """Return the events that go, oldest first, so that `of_app` of each of `apps` stay at most and `whole` of all.

    Those that are too many for `whole` are taken from whoever has the most, so that who has few loses none: an event
    goes only if no more newer ones of its app stay than of any other that has lost some. Events of no app count as
    those of one, and so do the events of all apps that are not in `apps`: else names that come and go would soon have
    the most of it.
    """
    seen: Counter[str | None] = Counter()
    ranked: list[tuple[int, Written]] = []  # with how many newer ones there are of the same app
    for event in sorted(events, key=attrgetter("revision"), reverse=True):
        app = event.labels.get("app")
        owner = app if app is None or app in apps else GONE
        ranked.append((seen[owner], event))
        seen[owner] += 1
    ranked.sort(key=itemgetter(0))  # stable: of those with as many newer ones, the newest come first
    kept = min(whole, bisect_left(ranked, of_app, key=itemgetter(0)))
    return sorted((event for _, event in ranked[kept:]), key=attrgetter("revision"))


async def trim_events(store: Store) -> int:
    """Delete the events that are too many; return how many went.

    An app that is made meanwhile counts as gone this once: its events are the newest of those, and stay.
    """
    listing = await store.list(App)
    apps = {app.name for app in listing.documents} | {error.name for error in listing.unreadable}
    return await store.trim(Event, partial(select_surplus, apps=apps))


def _make(spec: EventSpec, suffix: str, team: str | None) -> Event:
    labels = {key: value for key, value in (("app", spec.app), ("team", team)) if value}
    return Event(meta=Meta(name=f"{int(spec.at.timestamp() * 1_000_000):016d}-{suffix}", labels=labels), spec=spec)

"""What happened to instances, as events: each told once, however often it is seen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime

from seaway.model import Event, EventSpec, Instance, InstanceState
from seaway.rollout.facts import Facts
from seaway.store.base import Store

FAILED = frozenset({InstanceState.BACKOFF, InstanceState.CRASHING})
OVER = FAILED | {InstanceState.STOPPED}  # clusters replace the pod
FIRST = 4  # restarts (or lost processes) that are all told; then every power of two, so that a loop fills no history

Tell = Callable[[EventSpec, str], Awaitable[None]]
Incident = tuple[str, str]
"""About and message: what an event of an instance is known by."""


class Incidents:
    """Tells the incidents of one app's instances; what was told before a restart is looked up in the store."""

    def __init__(self, store: Store, tell: Tell) -> None:
        self._store = store
        self._tell = tell
        self._told: dict[str, set[Incident]] = {}

    def forget(self, app: str) -> None:
        """Keep nothing of an app that is gone."""
        self._told.pop(app, None)

    async def note(self, facts: Facts) -> None:
        """Record an event for each incident that has none yet."""
        app = facts.app.name
        found = [event for instance in facts.instances if (event := describe(instance, facts.now)) is not None]
        if not found:
            if facts.observed:
                self.forget(app)
            return
        if app not in self._told:
            stored = (await self._store.list(Event, {"app": app})).documents
            self._told[app] = {(e.spec.about, e.spec.message) for e in stored}
        seen = {(event.about, event.message) for event in found}
        for event in found:
            if (event.about, event.message) not in self._told[app]:
                await self._tell(event, facts.app.spec.team)
        self._told[app] |= seen


def describe(instance: Instance, now: datetime) -> EventSpec | None:
    """Return the event for an instance that failed, had to be killed, or lost processes, if it is one to tell."""
    reason = ""
    if instance.state is InstanceState.STOPPED and instance.killed:
        reason = "InstanceKilled"
    elif instance.over_disk and instance.state in OVER and _is_told(instance.restarts):
        reason = "InstanceOverDisk"
    elif instance.state in FAILED and _is_told(instance.restarts):
        reason = "InstanceFailed"
    elif instance.state is InstanceState.RUNNING and instance.memory_kills and _is_told(instance.memory_kills):
        reason = "InstanceShortOfMemory"
    if not reason:
        return None
    again = f" (restarts so far: {instance.restarts})" if instance.state in FAILED else ""
    return EventSpec(
        at=now, app=instance.key.app, about=f"instance {instance.id}", reason=reason,
        message=instance.reason + again,
    )  # fmt: skip


def _is_told(times: int) -> bool:
    return times <= FIRST or times & (times - 1) == 0

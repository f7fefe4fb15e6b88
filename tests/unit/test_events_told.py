"""Events that a control plane did not live to record are recorded by the next one, once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from seaway.builder.process import SubprocessBuilder
from seaway.control.builds import BuildRunner
from seaway.control.reconcile import TELL_AGAIN
from seaway.home import Home
from seaway.model import App, Build, BuildSpec, BuildState, BuildStatus, Event, EventSpec, Meta, Source
from seaway.store.events import record_once
from seaway.store.memory import MemoryStore

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def failed_build(number: int, ended_at: datetime) -> Build:
    status = BuildStatus(state=BuildState.FAILED, reason=f"no {number}", ended_at=ended_at, attempts=1)
    spec = BuildSpec(app="shop", number=number, source=Source(archive="0" * 64))
    return Build(meta=Meta(name=f"shop.b{number}", labels={"app": "shop", "team": "red"}), spec=spec, status=status)


async def test_the_end_of_a_build_is_told_by_the_next_control_plane(tmp_path: Path) -> None:
    """Of the last one: those before it were told. However many control planes see it, it is one event."""
    store, home = MemoryStore(), Home(tmp_path).create()
    app = await store.create(App(meta=Meta(name="shop")))
    for number, at in ((1, NOW - 2 * TELL_AGAIN), (2, NOW - timedelta(seconds=5))):
        await store.create(failed_build(number, at))

    async def tell(event: EventSpec, team: str) -> None:
        await record_once(store, event, team)

    for _ in range(2):
        runner = BuildRunner(store, SubprocessBuilder(home), home, clock=lambda: NOW, tell=tell)
        await runner.reconcile(app)
        await runner.reconcile(app)
    (event,) = (await store.list(Event)).documents
    assert (event.spec.about, event.spec.reason, event.spec.message) == ("build shop.b2", "BuildFailed", "no 2")
    assert event.meta.labels == {"app": "shop", "team": "red"}

"""A stored release that does not fit the model, as after a return to an older Seaway."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from seaway.api.errors import translate
from seaway.control.reconcile import Reconciler
from seaway.control.unreadable import UnreadableTeller
from seaway.engine.memory import MemoryEngine
from seaway.model import App, AppStatus, Event, EventSpec, Meta, Process, Release, ReleaseSpec, Workload, WorkloadKey
from seaway.store.base import Unreadable
from seaway.store.events import record_event
from seaway.store.sqlite import SqliteStore

NOW = datetime(2030, 1, 1, tzinfo=UTC)
KEY = WorkloadKey(app="shop", release=1, process="web")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """A store with the apps blog and shop; shop's only release has a field of a newer Seaway."""
    path = tmp_path / "seaway.db"
    made = SqliteStore.open(path)
    for name in ("blog", "shop"):
        await made.create(App(meta=Meta(name=name), status=AppStatus(current=1 if name == "shop" else None)))
    spec = ReleaseSpec(app="shop", number=1, image="sha256:" + "a" * 64)
    await made.create(Release(meta=Meta(name="shop.v1", labels={"app": "shop"}), spec=spec))
    await made.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE documents SET data = json_set(data, '$.spec.colour', 1) WHERE name = 'shop.v1'")
    connection.close()
    made = SqliteStore.open(path)
    yield made
    await made.close()


class NoRouters:
    """No router is there."""

    def publish(self, *_: Any) -> tuple[()]:
        return ()

    def withdraw(self, app: str) -> None:
        raise AssertionError(f"{app} is there")


async def tell_nobody(event: EventSpec, team: str) -> None:
    raise AssertionError(event)


async def test_nothing_is_done_to_its_app_and_others_go_on(store: SqliteStore) -> None:
    """What runs of it runs on: the release that is not listed is not one that is not wanted."""
    engine = MemoryEngine()
    await engine.apply(Workload(key=KEY, team="t", image="x", process=Process(command="x"), count=1))
    reconciler = Reconciler(store, engine, NoRouters(), clock=lambda: NOW, tell=tell_nobody)
    await reconciler.reconcile("blog")
    with pytest.raises(Unreadable, match=r"'shop\.v1' .*colour"):
        await reconciler.reconcile("shop")
    assert [workload.key for workload in (await engine.observe()).workloads] == [KEY]


async def test_it_is_told_once(store: SqliteStore) -> None:
    """Also by the next control plane; the event names the document, the field and the way out."""

    async def tell(event: EventSpec, team: str) -> None:
        await record_event(
            store, about=event.about, reason=event.reason, message=event.message, app=event.app, team=team
        )

    for teller in (UnreadableTeller(store, tell, lambda: NOW), UnreadableTeller(store, tell, lambda: NOW)):
        await teller.look()
        await teller.look()
    (event,) = (await store.list(Event)).documents
    assert (event.spec.app, event.spec.about, event.spec.reason) == ("shop", "release shop.v1", "DocumentUnreadable")
    assert "spec.colour" in event.spec.message
    assert "run the Seaway that wrote it" in event.spec.message


def test_the_api_says_what_cannot_be_read() -> None:
    """Instead of an error inside Seaway: the sentence holds the way out."""
    answer = translate(Unreadable("App", "shop", "the stored App 'shop' does not fit the model"))
    assert (answer.status_code, answer.body.code) == (500, "unreadable")
    assert "'shop' does not fit" in answer.body.message

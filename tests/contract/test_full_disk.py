"""Disks that are really full: the store's reserve, routes, what is pruned, the agent's records, logs that give way."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from seaway.builder.layout import ImageLayout
from seaway.engine.local.state import NodeState, Record
from seaway.home import Home
from seaway.logs.copier import Copier
from seaway.logs.segments import Limits, list_segments, segment_path
from seaway.model import Event, EventSpec, Instance, InstanceState, Meta, WorkloadKey
from seaway.router.catalog import Resource
from seaway.router.disk import LastGood
from seaway.store.base import OutOfRoom
from seaway.store.sqlite import RESERVE, SqliteStore
from seaway.supervisor.locks import acquire, find_holder
from seaway.supervisor.processes import LOG_LIMIT, log_path, rotate
from seaway.supervisor.supervise import SUPERVISOR
from tests.disk import FILLER, as_root, fill, small_disk

pytestmark = as_root
DOCUMENTS = 1000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, with room for a reserve."""
    (folder := tmp_path / "home").mkdir()
    with small_disk(folder, "64m"):
        yield folder


def make_event(number: int, size: int = 500) -> Event:
    spec = EventSpec(at=datetime.now(UTC), about="app shop", reason="Told", message=size * "x")
    return Event(meta=Meta(name=f"{number:05}"), spec=spec)


@pytest.mark.parametrize("reserve", [0, RESERVE])
async def test_documents_have_a_reserve(disk: Path, reserve: int) -> None:
    """Nobody else can take it; without it the first is refused, as what it is. Nothing that was taken is lost."""
    store = SqliteStore.open(disk / "seaway.db", reserve=reserve)
    await store.list(Event)  # the reserve is made before anything else is done
    fill(disk)
    if not reserve:
        with pytest.raises(OutOfRoom, match="full; nothing was changed"):
            await store.create(make_event(0))
    made = DOCUMENTS if reserve else 0
    for number in range(made):
        await store.create(make_event(number))
    assert len((await store.list(Event)).documents) == made
    (disk / FILLER).unlink()
    await store.create(make_event(DOCUMENTS))
    await store.close()
    store = SqliteStore.open(disk / "seaway.db")
    assert len((await store.list(Event)).documents) == made + 1
    await store.close()


async def test_the_reserve_is_made_whole_again(disk: Path) -> None:
    """Once documents have taken it, as soon as there is room."""
    store = SqliteStore.open(disk / "seaway.db", reserve=RESERVE)
    await asyncio.gather(*(store.create(make_event(number, 10_000)) for number in range(DOCUMENTS)))
    await store.close()
    store = SqliteStore.open(disk / "seaway.db", reserve=RESERVE)
    await store.list(Event)
    fill(disk)
    for number in range(DOCUMENTS):
        await store.create(make_event(DOCUMENTS + number))
    await store.close()


def test_routes_are_written_when_there_is_room_again(disk: Path) -> None:
    """They are before Envoy all the same. A full disk is no damage: what is there is not put aside."""
    kept = LastGood(disk / "resources.db")
    fill(disk)
    puts = {("cluster", f"shop:v{n}"): Resource.pack(("cluster", f"shop:v{n}"), bytes(4096), "1") for n in range(50)}
    kept.apply(puts)
    kept.apply({}, [("cluster", "shop:v0")])
    assert kept.load() == {}
    (disk / FILLER).unlink()
    kept.catch_up()
    kept.close()
    kept = LastGood(disk / "resources.db")
    assert set(kept.load()) == set(puts) - {("cluster", "shop:v0")}
    kept.close()
    assert not list(disk.glob("*damaged*"))


def test_what_nothing_needs_is_pruned_on_a_full_disk(disk: Path) -> None:
    """That needs no room by itself."""
    layout = ImageLayout(disk / "images").create()
    for content in (b"old", b"new"):
        blob = layout.put_bytes(content)
        config = layout.put_bytes(content + b" config")
        parts = f'{{"config": {{"digest": "{config.digest}"}}, "layers": [{{"digest": "{blob.digest}"}}]}}'
        layout.add_image(layout.put_bytes(parts.encode()))
    old, new = layout.list_images()
    fill(disk)
    freed = layout.prune({new}, spare_after=datetime.now(UTC).timestamp() + 60)
    assert freed
    assert layout.list_images() == [new]
    assert layout.complete(new)
    assert not layout.has(old)


def test_records_are_written_when_there_is_room_again(disk: Path) -> None:
    """But what must be on disk before it counts is refused."""
    state = NodeState(disk)
    instance = Instance(
        id="shop-v1-web-1", key=WorkloadKey(app="shop", release=1, process="web"), node="n",
        state=InstanceState.PENDING, created_at=datetime.now(UTC),
    )  # fmt: skip
    state.instance_folder(instance.id).mkdir()
    state.write_record(Record(instance=instance))
    fill(disk)
    running = Record(instance=instance.model_copy(update={"state": InstanceState.RUNNING}), failures=2)
    with pytest.raises(OSError, match="No space"):
        state.write_record(running, later=False)
    state.write_record(running)
    with pytest.raises(OSError, match="No space"):
        state.catch_up()
    assert list(state.read_records()) == [Record(instance=instance)]
    (disk / FILLER).unlink()
    state.catch_up()
    assert list(state.read_records()) == [running]


def test_a_part_takes_its_lock_and_rotates_its_log(disk: Path) -> None:
    """Its name goes over that of the one before; old lines go if there is no room for them."""
    home = Home(disk).create()
    os.close(acquire(home, "control", beats=True))
    path = log_path(home, SUPERVISOR)
    path.parent.mkdir()
    path.write_bytes(bytes(LOG_LIMIT + 1))
    fill(disk)
    lock = acquire(home, "control", beats=True)
    holder = find_holder(home, "control")
    assert holder is not None
    assert holder.pid == os.getpid()
    os.close(lock)
    rotate(path)
    assert path.stat().st_size == 0
    assert not path.with_suffix(".log.1").exists()


def test_old_logs_give_way(disk: Path) -> None:
    """Of every app, whether somebody writes to its log or not, until the disk has room."""
    copier = Copier(home := Home(disk).create(), Limits(segments=8, tight_segments=2))
    for app in ("shop", "quiet"):
        (folder := home.logs / app).mkdir()
        for number in range(1, 9):
            segment_path(folder, number).write_text("{}\n")
    copier.give_way(tight=True)
    assert [list_segments(home.logs / app) for app in ("shop", "quiet")] == [[7, 8], [7, 8]]
    copier.close()

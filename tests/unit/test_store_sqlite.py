"""What is particular to the SQLite store: the file, its lock, damage, and being killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import pytest

from seaway.model import App, AppSpec, Document, Meta
from seaway.store.base import Unavailable, Unreadable
from seaway.store.sqlite import SqliteStore, Unusable

WRITER = """
import asyncio, sys
from pathlib import Path
from seaway.model import App, Meta
from seaway.store.sqlite import SqliteStore

async def write(path):
    store = SqliteStore.open(path)
    async def create(name):
        await store.create(App(meta=Meta(name=name, labels={"writer": "1"})))
        print(name, flush=True)
    for number in range(100_000):
        await asyncio.gather(*(create(f"a{number}-{part}") for part in range(3)))

asyncio.run(write(Path(sys.argv[1])))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "seaway.db"


async def make(path: Path, *names: str) -> None:
    store = SqliteStore.open(path)
    for name in names:
        await store.create(App(meta=Meta(name=name)))
    await store.close()


async def test_only_the_owner_may_read_the_file(path: Path) -> None:
    """The file and what SQLite puts beside it have mode 0600, also when it had another one."""
    path.touch(mode=0o644)
    store = SqliteStore.open(path)
    await store.create(App(meta=Meta(name="shop")))
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    await store.close()
    assert set(modes) >= {"seaway.db", "seaway.db-wal"}
    assert set(modes.values()) == {0o600}


@pytest.mark.parametrize("lines", [1, 40])
def test_killed_writer_loses_nothing_it_acknowledged(path: Path, lines: int) -> None:
    """After kill -9 in the middle of writing, all that was acknowledged is there, and the file is whole."""
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        acknowledged = [writer.stdout.readline().strip() for _ in range(lines)]
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged += writer.stdout.read().split()
    listing, changes = asyncio.run(read_all(path))
    assert {document.name for document in listing} >= set(acknowledged)
    assert sorted(changes, key=lambda document: document.name) == listing


async def read_all(path: Path) -> tuple[list[App], list[Document]]:
    """Return all documents the writer left, and those its changes tell of."""
    store = SqliteStore.open(path)
    listing = await store.list(App, {"writer": "1"})
    changes: list[Document] = []
    async with aclosing(store.watch((App,), 0)) as watch:
        while len(changes) < len(listing.documents):
            changes.append((await anext(watch)).document)
    await store.close()
    return list(listing.documents), changes


async def test_held_file_is_refused_until_it_is_released(path: Path) -> None:
    """A second opener hears who holds the file."""
    store = SqliteStore.open(path)
    with pytest.raises(Unusable, match=f"held by process {os.getpid()}"):
        SqliteStore.open(path)
    await store.close()
    await make(path, "shop")


async def test_text_file_is_refused(path: Path) -> None:
    """A file that is no database is left alone and named."""
    path.write_bytes(b"not a database at all, but long enough to be looked at\n" * 100)
    before = path.read_bytes()
    with pytest.raises(Unusable, match=r"seaway\.db is damaged or not a database.*move it away"):
        SqliteStore.open(path)
    assert path.read_bytes() == before


async def test_damaged_pages_are_found_when_opening(path: Path) -> None:
    """Overwritten pages are found before anything is served from them."""
    await make(path, *(f"app{number}" for number in range(50)))
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 20_000)
    with pytest.raises(Unusable, match="is damaged"):
        SqliteStore.open(path)


async def test_database_of_a_newer_seaway_is_refused(path: Path) -> None:
    """A database with later tables names both versions."""
    await make(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(Unusable, match=r"newer Seaway .*version 99, this Seaway knows 1"):
        SqliteStore.open(path)


async def test_database_of_another_program_is_refused(path: Path) -> None:
    """A foreign SQLite file is not written to."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    with pytest.raises(Unusable, match="database of another program"):
        SqliteStore.open(path)


async def test_missing_folder_is_named(tmp_path: Path) -> None:
    """The error says which path and what to check."""
    with pytest.raises(Unusable, match=r"nowhere/seaway\.db\.lock: No such file.*check that the folder exists"):
        SqliteStore.open(tmp_path / "nowhere" / "seaway.db")


async def test_document_of_a_newer_model_is_an_error_that_names_the_field(path: Path) -> None:
    """What this Seaway cannot understand is not dropped silently."""
    await make(path, "shop")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE documents SET data = json_set(data, '$.spec.colour', 'red')")
    connection.close()
    store = SqliteStore.open(path)
    with pytest.raises(Unreadable, match=r"stored App .*spec\.colour"):
        await store.get(App, "shop")
    await store.close()


@pytest.mark.parametrize("damage", ["json_set(data, '$.spec.colour', 'red')", "'{not json'", "'7'"])
async def test_a_document_that_does_not_fit_is_left_out_and_told_of(path: Path, damage: str) -> None:
    """Of lists and watches; the list says which; whoever would act on its absence is stopped; trimming takes it."""
    await make(path, "blog", "shop")
    with sqlite3.connect(path) as connection:
        for table, column in (("documents", "name"), ("changes", "json_extract(data, '$.meta.name')")):
            connection.execute(f"UPDATE {table} SET data = {damage} WHERE {column} = 'shop'")
    connection.close()
    store = SqliteStore.open(path)
    listing = await store.list(App)
    assert [app.name for app in listing.documents] == ["blog"]
    assert [(error.kind, error.name) for error in listing.unreadable] == [("App", "shop")]
    with pytest.raises(Unreadable, match="'shop'"):
        listing.whole()
    async with asyncio.timeout(10), aclosing(store.watch((App,), 0)) as changes:
        await store.create(App(meta=Meta(name="wiki")))
        assert [(await anext(changes)).document.name for _ in range(2)] == ["blog", "wiki"]
    assert await store.trim(App, lambda written: written) == 3
    assert (await store.list(App)).unreadable == ()
    await store.close()


async def test_full_disk_fails_the_write_and_nothing_else(path: Path) -> None:
    """When SQLite cannot grow the file the writer hears it, readers go on, and later writes work again."""
    store = SqliteStore.open(path)
    await store.create(App(meta=Meta(name="shop")))
    connection = store._worker._connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    big = App(meta=Meta(name="big", labels={"x": "y" * 100_000}), spec=AppSpec())
    with pytest.raises(Unavailable, match=r"full.*nothing was changed"):
        await store.create(big)
    assert [document.name for document in (await store.list(App)).documents] == ["shop"]
    connection.execute("PRAGMA max_page_count = 1000000")
    created = await store.create(big)
    assert (await store.get(App, "big")) == created
    await store.close()


async def test_cancelled_call_leaves_the_store_working(path: Path) -> None:
    """A caller that goes away (a disconnected client) harms nobody."""
    store = SqliteStore.open(path)
    tasks = [asyncio.create_task(store.create(App(meta=Meta(name=f"app{n}")))) for n in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    names = {document.name for document in (await store.list(App)).documents}
    await store.close()
    assert names >= {f"app{n}" for n in range(1, 20, 2)}

"""The streams of a one-off through the API: who may, what is refused, and what comes in which order."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seaway.api.endpoints import running
from seaway.api.streams import merge
from seaway.engine.base import Output, StreamsGone
from seaway.engine.memory import MemoryEngine
from seaway.model import Offsets, Role, Terminal
from tests.unit.api_support import Bench, error, events_of, open_bench

RUN = {"command": "0", "attached": True, "streams": {"reads": True}}


class Streaming(MemoryEngine):
    """An engine in memory whose tasks echo their input, without taking it again."""

    def __init__(self) -> None:
        super().__init__()
        self.given = b""
        self.size = Terminal()
        self.room, self.over = asyncio.Event(), asyncio.Event()

    async def read_output(self, task_id: str, begin: Offsets) -> AsyncGenerator[Output, None]:
        at = begin.stdout
        while not self.over.is_set() or at < len(self.given):
            if at < len(self.given):
                yield Output("stdout", at, self.given[at:])
                at = len(self.given)
            await asyncio.sleep(0.001)

    async def write_input(self, task_id: str, offset: int, data: bytes, *, end: bool = False) -> None:
        await self.room.wait()
        if offset > len(self.given):
            raise StreamsGone("input is missing")
        self.given += data[len(self.given) - offset :]
        if end:
            self.over.set()
            self.tick()

    async def resize(self, task_id: str, terminal: Terminal) -> None:
        self.size = terminal


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(tmp_path) as opened:
        await opened.http.post("/v1/apps", json={"name": "shop"})
        await opened.deploy()
        yield opened


def use(bench: Bench, engine: MemoryEngine) -> None:
    streams = engine if isinstance(engine, Streaming) else None
    bench.api.state.deps = replace(bench.api.state.deps, engine=engine, task_streams=streams)


async def start(bench: Bench, body: dict[str, Any]) -> dict[str, Any]:
    answer = await bench.http.post("/v1/apps/shop/run", json=body)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_output_comes_beside_the_states(bench: Bench) -> None:
    """From where it is wanted, in base64; also what comes after the last state. Input is not given twice."""
    use(bench, engine := Streaming())
    engine.room.set()
    task = await start(bench, RUN)
    path = f"/v1/apps/shop/run/{task['id']}"
    assert task["streams"]
    reading = asyncio.create_task(bench.http.get(f"{path}/attach", params={"output": True, "stdout": 2}))
    for offset, data, end in ((0, b"\xffab", False), (1, b"abcd", True)):
        answer = await bench.http.post(f"{path}/input", params={"offset": offset, "end": end}, content=data)
        assert answer.json() == {"taken": True}
    events = events_of((await reading).text)
    pieces = [item for name, item in events if name == "output"]
    assert b"".join(b64decode(piece["data"]) for piece in pieces) == b"bcd"
    assert (pieces[0]["stream"], pieces[0]["offset"]) == ("stdout", 2)
    assert [item["done"] for name, item in events if name == "state"][-1]
    ended = await bench.http.post(f"{path}/input", params={"offset": 4}, content=b"x")
    assert error(ended, 409)["code"] == "no-streams"


async def test_input_without_room_is_to_be_sent_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request does not stand open for as long as a command likes."""
    monkeypatch.setattr(running, "ROOM_LIMIT", 0.05)
    use(bench, engine := Streaming())
    path = f"/v1/apps/shop/run/{(await start(bench, RUN))['id']}"
    answer = await bench.http.post(f"{path}/input", params={"offset": 0}, content=b"x")
    assert (answer.json(), engine.given) == ({"taken": False}, b"")
    engine.room.set()
    assert (await bench.http.post(f"{path}/input", params={"offset": 0}, content=b"x")).json() == {"taken": True}
    gap = await bench.http.post(f"{path}/input", params={"offset": 7}, content=b"x")
    assert error(gap, 409)["message"] == "input is missing"


async def test_a_terminal_is_resized(bench: Bench) -> None:
    """By whom may run commands, to a size that can be."""
    use(bench, engine := Streaming())
    task = await start(bench, RUN | {"streams": {"terminal": {"rows": 1, "columns": 2, "kind": "vt100"}}})
    path = f"/v1/apps/shop/run/{task['id']}/terminal"
    answer = await bench.http.put(path, json={"rows": 50, "columns": 132})
    assert (answer.status_code, engine.size) == (200, Terminal(rows=50, columns=132))
    error(await bench.http.put(path, json={"rows": 0, "columns": 132}), 422)
    async with await bench.client(Role.VIEWER) as viewer:
        error(await viewer.put(path, json={"rows": 50, "columns": 132}), 403)
        error(await viewer.post(path.replace("terminal", "input"), params={"offset": 0}), 403)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"attached": False}, "body"),
        ({"stdin": "aGk="}, "body"),
        ({"streams": {"terminal": {"rows": -1}}}, "streams.terminal.rows"),
        ({"streams": {"terminal": {"kind": "x; rm"}}}, "streams.terminal.kind"),
    ],
)
async def test_streams_that_cannot_be(bench: Bench, body: dict[str, Any], field: str) -> None:
    """422 says what is wrong; nothing runs."""
    use(bench, engine := Streaming())
    assert error(await bench.http.post("/v1/apps/shop/run", json=RUN | body), 422).get("field", "body") == field
    assert engine.tasks == {}


async def test_an_engine_without_streams_says_so(bench: Bench) -> None:
    """What needs them is refused; output alone is had from the logs, and the answer tells."""
    use(bench, MemoryEngine())
    assert error(await bench.http.post("/v1/apps/shop/run", json=RUN), 409)["code"] == "no-streams"
    task = await start(bench, RUN | {"streams": {}})
    assert not task["streams"]
    answer = await bench.http.post(f"/v1/apps/shop/run/{task['id']}/input", params={"offset": 0}, content=b"x")
    assert error(answer, 409)["code"] == "no-streams"


async def test_merging_loses_nothing_and_closes_all() -> None:
    """Each source in its own order, to the end of the last; a reader who leaves, or an error, closes the others."""
    closed = []

    async def count(first: int, step: int, most: int) -> AsyncGenerator[int, None]:
        try:
            for number in range(first, most, step):
                await asyncio.sleep(0)
                yield number
            if most == 7:
                raise OSError("broken")
        finally:
            closed.append(first)

    found = [number async for number in merge(count(0, 2, 10), count(1, 2, 20))]
    assert sorted(found) == sorted([*range(0, 10, 2), *range(1, 20, 2)])
    assert [number for number in found if number % 2] == list(range(1, 20, 2))
    async with aclosing(merge(count(0, 2, 10), count(1, 2, 1_000_000))) as items:
        assert await anext(items) in {0, 1}
    with pytest.raises(OSError, match="broken"):
        assert [number async for number in merge(count(0, 2, 7), count(1, 2, 1_000_000))] == []
    assert sorted(closed) == [0, 0, 0, 1, 1, 1]

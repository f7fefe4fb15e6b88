"""Collector and reader on real files: exactly once across kills, bounded disk, tails and filters."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seaway.home import Home
from seaway.logs.base import LogLine, LogQuery
from seaway.logs.collector import FileLogCollector
from seaway.logs.holes import find_data, free_front
from seaway.logs.intake import pipe_path
from seaway.logs.reader import FileLogReader
from seaway.logs.segments import Limits, list_segments


class Bench:
    """A home with instances that write."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        self.raw = root / "raw"
        self.collector = self.renew()

    def renew(self, limits: Limits | None = None, *instances: str) -> FileLogCollector:
        """Take a new collector, as after a kill: nothing of the old one is closed or saved."""
        self.collector = FileLogCollector(self.home, limits)
        for instance in instances:
            self.follow(instance)
        return self.collector

    def follow(self, instance: str, release: int = 1, process: str = "web") -> None:
        (self.raw / instance).mkdir(parents=True, exist_ok=True)
        self.collector.follow(
            instance, self.raw / instance, app="shop", team="t", release=release, process=process, node="n"
        )

    def write(self, instance: str, text: str, stream: str = "stdout") -> None:
        """Write as a process does; more than a pipe holds (64 KiB) only while a collector runs."""
        pipe = os.open(pipe_path(self.raw / instance, stream), os.O_RDWR)  # open for good: it keeps what is in the pipe
        with open(pipe, "wb", closefd=False) as file:
            file.write(text.encode())

    async def read(self, tail: int | None = None, **query: Any) -> list[LogLine]:
        return [line async for line in FileLogReader(self.home).read(LogQuery(app="shop", tail=tail, **query))]

    async def messages(self, **query: Any) -> list[str]:
        return [line["message"] for line in await self.read(**query)]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def lines(first: int, last: int) -> str:
    return "".join(f"line {n}\n" for n in range(first, last))


async def test_both_streams(bench: Bench) -> None:
    """Each stream's whole lines are copied; an unfinished one waits for its end or that of its process."""
    bench.follow("a")
    bench.write("a", "one\ntw")
    bench.write("a", "bad\n", "stderr")
    await bench.collector.close()
    assert [(line["message"], line["stream"]) for line in await bench.read()] == [("one", "stdout"), ("bad", "stderr")]
    bench.renew(None, "a")
    bench.write("a", "o")
    await bench.collector.flush("a")
    assert await bench.messages() == ["one", "bad", "two"]
    await bench.collector.close()


async def test_killed_collectors_repeat_and_lose_nothing(bench: Bench) -> None:
    """Collectors that vanish with or without a checkpoint, rotating meanwhile: every line once."""
    limits = Limits(segment_bytes=4000, segments=1000, checkpoint_bytes=1500)
    for begin in range(0, 500, 50):
        bench.renew(limits, "a", "b")
        for instance in ("a", "b"):
            bench.write(instance, lines(begin, begin + 50))
        if begin % 100:
            await bench.collector.flush("a")
        else:
            run = asyncio.create_task(bench.collector.run())
            await asyncio.sleep(0.005)
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)
    bench.renew(limits, "a", "b")
    await bench.collector.close()
    for instance in ("a", "b"):
        assert await bench.messages(instance=instance) == lines(0, 500).splitlines()


@given(st.integers(0, 400), st.booleans())
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_torn_line_is_written_again(tmp_path_factory: pytest.TempPathFactory, cut: int, saved: bool) -> None:
    """A kill in the middle of a write leaves half a line: it is removed and copied again, whole."""
    bench = Bench(tmp_path_factory.mktemp("torn"))
    bench.follow("a")
    if saved:
        await bench.collector.close()
        bench.renew(None, "a")
    bench.write("a", lines(0, 5))
    await bench.collector.flush("a")
    segment = bench.home.logs / "shop" / "00000001.jsonl"
    os.truncate(segment, max(0, segment.stat().st_size - cut))
    bench.renew(None, "a")
    await bench.collector.close()
    assert await bench.messages() == lines(0, 5).splitlines()


async def test_finished_instance_is_not_copied_again(bench: Bench) -> None:
    """A kill between the last copy and the removal of the folder doubles nothing."""
    bench.follow("a")
    bench.follow("b")
    bench.write("a", lines(0, 3))
    await bench.collector.finish("a")
    bench.write("b", "other\n")
    await bench.collector.close()
    bench.renew(None, "a")
    await bench.collector.finish("a")
    bench.collector.forget("a")
    assert await bench.messages(instance="a") == ["line 0", "line 1", "line 2"]


async def test_disk_is_bounded(bench: Bench) -> None:
    """Old segments go; a reader then starts at the oldest that is left."""
    limits = Limits(segment_bytes=40_000, segments=3)
    bench.renew(limits, "a")
    for begin in range(0, 1500, 100):  # some 28 kB a hundred
        bench.write("a", lines(begin, begin + 100))
        await bench.collector.flush("a")
    await bench.collector.close()
    folder = bench.home.logs / "shop"
    assert len(list_segments(folder)) == 3
    assert sum(path.stat().st_size for path in folder.glob("*.jsonl")) <= 3 * 40_000
    found = await bench.messages()
    assert found == lines(1500 - len(found), 1500).splitlines()
    assert (folder / "current").resolve().name == f"{list_segments(folder)[-1]:08d}.jsonl"


async def test_consumed_output_is_freed(bench: Bench) -> None:
    """The blocks of copied output are given back while the instance goes on writing; recovery still works."""
    limits = Limits(checkpoint_bytes=1, keep_raw_bytes=8192, checkpoint_seconds=0.0)
    bench.renew(limits, "a")
    run = asyncio.create_task(bench.collector.run())
    await asyncio.to_thread(bench.write, "a", lines(0, 20_000))
    raw = bench.raw / "a" / "stdout"
    async with asyncio.timeout(20):
        while not raw.exists() or raw.stat().st_size < 200_000 or raw.stat().st_blocks * 512 > 40_000:
            await asyncio.sleep(0.01)
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    bench.write("a", lines(20_000, 20_010))
    bench.renew(limits, "a")
    await bench.collector.close()
    assert await bench.messages() == lines(0, 20_010).splitlines()


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[None]:
    """A collector that runs, and is killed at the end."""
    run = asyncio.create_task(bench.collector.run())
    try:
        yield
    finally:
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)


async def test_lost_lines_are_counted(bench: Bench) -> None:
    """What waits is bounded; lines in the places of those given up say how many lines that were."""
    bench.renew(Limits(backlog_bytes=100_000, rate_bytes=100_000, burst_bytes=100_000), "a")
    async with running(bench):
        await asyncio.to_thread(bench.write, "a", lines(0, 300_000))
        await bench.collector.flush("a")
    found = await bench.read()
    kept = [int(line["message"].removeprefix("line ")) for line in found if "log.flags" not in line]
    lost = [line for line in found if line.get("log.flags") == ["lost"]]
    assert kept == sorted(set(kept))
    assert sum(line["event.lost"] for line in lost) + len(kept) == 300_000
    assert lost[0]["message"].endswith("are missing here: the instance wrote faster than its output could be copied")


async def test_a_flood_leaves_others_alone(bench: Bench) -> None:
    """While one instance writes without end, another's line is there within moments, and the loop has its turns."""
    bench.renew(Limits(rate_bytes=1 << 20, burst_bytes=1 << 20, backlog_bytes=4 << 20), "a", "b")
    pipe = os.open(pipe_path(bench.raw / "a", "stdout"), os.O_RDWR)
    flood = await asyncio.create_subprocess_exec("yes", stdout=pipe)
    try:
        async with running(bench):
            for n in range(20):
                bench.write("b", f"line {n}\n")
                async with asyncio.timeout(2):
                    while await bench.messages(instance="b", tail=1) != [f"line {n}"]:
                        await asyncio.sleep(0.01)
            raw = bench.raw / "a" / "stdout"
            assert raw.stat().st_blocks * 512 < 4 << 20
            flood.kill()
            await flood.wait()
            await bench.collector.flush("a")
    finally:
        with suppress(ProcessLookupError):
            flood.kill()
        await flood.wait()
    assert [line["log.flags"] for line in await bench.read(instance="a") if "log.flags" in line]


async def test_deleted_logs(bench: Bench) -> None:
    """If somebody deletes the logs, the collector goes on with what the raw files still hold, without holes' zeros."""
    bench.follow("a")
    bench.write("a", lines(0, 2000))
    await bench.collector.drain("a")
    free_front(bench.raw / "a" / "stdout", 8192)
    await bench.collector.close()
    found = await bench.messages()
    assert found[-1] == "line 1999"
    assert not any("\0" in message for message in found)
    assert find_data(bench.raw / "a" / "stdout", 0) == 8192


async def test_zeros_are_output(bench: Bench) -> None:
    """Zeros that an instance writes are no hole."""
    bench.follow("a")
    bench.write("a", "\0\0\0 three\n" + "\0" * 10_000 + "\n")
    await bench.collector.close()
    assert await bench.messages() == ["\0\0\0 three", "\0" * 10_000]


async def test_tail_and_filters(bench: Bench) -> None:
    """A tail counts matching lines across segments; filters are ANDed; unknown apps have no lines."""
    bench.renew(Limits(segment_bytes=3000, segments=100))
    bench.follow("a", release=1)
    bench.follow("b", release=2)
    bench.follow("c", release=2, process="worker")
    for begin in range(0, 60, 10):
        for instance in "abc":
            bench.write(instance, lines(begin, begin + 10))
            await bench.collector.flush(instance)
    await bench.collector.close()
    assert len(list_segments(bench.home.logs / "shop")) > 5
    assert await bench.messages(tail=3, instance="a") == ["line 57", "line 58", "line 59"]
    assert len(await bench.read(release=2)) == 120
    assert {line["service.node.name"] for line in await bench.read(release=2, process="worker")} == {"c"}
    assert await bench.read(tail=0) == []
    assert len(await bench.read(tail=1000)) == 180
    assert await bench.read(tail=5, process="ghost") == []


@pytest.mark.parametrize("app", ["ghost", "../logs/shop", ".", ""])
async def test_names_of_no_app(bench: Bench, app: str) -> None:
    """An app that is not there, or a name that would leave the folder, has no lines."""
    bench.follow("a")
    bench.write("a", "secret\n")
    await bench.collector.close()
    assert [line async for line in FileLogReader(bench.home).read(LogQuery(app=app))] == []


async def test_message_cannot_fool_a_filter(bench: Bench) -> None:
    """Text that looks like a label does not match."""
    bench.follow("a")
    bench.write("a", '"labels.process":"worker"\n{"x": {"labels.process":"worker"}}\n')
    await bench.collector.close()
    assert await bench.read(process="worker") == []


async def test_lines_from_before_are_left_out(bench: Bench) -> None:
    """By the time at which Seaway read them, whatever time an app says: not of an app that had the name before."""
    bench.follow("a")
    forged = '{"@timestamp":"2999-01-01T00:00:00Z","message":"old"}\n{"event.ingested":"2999","message":"old"}\n'
    bench.write("a", "old\n" + forged)
    await bench.collector.flush("a")
    created = datetime.now(UTC)
    bench.write("a", 'new\n{"@timestamp":"1999-01-01T00:00:00Z","message":"new"}\n')
    await bench.collector.close()
    assert await bench.messages() == ["old", "old", "old", "new", "new"]
    assert await bench.messages(since=created) == ["new", "new"]
    assert await bench.messages(tail=3, since=created) == ["new", "new"]


async def test_follow_through_rotation(bench: Bench) -> None:
    """A follower that begins before the app has logs gets every line once, in order, across rotation."""
    query = LogQuery(app="shop", tail=10, follow=True)
    stream: AsyncIterator[LogLine] = FileLogReader(bench.home).read(query)
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.01)
    bench.renew(Limits(segment_bytes=2000, segments=100), "a")
    for begin in range(0, 100, 10):
        bench.write("a", lines(begin, begin + 10))
        await bench.collector.flush("a")
    seen = [(await first)["message"]]
    async with asyncio.timeout(10):
        seen += [(await anext(stream))["message"] for _ in range(99)]
    assert seen == lines(0, 100).splitlines()
    await bench.collector.close()

"""The load generator against real servers: counts exact, nothing sent twice, failures explained."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from aiohttp import web

from tests.load import Cause, Connection, Failure, Kill, Load, LoadProcess, Mix, Outcome, Report, Shape, Stats
from tests.load.report import Recorder

ROOT = Path(__file__).parents[2]
PLAIN = ROOT / "tests" / "e2e" / "apps" / "plain" / "app.py"
QUICK = Shape(slow=0.3, stream_count=3, stream_interval=0.02, message_interval=0.02, timeout=5)
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(talk: Talk) -> AsyncIterator[str]:
    """A server of raw connections; yields its URL."""
    ended: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        ended.add(task)
        try:
            await talk(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client closed first
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in ended:
            task.cancel()
        await asyncio.gather(*ended, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def read_request(reader: asyncio.StreamReader) -> str:
    """Read a request without a body; return its n."""
    head = await reader.readuntil(b"\r\n\r\n")
    found = re.search(rb"[?&]n=(\d+)", head)
    assert found
    return found[1].decode()


def answer(body: str, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "x-release: v7", *headers, "", body]
    return "\r\n".join(lines).encode()


@pytest.fixture
def plain() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The plain app as a process, and its URL."""
    command = [sys.executable, str(PLAIN), "--port", "0"]
    environment = os.environ | {"SEAWAY_RELEASE": "v3"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        port = re.search(r"listening on (\d+)", process.stdout.readline())
        assert port
        yield process, f"http://127.0.0.1:{port[1]}"
        process.kill()


def load_example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / name / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_no_request_is_sent_twice_when_kept_connections_break() -> None:
    """A server that reads each second request of a connection and hangs up gets every request exactly once."""
    seen: Counter[str] = Counter()
    dropped: set[str] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        n = await read_request(reader)
        seen[n] += 1
        writer.write(answer(json.dumps({"n": n})))
        n = await read_request(reader)
        seen[n] += 1
        dropped.add(n)

    async with serving(talk) as url, Load(url, rate=200, mix=Mix.parse("get=1"), shape=QUICK) as load:
        await until(lambda: len(dropped) > 20)
    report = load.report()
    assert set(seen.values()) == {1}
    assert len(seen) == report.total.sent == report.total.ok + report.total.failed
    assert {str(failure.sequence) for failure in report.failures} == dropped
    assert {failure.cause for failure in report.failures} == {Cause.BROKEN}
    assert all(failure.connection is not None and failure.connection.reused for failure in report.failures)


async def test_every_kind_is_answered_rightly_and_counted(plain: tuple[subprocess.Popen[str], str]) -> None:
    """The plain app answers all kinds; shares are kept and the release is seen."""
    mix = Mix(get=4, post=2, new=2, slow=1, stream=1)
    async with Load(plain[1], rate=100, mix=mix, shape=QUICK) as load:
        await until(lambda: load.progress()["ended"] >= 70)
    report = load.report()
    report.assert_clean(least=70)
    assert report.total.releases == {"v3": report.total.sent}
    shares = {kind: round(10 * stats.sent / report.total.sent) for kind, stats in report.kinds.items()}
    assert shares == {"get": 4, "post": 2, "new": 2, "slow": 1, "stream": 1}
    assert report.kinds["slow"].p50 >= QUICK.slow
    assert sum(interval.stats.sent for interval in report.timeline) == report.total.sent


async def test_a_killed_server_breaks_requests_that_only_its_kill_explains(
    plain: tuple[subprocess.Popen[str], str],
) -> None:
    """What was in flight at a kill -9 is explained by it; requests after it cannot connect and are not."""
    process, url = plain
    async with Load(url, rate=100, mix=Mix(get=1, post=0, new=0, slow=1, stream=0), shape=QUICK) as load:
        await until(lambda: load.progress()["ended"] >= 10)
        await until(lambda: load.progress()["in_flight"] >= 5)  # every other one is slow
        began = time.time()
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.wait)
        kill = Kill("app", began, time.time())
        known = sum(load.progress()[count] for count in ("ended", "in_flight"))
        await until(lambda: load.progress()["ended"] > known + 5)
    report = load.report()
    explained = [failure for failure in report.failures if kill.explains(failure)]
    assert {failure.kind for failure in explained} >= {"slow"}
    assert {failure.cause for failure in explained} <= {Cause.BROKEN, Cause.CONNECT}
    later = report.unexplained([kill])
    assert {failure.cause for failure in later} == {Cause.CONNECT}
    with pytest.raises(AssertionError, match="requests failed"):
        report.assert_clean([kill])


async def test_arrivals_do_not_wait_for_responses() -> None:
    """A server that never answers still gets requests, many at a time; each counts as timed out."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with (
        serving(talk) as url,
        Load(url, rate=100, shape=replace(QUICK, timeout=0.2), mix=Mix.parse("get=1")) as load,
    ):
        await until(lambda: load.progress()["in_flight"] >= 10)
    report = load.report()
    assert {failure.cause for failure in report.failures} == {Cause.TIMEOUT}
    assert report.total.failed == report.total.sent


@pytest.mark.parametrize(
    ("reply", "cause", "status"),
    [
        (answer('{"n": "0"}'), Cause.BODY, 200),
        (answer("no healthy instance", "503 Service Unavailable", "x-seaway-reason: no-instance"), Cause.STATUS, 503),
        (answer("{}").replace(b"length: 2", b"length: 99"), Cause.BROKEN, None),
        (answer("", "302 Found", "location: /"), Cause.STATUS, 302),
    ],
)
async def test_a_wrong_answer_is_told_with_what_explains_it(reply: bytes, cause: Cause, status: int | None) -> None:
    """Wrong body, status, length and redirects are failures that keep status, reason and the body's start."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(reply)

    async with serving(talk) as url, Load(url, rate=50, mix=Mix.parse("new=1"), shape=QUICK) as load:
        await until(lambda: load.progress()["ended"])
    report = load.report()
    assert report.total.ok == 0
    failure = report.failures[0]
    assert (failure.cause, failure.status) == (cause, status)
    if status == 503:
        assert failure.reason == "no-instance"
        assert "no healthy instance" in failure.body
        assert "x-seaway-reason: no-instance" in str(failure)


async def test_websockets_echo_and_reopen_after_a_polite_close() -> None:
    """The example says goodbye as it stops: no failure, and what was sent was echoed."""
    app = load_example("websocket").make_app()
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    shape = replace(QUICK, messages=5)
    async with Load(url, rate=1, mix=Mix.parse("websockets=2"), shape=shape) as load:
        await until(lambda: load.progress()["ended"] > 4 * shape.messages)  # each closes after so many
    report = load.report()
    report.assert_clean()
    assert report.kinds["ws-open"].sent > 2
    assert report.kinds["ws"].releases == {"no release": report.kinds["ws"].sent}
    async with Load(url, rate=1, mix=Mix.parse("websockets=1"), shape=QUICK) as load:
        await until(lambda: load.progress()["ended"] > 2)
        await runner.cleanup()
        await until(lambda: load.progress()["failed"])
    report = load.report()
    assert report.websockets_closed == 1
    assert report.kinds["ws"].failed == 0
    assert {failure.cause for failure in report.failures} == {Cause.CONNECT}, "nobody listens afterwards"


@pytest.mark.parametrize("way", ["abort", "close"])
async def test_a_websocket_that_is_cut_is_a_failure(way: str) -> None:
    """A WebSocket whose connection ends (RST or FIN) without a close frame counts as broken."""

    async def echo_then_cut(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"echo": (await socket.receive()).data})
        assert request.transport is not None
        getattr(request.transport, way)()
        return socket

    app = web.Application()
    app.add_routes([web.get("/ws", echo_then_cut)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with Load(url, rate=1, mix=Mix.parse("websockets=1"), shape=QUICK) as load:
        await until(lambda: load.progress()["failed"])
    await runner.cleanup()
    failures = load.report().failures
    assert failures, load.report().describe()
    assert {(failure.kind, failure.cause) for failure in failures} == {("ws", Cause.BROKEN)}
    assert all(failure.connection is not None and failure.connection.local_port for failure in failures)


def test_the_process_marks_spans_and_reports_all(plain: tuple[subprocess.Popen[str], str]) -> None:
    """Load from its own process: spans add up to the total and the process is gone after stop."""
    with LoadProcess(plain[1], host="shop.localhost", rate=100, mix=Mix.parse("get=1"), shape=QUICK) as load:
        time.sleep(0.2)
        load.mark("second")
        time.sleep(0.2)
        report = load.stop()
        assert load.stop() is report
    report.assert_clean()
    assert [span.label for span in report.spans] == ["start", "second"]
    assert sum(span.stats.sent for span in report.spans) == report.total.sent
    first, second = report.spans
    for span in (first, second):  # what was late, as the machine was busy, may have come with the next span or never
        in_time = span.end - span.start - report.largest_lag
        assert span.stats.sent >= 0.9 * report.rate * in_time - 1
    assert "second" in report.describe()


def test_the_process_ends_with_its_parent(plain: tuple[subprocess.Popen[str], str]) -> None:
    """Closing its standard input stops the generator: a dead parent leaves nothing behind."""
    command = [sys.executable, "-m", "tests.load", "--json", "--url", plain[1], "--rate", "20", "--mix", "get=1"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        out, _ = process.communicate("", timeout=60)
    assert process.returncode == 0
    assert "report" in json.loads(out.splitlines()[-1])


def test_a_mix_reads_back_and_spreads_evenly() -> None:
    """Shares are kept in every stretch, so rare kinds do not come in bursts."""
    mix = Mix.parse("get=3,slow=1,websockets=2")
    assert Mix.parse(str(mix)) == mix
    assert (mix.websockets, mix.post) == (2, 0)
    kinds = list(itertools.islice(mix.kinds(), 40))
    assert all(kinds[start : start + 4].count("slow") == 1 for start in range(0, 40, 4))


@pytest.mark.parametrize("text", ["get", "get=x", "puts=1", "get=0", "get=-1", "websockets=1.5"])
def test_a_bad_mix_is_refused(text: str) -> None:
    """The error comes before any request."""
    with pytest.raises(ValueError, match=r"mix|share|kind|whole"):
        Mix.parse(text)


def test_a_kill_explains_only_connections_of_the_killed_process() -> None:
    """Connections opened later, owned by another process, or that broke before the kill stay unexplained."""
    kill = Kill("router-0", began=100.0, gone=100.1, ports=frozenset({4000}))

    def failed(opened: float, port: int | None, ended: float = 100.05, cause: Cause = Cause.BROKEN) -> Failure:
        return Failure(1, "get", 99.9, ended, cause, "gone", connection=Connection(opened, port, reused=True))

    assert kill.explains(failed(90.0, 4000))
    assert kill.explains(failed(100.05, 4001)), "accepted between the look at its connections and its end"
    assert not kill.explains(failed(90.0, 4001)), "another router held it"
    assert not kill.explains(failed(100.2, 4000)), "opened after it was gone"
    assert not kill.explains(failed(90.0, 4000, ended=99.95)), "broke before the kill"
    assert not kill.explains(failed(90.0, 4000, cause=Cause.STATUS)), "an answer is no broken connection"
    assert replace(kill, ports=None).explains(failed(90.0, 4001))


def test_percentiles_and_json() -> None:
    """Nearest rank over right answers only; the report survives its JSON."""
    recorder = Recorder(started_at=1000.0, rate=1, mix="get=1", marks=[(1000.0, "start"), (1050.0, "later")])
    for index in range(1, 101):
        recorder.add(Outcome("get", 999.5 + index, index / 100, "v1" if index <= 50 else "v2"))
    failure = Failure(101, "get", 1100.0, 1101.0, Cause.STATUS, "status 503", 503, "no-instance", "sorry")
    recorder.add(Outcome("get", 1100.0, 1.0, None, failure))
    report = recorder.report(1102.0)
    assert (report.total.sent, report.total.ok, report.total.failed) == (101, 100, 1)
    assert (report.total.p50, report.total.p95, report.total.p99) == (0.5, 0.95, 0.99)
    assert report.total.releases == {"v1": 50, "v2": 50}
    assert [span.stats.sent for span in report.spans] == [50, 51]
    assert report.label_at(failure.sent_at) == "later"
    assert Report.from_json(report.to_json()) == report
    assert Stats.of([]).p99 == 0.0

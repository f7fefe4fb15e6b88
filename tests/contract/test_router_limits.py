"""Each limit of a real router, hit by one app or one client while its neighbour's requests go on."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from seaway.model import Check, Health, Meta, Process, Release, ReleaseSpec, RouterPolicy
from seaway.router.envoy import find_blind_time
from seaway.router.limits import HEADER_LINES, HEADERS_KIB, RETRY_BUFFER, STREAMS, count_connections
from seaway.router.process import THREADS
from tests.contract.node_lab import APP
from tests.contract.router_lab import Lab, Traffic, make_app, make_instance
from tests.pace import Stopwatch
from tests.ports import free_port

FILES = 256
CONNECTIONS = count_connections(FILES)
HEAD = b"GET / HTTP/1.1\r\nHost: hog.localhost\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 16\r\ncontent-type: application/json\r\n\r\n" + b'{"label": "hog"}'

BLIND = Check(http="/", interval=60, unhealthy_after=100)
"""A check that does not notice within a test that an instance is gone."""

Streams = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest_asyncio.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    """The neighbour, `shop`, is served by one router; see `serve` for the app that hits limits."""
    lab = Lab(tmp_path)
    try:
        await lab.start_plane()
        backend = await lab.start_backend("shop")
        lab.set_app(make_app("shop", {1: 100}), make_instance("shop", 1, backend.port))
        lab.plane.open()
        await lab.start_router("r1", files=FILES, HEADERS_TIMEOUT=0.5)
        await lab.until_acked("shop")
        await lab.until_healthy("shop:v1")
        yield lab
    finally:
        await lab.close()


@asynccontextmanager
async def neighbour(lab: Lab) -> AsyncIterator[None]:
    """Ask the neighbour all the while; every answer has to be good."""
    traffic = Traffic(lab)
    try:
        yield
        before = traffic.good
        async with asyncio.timeout(10):
            while traffic.good < before + 10:
                await asyncio.sleep(0.01)
    finally:
        await traffic.stop()
    assert traffic.bad == []


async def serve(lab: Lab, *ports: int, policy: RouterPolicy | None = None, check: Check | None = None) -> None:
    """Publish the app `hog` and wait until its instances are healthy."""
    web = Process(command="web", health=Health(readiness=check))
    spec = ReleaseSpec(app="hog", number=1, router=policy or RouterPolicy(), processes={"web": web})
    lab.releases["hog"] = {1: Release(meta=Meta(name="hog.v1"), spec=spec)}
    lab.set_app(make_app("hog", {1: 100}), *(make_instance("hog", 1, port) for port in ports))
    await lab.until_acked("hog")
    await lab.until_healthy("hog:v1", len(ports))


@asynccontextmanager
async def listening(handle: Streams) -> AsyncIterator[int]:
    """Serve each connection by `handle`; yield the port. At the end nobody listens, and all connections are closed."""
    open_ones: set[asyncio.StreamWriter] = set()

    async def guard(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ones.add(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):  # a health check: it connects and goes
            await handle(reader, writer)
        writer.close()

    async with await asyncio.start_server(guard, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
    for writer in open_ones:
        await drop(writer)


async def drop(writer: asyncio.StreamWriter) -> None:
    """Close a connection at once, whatever is still to be sent."""
    writer.transport.abort()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def exchange(lab: Lab, request: bytes) -> str:
    """Send raw bytes to the router; return everything that it says until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.settings.http_port)
    writer.write(request)
    try:
        async with asyncio.timeout(10):
            return (await reader.read()).decode()
    finally:
        await drop(writer)


async def test_requests_in_flight_of_one_app(lab: Lab) -> None:
    """Its max_requests are served; more are refused at once, with a time to wait; an open WebSocket counts.

    Envoy's threads look at the count and then raise it, so at the very same moment each may let one through.
    """
    hog = await lab.start_backend("hog")
    await serve(lab, hog.port, policy=RouterPolicy(max_requests=5))
    url = f"http://127.0.0.1:{lab.settings.http_port}/ws"
    async with neighbour(lab), lab.client.ws_connect(url, headers={"Host": "hog.localhost"}) as socket:
        asked = [asyncio.create_task(lab.get("hog.localhost", "/slow", "POST")) for _ in range(20)]
        async with asyncio.timeout(10):
            while sum(task.done() for task in asked) + hog.slow < 20:
                await asyncio.sleep(0.01)
            assert 4 <= hog.slow < 4 + THREADS
        async with lab.ask("hog.localhost") as response:
            assert (response.status, response.headers["x-seaway-reason"]) == (503, "overloaded")
            assert response.headers["retry-after"] == "1"
            assert "app hog has too many requests in flight" in await response.text()
        hog.release.set()
        answers = await asyncio.gather(*asked)
        assert answers.count((200, "hog")) == hog.slow
        assert answers.count((503, "overloaded")) == 20 - hog.slow
        await socket.send_str("still here")
        assert await socket.receive_str() == "hog:still here"
    assert await lab.get("hog.localhost") == (200, "hog")


@pytest.mark.parametrize("instances", [1, 4])
async def test_a_refused_request_leaves_nothing_that_others_wait_for(lab: Lab, instances: int) -> None:
    """It has mostly opened a connection, which stays idle in the thread that it came to; other threads open their own.

    Each request comes on a connection of its own, so to any of Envoy's threads.
    """
    hogs = [await lab.start_backend("hog") for _ in range(instances)]
    await serve(lab, *(hog.port for hog in hogs), policy=RouterPolicy(max_requests=2))
    close = {"Connection": "close"}
    async with neighbour(lab):
        for _ in range(40):
            before = sum(hog.slow for hog in hogs)
            asked = [asyncio.create_task(lab.get("hog.localhost", "/slow", "POST", headers=close)) for _ in range(20)]
            async with asyncio.timeout(10):
                while sum(task.done() for task in asked) + sum(hog.slow for hog in hogs) - before < 20:
                    await asyncio.sleep(0.01)
            for hog in hogs:
                hog.release.set()
            assert set(await asyncio.gather(*asked)) == {(200, "hog"), (503, "overloaded")}
            for hog in hogs:
                hog.release.clear()


async def test_connections_of_one_client(lab: Lab) -> None:
    """Whoever opens more than a router takes has them closed; files are left, and who has a connection keeps it."""
    envoy = psutil.Process(lab.envoys("r1")[0])
    assert envoy.rlimit(psutil.RLIMIT_NOFILE) == (FILES, FILES)
    held = []
    async with neighbour(lab):
        async with asyncio.timeout(30):
            while True:
                reader, writer = await asyncio.open_connection("127.0.0.1", lab.settings.http_port)
                held.append(writer)
                if len(held) < CONNECTIONS - 10:
                    continue
                try:
                    writer.write(HEAD + b"\r\n")
                    if not await reader.read(1):
                        break
                except ConnectionError:
                    break
        assert len(held) <= CONNECTIONS + 1
        more = [await asyncio.open_connection("127.0.0.1", lab.settings.http_port) for _ in range(100)]
        held += [writer for _, writer in more]
        assert envoy.num_fds() < FILES * 3 / 4
    for writer in held:
        await drop(writer)
    async with asyncio.timeout(10):
        while "no-such-app" not in await exchange(lab, HEAD + b"connection: close\r\n\r\n"):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "request_",
    [
        HEAD + b"cookie: " + b"a" * (HEADERS_KIB << 10) + b"\r\n\r\n",
        HEAD.replace(b"/", b"/" + b"a" * (HEADERS_KIB << 10), 1) + b"\r\n",
        HEAD + b"x: a\r\n" * HEADER_LINES + b"\r\n",
    ],
    ids=["bytes", "address", "lines"],
)
async def test_headers_of_a_request(lab: Lab, request_: bytes) -> None:
    """Too many bytes or lines of them, the address included, get 431 and a sentence with the numbers."""
    async with neighbour(lab):
        answer = await exchange(lab, request_)
    assert answer.startswith("HTTP/1.1 431 ")
    assert "x-seaway-reason: headers-too-large" in answer
    assert f"more than {HEADERS_KIB} KiB or {HEADER_LINES} lines" in answer


async def test_headers_just_within_the_limit(lab: Lab) -> None:
    """Pass to the app, and its own pass to the client."""
    mine = b"cookie: " + b"a" * ((HEADERS_KIB - 1) << 10) + b"\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got = await reader.readuntil(b"\r\n\r\n")
        assert mine in got
        writer.write(OK.replace(b"content-length", mine + b"content-length"))
        await writer.drain()

    async with listening(answer) as port:
        await serve(lab, port)
        got = await exchange(lab, HEAD + mine + b"connection: close\r\n\r\n")
    assert got.startswith("HTTP/1.1 200 ")
    assert mine.decode() in got


@pytest.mark.parametrize(
    "headers",
    [b"x: " + b"a" * (HEADERS_KIB << 10) + b"\r\n", b"x: a\r\n" * HEADER_LINES, b"no header\r\n"],
    ids=["bytes", "lines", "junk"],
)
async def test_headers_of_an_answer(lab: Lab, headers: bytes) -> None:
    """Of an instance that answers too many, or no HTTP: the client learns that it is the app's fault, and which."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK.replace(b"content-length", headers + b"content-length"))
        await writer.drain()

    async with listening(answer) as port, neighbour(lab):
        await serve(lab, port)
        async with lab.ask("hog.localhost", method="POST") as response:
            assert (response.status, response.headers["x-seaway-reason"]) == (502, "bad-answer")
            assert f"{HEADERS_KIB} KiB or {HEADER_LINES} lines" in await response.text()


async def test_a_body_of_any_size_passes_and_is_not_kept(lab: Lab) -> None:
    """100 MB to an app that reads late: the client has to wait, and Envoy keeps no more than some MB."""
    size, go, sent = 100_000_000, asyncio.Event(), 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await go.wait()
        left = size
        while left > 0:
            left -= len(await reader.read(1 << 20))
        writer.write(OK)
        await writer.drain()

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(size // 100_000):
            yield b"x" * 100_000
            sent += 100_000

    async with listening(answer) as port, neighbour(lab):
        await serve(lab, port)
        envoy = psutil.Process(lab.envoys("r1")[0])
        before = most = envoy.memory_info().rss
        upload = asyncio.create_task(
            lab.get("hog.localhost", method="POST", data=body(), headers={"content-length": str(size)})
        )
        begun = -1
        while begun < sent or not sent:  # until the client waits
            begun = sent
            await asyncio.sleep(0.2)
        assert sent < size / 2
        go.set()
        while not upload.done():
            most = max(most, envoy.memory_info().rss)
            await asyncio.sleep(0.01)
        assert await upload == (200, "hog")
    assert most - before < 5 << 20


async def test_a_long_upload_whose_instance_is_gone_goes_to_another(lab: Lab) -> None:
    """The second try begins before more has come than is kept: 25 MB a second lose nothing."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"seaway-router" not in await reader.readuntil(b"\r\n\r\n"):
            await reader.readexactly(8 * RETRY_BUFFER)
        writer.write(OK)
        await writer.drain()

    async def body() -> AsyncIterator[bytes]:
        for _ in range(16):
            yield bytes(RETRY_BUFFER // 2)
            await asyncio.sleep(0.005)

    async with listening(answer) as port:
        async with listening(answer) as gone:
            await serve(lab, port, gone, check=BLIND)
        headers = {"content-length": str(8 * RETRY_BUFFER)}
        answers = [await lab.get("hog.localhost", method="POST", data=body(), headers=headers) for _ in range(12)]
    assert answers == [(200, "hog")] * 12


async def test_headers_that_come_too_slowly(lab: Lab) -> None:
    """A client that sends a bit of its headers now and then is answered 408 after the limit."""
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.settings.http_port)
    async with neighbour(lab), asyncio.timeout(10):
        writer.write(HEAD)
        answer = asyncio.create_task(reader.readuntil(b" s.\n"))
        while not answer.done():
            writer.write(b"x: a\r\n")
            await asyncio.wait([answer], timeout=0.1)
    await drop(writer)
    assert "x-seaway-reason: timed-out" in answer.result().decode()
    assert "took longer than" in answer.result().decode()


async def test_a_body_that_does_not_come(lab: Lab) -> None:
    """A client that begins a request and sends no more is answered 408 after the app's idle_timeout."""

    async def read(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(read) as port, neighbour(lab):
        await serve(lab, port, policy=RouterPolicy(idle_timeout=0.5))
        answer = await exchange(lab, HEAD.replace(b"GET", b"POST") + b"content-length: 9\r\n\r\nx")
    assert answer.startswith("HTTP/1.1 408 ")
    assert "x-seaway-reason: timed-out" in answer


async def test_a_client_that_does_not_read(lab: Lab) -> None:
    """Holds an instance no longer than the app's idle_timeout."""
    ended = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (64 << 20))
        try:
            await reader.read()
        finally:  # the router went
            ended.set()

    async with listening(answer) as port, neighbour(lab):
        await serve(lab, port, policy=RouterPolicy(idle_timeout=0.5))
        _, writer = await asyncio.open_connection("127.0.0.1", lab.settings.http_port, limit=1)
        writer.write(HEAD + b"\r\n")
        async with asyncio.timeout(10):
            await ended.wait()
        await drop(writer)


async def test_streams_of_one_http2_connection(lab: Lab) -> None:
    """The client is told how many it may open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.settings.http_port)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
    head = await reader.readexactly(9)
    settings = await reader.readexactly(int.from_bytes(head[:3]))
    await drop(writer)
    assert dict(struct.iter_unpack(">HI", settings))[3] == STREAMS


@asynccontextmanager
async def two_instances(lab: Lab, check: Check | None) -> AsyncIterator[int]:
    """Run two instances of `hog`; yield the process id of one."""
    ports = [free_port(), free_port()]
    code = APP.replace("0.0.0.0", "127.0.0.1")
    apps = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", code.replace("8080", str(port)), "hog", stdout=asyncio.subprocess.PIPE
        )
        for port in ports
    ]
    try:
        await serve(lab, *ports, check=check)
        yield apps[0].pid
    finally:
        for app in apps:
            app.kill()
            await app.wait()


async def test_a_stopped_instance_is_out_by_its_check(lab: Lab) -> None:
    """SIGSTOP: its kernel takes connections, but a check that asks it can tell; it is out within seconds."""
    check = Check(http="/", interval=1, timeout=0.5, unhealthy_after=2)
    async with two_instances(lab, check) as pid, neighbour(lab):
        os.kill(pid, signal.SIGSTOP)
        begun = Stopwatch(*lab.envoys("r1"))
        await lab.until_healthy("hog:v1", 1)
        assert begun.took() < find_blind_time(check) + 0.5
        assert {await lab.get("hog.localhost") for _ in range(50)} == {(200, "hog")}


async def test_a_stopped_instance_without_a_check_gets_next_to_nothing(lab: Lab) -> None:
    """Nobody can tell it from a slow one; but what it holds keeps others from it: 1 of 32 requests, not every other."""
    async with two_instances(lab, None) as pid, neighbour(lab):
        os.kill(pid, signal.SIGSTOP)
        asked = []
        for _ in range(200):
            asked.append(asyncio.create_task(lab.get("hog.localhost", method="POST")))
            await asyncio.wait(asked[-1:], timeout=0.2)
        hang = [task for task in asked if not task.done()]
        assert {task.result() for task in asked if task.done()} == {(200, "hog")}
        assert 0 < len(hang) < 20
        for task in hang:
            task.cancel()
        await asyncio.gather(*hang, return_exceptions=True)


@pytest.mark.parametrize("keepalive", [0, 0.05, 3], ids=["never", "short", "long"])
async def test_a_check_may_take_its_timeout_whatever_the_keepalive(lab: Lab, keepalive: float) -> None:
    """Envoy took a check's connection for idle; connections of requests are closed after `keepalive` all the same."""
    idle: list[float] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        last = 0.0
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if b"seaway-router" in head:
                    await asyncio.sleep(0.3)
                else:
                    last = time.monotonic()
                writer.write(OK)
                await writer.drain()
        finally:
            if last:
                idle.append(time.monotonic() - last)

    async with listening(answer) as port, neighbour(lab):
        check = Check(http="/", interval=1, timeout=1, unhealthy_after=1)
        await serve(lab, port, policy=RouterPolicy(keepalive=keepalive), check=check)
        assert await lab.get("hog.localhost", method="POST") == (200, "hog")
        async with asyncio.timeout(10):
            while not idle:
                await asyncio.sleep(0.01)
        assert keepalive - 0.1 < idle[0] < keepalive + 0.5
        assert len(lab.plane.views()[0].healthy["hog:v1"]) == 1

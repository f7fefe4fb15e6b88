"""What the HTTP server itself does with requests that never become one; on a real connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from seaway.control.serving import HEAD_LIMIT, REFUSAL, BoundedHeads

CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n"


async def count_body(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with how many bytes the body had."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    said = b"%d" % size
    headers = [(b"connection", b"close"), (b"content-length", b"%d" % len(said))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": said})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    config = uvicorn.Config(count_body, port=0, log_config=None, lifespan="off", http=BoundedHeads)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await running


async def ask(port: int, parts: Iterator[bytes]) -> bytes:
    """Send one part after the other as long as they are taken; return the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        answer = asyncio.create_task(reader.read())
        with suppress(ConnectionError):
            for part in parts:
                if answer.done():
                    break
                writer.write(part)
                await writer.drain()
        return await answer
    finally:
        writer.close()


def go_on(begin: bytes, more: bytes) -> Iterator[bytes]:
    """Yield a beginning, and more without end in small parts, so that each is read before the next comes."""
    yield begin
    while True:
        yield more


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"GET /", b"x" * 1000),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: ", b"x" * 1000),
        (b"GET / HTTP/1.1\r\nhost: x\r\n", b"x: y\r\n" * 100),
        (CHUNKED + b"0\r\nx: ", b"x" * 1000),
        (CHUNKED + b"1;", b"x" * 1000),
    ],
)
async def test_a_head_without_end_is_refused(port: int, begin: bytes, more: bytes) -> None:
    """Whatever it consists of, also behind a body; others are answered meanwhile."""
    with suppress(ConnectionError):  # the answer is lost where more came than was read
        assert (await ask(port, go_on(begin, more))).startswith(REFUSAL)
    assert (await ask(port, iter([b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"]))).endswith(b"\r\n\r\n0")


async def test_a_long_body_is_no_head(port: int) -> None:
    """In parts of any size, plain and chunked."""
    size = 40 * HEAD_LIMIT
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size
    assert (await ask(port, iter([head, *[b"x" * HEAD_LIMIT] * 40]))).endswith(b"\r\n%d" % size)
    part = b"%x\r\n" % HEAD_LIMIT + b"x" * HEAD_LIMIT + b"\r\n"
    assert (await ask(port, iter([CHUNKED, *[part] * 40, b"0\r\n\r\n"]))).endswith(b"\r\n%d" % (size + 1))

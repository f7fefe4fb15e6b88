"""What an HTTP check says and how its answer is quoted."""

from __future__ import annotations

import asyncio
import unicodedata
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.engine.local.probe import Prober, Target
from seaway.model import Check
from seaway.model.quoting import quote_text


async def test_http_checks_are_as_requests_of_the_apps_users() -> None:
    """The app's own host, over HTTPS as far as it can tell; where no host is known the address is named."""
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    prober = Prober()
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        for host in ("shop.localhost", ""):
            assert await prober.ask(Check(http="/up"), Target(port, Path(), {}, host=host)) is None
    await prober.close()
    hosts = [[line for line in head.lower().split(b"\r\n") if line.startswith(b"host:")] for head in heads]
    assert hosts == [[b"host: shop.localhost"], [f"host: 127.0.0.1:{port}".encode()]]
    assert all(b"\r\nx-forwarded-proto: https\r\n" in head.lower() for head in heads)


ANSWERS = {
    "whole": (b"content-length: 9\r\n\r\nno\tdb\r\n\x1b[", ": no db \\x1b["),
    "empty": (b"content-length: 0\r\n\r\n", ""),
    "long": (b"content-length: 9000000\r\n\r\n" + b"x" * 100_000, ": " + "x" * 197 + "..."),
    "unfinished": (b"content-length: 100\r\n\r\nno db", ": no db"),
    "broken": (b"transfer-encoding: chunked\r\n\r\nzzz\r\n", ""),
}


@pytest.mark.parametrize(("answer", "said"), ANSWERS.values(), ids=ANSWERS)
async def test_a_failing_check_quotes_the_answer(answer: bytes, said: str) -> None:
    """Status and the beginning of the body: one line, bounded, control characters visible, however the answer ends."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 400 Bad Request\r\n" + answer)
        await reader.read()  # until the prober has enough
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        ended.set()

    ended = asyncio.Event()
    prober = Prober()
    pulse = asyncio.create_task(prober.lag.watch())
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        fault = await prober.ask(Check(http="/up", timeout=0.5), Target(port, Path(), {}))
        assert fault == f"GET /up on port {port} answered 400{said}"
        await prober.close()
        await ended.wait()
    pulse.cancel()
    await asyncio.gather(pulse, return_exceptions=True)


@given(st.text(max_size=1000), st.integers(10, 300))
def test_quoted_text_is_one_bounded_line_that_no_terminal_obeys(text: str, most: int) -> None:
    quoted = quote_text(text, most)
    assert len(quoted) <= most
    assert not any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in quoted)


def test_quoted_text_reads_as_it_was() -> None:
    assert quote_text("  größer\r\n als 日本 ") == "größer als 日本"
    assert quote_text("a\x00b\u202ec\x9b") == "a\\x00b\\u202ec\\x9b"

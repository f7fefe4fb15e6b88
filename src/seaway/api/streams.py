"""Server-sent events: heartbeats while nothing happens, an end when the client or its token goes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractContextManager, aclosing, nullcontext, suppress
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from seaway.api.auth import authenticate, find_authorization
from seaway.api.context import get_caller, get_deps
from seaway.api.errors import translate

STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "Server-sent events"}
}
"""What OpenAPI says of an answer that may be a stream."""

T = TypeVar("T")

HEARTBEAT = b": still here\n\n"


def event(data: Any, name: str | None = None, identity: int | None = None) -> bytes:
    """Return one server-sent event with JSON data."""
    head = f"event: {name}\n" if name else ""
    head += f"id: {identity}\n" if identity is not None else ""
    return f"{head}data: {json.dumps(data)}\n\n".encode()


class Stream(StreamingResponse):
    """A streaming answer that closes its source however it ends. `held` is entered while it is being sent."""

    def __init__(
        self,
        source: AsyncGenerator[bytes, None],
        media_type: str,
        status_code: int = 200,
        held: AbstractContextManager[None] | None = None,
    ) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(source, status_code, media_type=media_type, headers=headers)
        self._source = source
        self._held = held or nullcontext()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; what `held` raises is answered instead, as nothing was sent yet."""
        with self._held:
            await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        """Send all of it."""
        async with aclosing(self._source):
            await super().stream_response(send)


def server_sent(
    request: Request,
    source: AsyncGenerator[bytes, None],
    *,
    beat: float | None = None,
    good: Callable[[], bool] = lambda: True,
) -> Stream:
    """Return events as they come, with heartbeats; ends with an `error` event if the token stops being good.

    Refused with 429 if the token has as many streams open as it may.
    `beat`: seconds between heartbeats, if not the usual ones. It also ends, looked at with each of them, when the
    stream itself is not `good` any more: the client is to ask again.
    """
    deps = get_deps(request)
    beating = _beating(request, source, beat or deps.heartbeat, good)
    return Stream(beating, "text/event-stream", held=deps.streams.hold(get_caller(request).name))


def lines(source: AsyncGenerator[Any, None]) -> Stream:
    """Return one JSON value a line, as they come, until the source ends."""

    async def encode() -> AsyncGenerator[bytes, None]:
        async with aclosing(source):
            async for item in source:
                yield json.dumps(item).encode() + b"\n"

    return Stream(encode(), "application/x-ndjson")


async def _beating(
    request: Request, source: AsyncGenerator[bytes, None], beat: float, good: Callable[[], bool]
) -> AsyncGenerator[bytes, None]:
    deps = get_deps(request)
    loop = asyncio.get_running_loop()
    pending: asyncio.Task[bytes] | None = None
    checked = loop.time()
    yield HEARTBEAT  # at once, so that the client knows that it is connected
    try:
        while True:
            pending = pending or asyncio.create_task(_next(source))
            done, _ = await asyncio.wait({pending}, timeout=beat)
            if not good():
                return
            if loop.time() - checked >= beat:
                await authenticate(deps.store, find_authorization(request.headers), deps.clock())
                checked = loop.time()
            if not done:
                yield HEARTBEAT
                continue
            item, pending = pending.result(), None
            yield item
    except StopAsyncIteration:
        return
    except Exception as error:
        translated = translate(error)
        yield event({"error": translated.body.model_dump(exclude_none=True)}, "error")
    finally:
        if pending is not None:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
        await source.aclose()


async def merge(*sources: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """Yield what comes from any of them, until all have ended; of each one item is read ahead."""
    pending = {asyncio.ensure_future(anext(source)): source for source in sources}
    try:
        while pending:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                source = pending.pop(task)
                with suppress(StopAsyncIteration):
                    item = task.result()
                    pending[asyncio.ensure_future(anext(source))] = source
                    yield item
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for source in sources:
            await source.aclose()


async def _next(source: AsyncIterator[bytes]) -> bytes:
    return await anext(source)

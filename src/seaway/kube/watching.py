"""Watches that go on: a broken or silent stream is opened again from where it was.

The server ends each stream after WATCH seconds, after a bookmark that says how far the history has got; so a stream
that stays silent for longer than that is dead (a stopped server, a lost network), and even a quiet watch keeps a
position that does not grow old.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, Literal, TypeVar

import msgspec
import structlog

from seaway.kube.client import KubeClient
from seaway.kube.errors import Denied, KubeError, NotFound, Status, Unavailable, error_of
from seaway.kube.listing import Resource
from seaway.kube.structs import Object

T = TypeVar("T", bound=Object)

WATCH = 15  # seconds a stream lasts
SILENCE = WATCH + 3.0  # seconds without a byte after which a stream is dead
SLICE = 0.005  # seconds of parsing after which others run
BACKOFF = (0.1, 5.0)  # seconds before the first and the latest attempts to reconnect, doubling, with jitter

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Seen(Generic[T]):
    """One change: `item` is the new version, or the last one for "deleted"."""

    type: Literal["put", "deleted"]
    item: T


@dataclass
class Pulse:
    """When a watch last heard from the server (time.monotonic), and what is wrong since (empty: nothing)."""

    heard_at: float = 0.0
    trouble: str = ""

    def beat(self) -> None:
        """Note that the server has been heard now."""
        self.heard_at, self.trouble = time.monotonic(), ""

    def silent(self) -> float:
        """Return for how many seconds nothing has been heard (up to WATCH is usual where nothing changes)."""
        return time.monotonic() - self.heard_at


class _Head(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Mark(msgspec.Struct):
    metadata: _MarkMeta


class _MarkMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""


_head = msgspec.json.Decoder(_Head)
_mark = msgspec.json.Decoder(_Mark)
_status = msgspec.json.Decoder(Status)


async def watch_objects(
    client: KubeClient, resource: Resource[T], since: str, pulse: Pulse | None = None
) -> AsyncGenerator[Sequence[Seen[T]], None]:
    """Yield what changed after revision `since`, in order, in the lumps it arrives in, for ever.

    Outages are waited out and told in `pulse`. Raises Gone when `since`, or the position after an outage, is too old
    (list again), Denied and NotFound when the server refuses.
    """
    pulse = pulse or Pulse(time.monotonic())
    position, delay = since, BACKOFF[0]
    while True:
        params = dict(resource.selectors) | {
            "watch": "true", "allowWatchBookmarks": "true", "resourceVersion": position, "timeoutSeconds": str(WATCH),
        }  # fmt: skip
        try:
            async with client.stream(resource.path, params, silence=SILENCE) as chunks:
                pulse.beat()
                async with contextlib.aclosing(_read_events(resource, chunks, pulse)) as lumps:
                    async for lump, position in lumps:  # noqa: B007 - the position is used by the next request
                        delay = BACKOFF[0]
                        if lump:
                            yield lump
        except Unavailable as error:
            if pulse.trouble == "":
                log.warning("watch interrupted", path=resource.path, error=str(error))
            pulse.trouble = str(error)
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            delay = min(delay * 2, BACKOFF[1])


async def _read_events(
    resource: Resource[T], chunks: AsyncIterator[bytes], pulse: Pulse
) -> AsyncGenerator[tuple[list[Seen[T]], str], None]:
    """Yield changes and the position after them; parse for at most SLICE seconds at a time."""
    decode = _decoder(resource.item).decode
    rest = b""
    async for chunk in chunks:
        pulse.beat()
        *lines, rest = (rest + chunk).split(b"\n") if b"\n" in chunk else (rest + chunk,)
        lump: list[Seen[T]] = []
        position, began = "", time.monotonic()
        for line in lines:
            if not line:
                continue
            head = _head.decode(line)
            if head.type == "BOOKMARK":
                position = _mark.decode(head.object).metadata.resource_version
            elif head.type == "ERROR":
                raise _stream_error(head, resource.path)
            else:
                item: T = decode(head.object)
                position = item.metadata.resource_version
                lump.append(Seen("deleted" if head.type == "DELETED" else "put", item))
            if time.monotonic() - began > SLICE:
                yield lump, position
                await asyncio.sleep(0)
                lump, began = [], time.monotonic()
        if position:
            yield lump, position


def _stream_error(head: _Head, path: str) -> KubeError:
    """An ERROR in the stream: Gone, or trouble inside the server, after which the watch is opened again."""
    error = error_of(_status.decode(head.object), f"watch {path}")
    if isinstance(error, Denied | NotFound) or error.code == 410:
        return error
    return Unavailable(str(error), error.code, error.reason)


@cache
def _decoder(item: type[Object]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(item)

"""A router's links to the replicas of the control plane: reports go to all of them, resources come from one.

Each replica gets the router's reports, so that whichever leads knows what every router has. It answers with
`{"open": true}` once it has published everything (and `false` when it has lost touch with the store), and with
`{"leads": true}` while it is the one that acts. Resources are taken from the replica that leads: it waits for what it
published itself, and the others may see a moment of the cluster, or a slow node, otherwise. While it is away any other
that is open will do. Versions are hashes of contents, so a change of replica sends only what differs.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import structlog

from seaway.router.reports import Reporter
from seaway.router.serving import GRPC_OPTIONS, REPORT_METHOD, REPORT_SERVICE

log = structlog.get_logger("seaway.router")

ROUTER_HEADER = "seaway-router"
RECONNECT_FIRST, RECONNECT_LAST = 0.05, 1.0  # seconds between attempts to reach a replica
RESOLVE_INTERVAL = 2.0  # seconds between looks at which replicas there are

Metadata = tuple[tuple[str, str], ...]
Exchange = Callable[[Any, Metadata], Awaitable[None]]
"""Takes resources over a channel until the stream breaks."""

BROKEN = (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError)


class StreamEnded(Exception):
    """The control plane closed a stream."""


@dataclass(frozen=True)
class Connector:
    """How to reach the control plane: which gRPC targets there are, a channel to one, what to show it."""

    resolve: Callable[[], Awaitable[Sequence[str]]]
    connect: Callable[[str], Any]
    metadata: Callable[[], Metadata]


def connect_unix(socket: Path, name: str, read_secret: Callable[[], str]) -> Connector:
    """Return the way to the one control plane of this machine."""

    async def resolve() -> Sequence[str]:
        return (f"unix:{socket}",)

    return Connector(
        resolve=resolve,
        connect=lambda target: grpc.aio.insecure_channel(target, options=GRPC_OPTIONS),
        metadata=lambda: (("authorization", f"Bearer {read_secret()}"), (ROUTER_HEADER, name)),
    )


@dataclass
class _Link:
    """One replica that answers; `gone` is set when it does not any more, or is not open any more."""

    target: str
    channel: Any
    metadata: Metadata
    is_open: bool = False
    leads: bool = False
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class ControlLinks:
    """Keeps a report stream to every replica, and `exchange` running with one of them."""

    def __init__(self, connector: Connector, reporter: Reporter, exchange: Exchange) -> None:
        self._connector = connector
        self._reporter = reporter
        self._exchange = exchange
        self._links: dict[str, _Link] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._last = ""

    async def run(self) -> None:
        """Run until cancelled."""
        exchanging = asyncio.create_task(self._keep_exchanging(), name="exchange")
        try:
            while True:
                await self._discover()
                done, _ = await asyncio.wait({exchanging}, timeout=RESOLVE_INTERVAL)
                if done:
                    exchanging.result()  # it only ends by a bug
        finally:
            tasks = (exchanging, *self._keepers.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _discover(self) -> None:
        try:
            targets = set(await self._connector.resolve())
        except OSError as error:
            log.warning("the control plane's name does not resolve", error=str(error))
            return  # those that are known stay
        for target in targets - self._keepers.keys():
            self._keepers[target] = asyncio.create_task(self._keep_link(target), name=f"link-{target}")
        for target in self._keepers.keys() - targets:
            self._keepers.pop(target).cancel()

    async def _keep_link(self, target: str) -> None:
        delay = RECONNECT_FIRST
        while True:
            link = _Link(target, self._connector.connect(target), self._connector.metadata())
            try:
                async with link.channel:
                    await self._report(link)
            except BROKEN as error:
                _log_break(target, error)
            except StreamEnded:
                log.info("the control plane closed the report stream", replica=target)
            finally:
                met = self._links.pop(target, None) is link
                link.gone.set()
                self._note_change()
            delay = RECONNECT_FIRST if met else min(delay * 2, RECONNECT_LAST)
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311  # spreads routers, no secret

    async def _report(self, link: _Link) -> None:
        """Run the report stream of one replica until it breaks."""
        stream = link.channel.stream_stream(f"/{REPORT_SERVICE}/{REPORT_METHOD}")(metadata=link.metadata)
        outbox = self._reporter.open()
        try:
            await stream.write(outbox.take())
            listening = asyncio.create_task(self._listen(stream, link))
            try:
                while not listening.done():
                    waiting = asyncio.create_task(outbox.changed.wait())
                    await asyncio.wait({listening, waiting}, return_when=asyncio.FIRST_COMPLETED)
                    waiting.cancel()
                    if outbox.changed.is_set() and not listening.done():
                        await stream.write(outbox.take())
                await listening
            finally:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
        finally:
            outbox.close()
            stream.cancel()

    async def _listen(self, stream: Any, link: _Link) -> None:
        async for data in stream:
            said = json.loads(data)
            link.is_open, link.leads = bool(said["open"]), bool(said.get("leads", False))
            self._links[link.target] = link
            if not link.is_open:
                link.gone.set()
            elif link.gone.is_set():
                link.gone = asyncio.Event()
            self._note_change()
        raise StreamEnded

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _find_best(self) -> _Link | None:
        """Return the open replica that leads; if none does, the last one if it is still there, else any."""
        found = [link for link in self._links.values() if link.is_open]
        preferred = [link for link in found if link.leads] or [link for link in found if link.target == self._last]
        return preferred[0] if preferred else random.choice(found) if found else None  # noqa: S311  # spreads routers

    async def _pick(self) -> _Link:
        while True:
            changed = self._changed
            if best := self._find_best():
                return best
            await changed.wait()

    async def _wait_for_better(self, link: _Link) -> None:
        """Return once another open replica leads, and this one does not."""
        while True:
            changed = self._changed
            best = self._find_best()
            if best is not None and best is not link and best.leads and not link.leads:
                return
            await changed.wait()

    async def _keep_exchanging(self) -> None:
        while True:
            link = await self._pick()
            self._last = link.target
            log.info("takes its routes from the control plane", replica=link.target, leads=link.leads)
            exchange = asyncio.create_task(_run(self._exchange, link))
            gone = asyncio.create_task(link.gone.wait())
            better = asyncio.create_task(self._wait_for_better(link))
            try:
                await asyncio.wait({exchange, gone, better}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                moves = better.done()
                for task in (exchange, gone, better):
                    task.cancel()
                await asyncio.gather(exchange, gone, better, return_exceptions=True)
            if not exchange.cancelled():
                exchange.result()  # raises only a bug
            if moves:
                continue
            log.warning("lost the control plane: the last good routes stay", replica=link.target)
            await asyncio.sleep(RECONNECT_FIRST * random.uniform(0.5, 1.0))  # noqa: S311  # spreads routers, no secret


async def _run(exchange: Exchange, link: _Link) -> None:
    try:
        await exchange(link.channel, link.metadata)
    except* (*BROKEN, StreamEnded) as group:
        for error in group.exceptions:
            _log_break(link.target, error)


def _log_break(target: str, error: BaseException) -> None:
    if isinstance(error, grpc.aio.AioRpcError):
        refused = error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT)
        note = log.error if refused else log.debug
        note("no connection to the control plane", replica=target, code=error.code().name, detail=error.details())

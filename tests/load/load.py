"""The open loop: requests go out at a constant rate, whatever becomes of those before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Self, TypeVar

import aiohttp

from tests.load.mix import Mix
from tests.load.report import Failure, Outcome, Recorder, Report
from tests.load.traffic import GOODBYE, POLITE, Client, Shape, Trip, WrongAnswer, cause_of, trip

T = TypeVar("T")
Way = Callable[[int], Awaitable[str | None]]


class Load:
    """Sends `rate` requests a second (and holds `mix.websockets` WebSockets) from entering until leaving.

    Arrivals do not wait for responses. A request is right only with status 200 and the right body; nothing is
    sent twice. Leaving stops the arrivals and awaits what is in flight, so the report lacks no request.
    """

    def __init__(
        self,
        url: str,
        *,
        host: str | None = None,
        rate: float = 100.0,
        mix: Mix | None = None,
        shape: Shape | None = None,
    ) -> None:
        if not 0 < rate <= 5000:
            raise ValueError(f"rate {rate}: it is a number of requests a second above 0, at most 5000")
        self.rate = rate
        self.mix = mix or Mix()
        self._client = Client(url, host, shape or Shape())
        self._running: set[asyncio.Task[tuple[bool, str | None]]] = set()
        self._stopping = asyncio.Event()
        self._sequence = 0
        self._recorder: Recorder
        self._arrivals: asyncio.Task[None] | None = None
        self._sockets: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        self._clock = asyncio.get_running_loop().time
        self._epoch = time.time() - self._clock()
        self._recorder = Recorder(started_at=self._now(), rate=self.rate, mix=str(self.mix))
        self.mark("start")
        if self.mix.shares:
            self._arrivals = asyncio.create_task(self._arrive())
        self._sockets += [asyncio.create_task(self._hold_websocket()) for _ in range(self.mix.websockets)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        try:
            if self._arrivals is not None:
                self._arrivals.cancel()
                await asyncio.wait([self._arrivals])
            await asyncio.gather(*self._sockets)
            await asyncio.gather(*self._running)
        finally:
            for task in (*self._sockets, *self._running):
                task.cancel()
            await self._client.__aexit__()
        self._ended_at = self._now()

    def mark(self, label: str) -> None:
        """Begin a span: requests due from now on are counted under the label too."""
        self._recorder.marks.append((self._now(), label))

    def report(self) -> Report:
        """Return the report as of now (requests still in flight are not in it until they ended)."""
        self._recorder.connections = self._client.connections.count
        return self._recorder.report(getattr(self, "_ended_at", self._now()))

    def progress(self) -> dict[str, float]:
        """Return counts of ended requests, of failed ones and of those in flight; cheap."""
        recorder = self._recorder
        ended = len(recorder.outcomes)
        return {"ended": ended, "failed": recorder.failed, "in_flight": len(self._running), "at": self._now()}

    def _now(self) -> float:
        return self._epoch + self._clock()

    async def _arrive(self) -> None:
        ways: dict[str, Way] = {kind: getattr(self._client, kind) for kind in self.mix.shares}
        started = self._clock()
        for count, kind in enumerate(self.mix.kinds()):
            due = started + count / self.rate
            await asyncio.sleep(max(0.0, due - self._clock()))
            self._recorder.largest_lag = max(self._recorder.largest_lag, self._clock() - due)
            task = asyncio.create_task(self._make(kind, ways[kind], Trip(), due))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _hold_websocket(self) -> None:
        """Keep one WebSocket open: a message and its echo at each interval, another socket when it closes."""
        interval = self._client.shape.message_interval
        while not self._stopping.is_set():
            known = Trip()
            _, socket = await self._make("ws-open", self._client.open_websocket, known)
            if socket is None:
                await asyncio.sleep(interval)
                continue
            try:
                await self._talk(socket, known)
            finally:
                await socket.close()

    async def _talk(self, socket: aiohttp.ClientWebSocketResponse, known: Trip) -> None:
        for _ in range(self._client.shape.messages):
            echoed, release = await self._make("ws", partial(self._client.exchange, socket), known)
            if release == GOODBYE:
                self._recorder.websockets_closed += 1
            if not echoed or release == GOODBYE:
                return
            code = await self._client.listen(socket, self._client.shape.message_interval)
            if code in POLITE:
                self._recorder.websockets_closed += 1
                return
            if code is not None:
                await self._make("ws", partial(self._client.complain, code), known)
                return
            if self._stopping.is_set():
                return

    async def _make(
        self, kind: str, way: Callable[[int], Awaitable[T]], known: Trip, due: float | None = None
    ) -> tuple[bool, T | None]:
        """Make one request and count it; return whether it went well and what it returned."""
        due = self._clock() if due is None else due
        self._sequence += 1
        sequence, result, failure = self._sequence, None, None
        trip.set(known)
        try:
            async with asyncio.timeout(self._client.shape.timeout):
                result = await way(sequence)
        except Exception as error:  # whatever it is, it is counted and reported
            failure = self._failed(sequence, kind, due, error, known)
        release = result if isinstance(result, str) and result != GOODBYE else None
        self._recorder.add(Outcome(kind, self._epoch + due, self._clock() - due, release, failure))
        return failure is None, result

    def _failed(self, sequence: int, kind: str, due: float, error: Exception, known: Trip) -> Failure:
        cause, status, reason, body = *cause_of(error), ""
        if isinstance(error, WrongAnswer):
            cause, status, reason, body = error.cause, error.status, error.reason, error.body
        text = str(error) if isinstance(error, WrongAnswer) else f"{type(error).__name__}: {error}"
        return Failure(
            sequence=sequence,
            kind=kind,
            sent_at=self._epoch + due,
            ended_at=self._now(),
            cause=cause,
            error=text,
            status=status,
            reason=reason,
            body=body,
            connection=known.connection,
        )

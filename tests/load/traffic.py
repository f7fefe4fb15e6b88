"""How each kind of request is made and what makes its answer right. aiohttp, with every retry of its own off.

An app under load answers (tests/e2e/apps/plain and the examples do): GET /release?n=N and GET /slow?s=S&n=N with
JSON whose "n" is N, POST /echo with the body it got, GET /stream?n=N&count=C&interval=S with the lines "N 0" to
"N C-1", and on the WebSocket /ws each text with JSON whose "echo" is that text. The header x-release names the
release that answered.
"""

from __future__ import annotations

import json
import random
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Self
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp import ClientTimeout, WSCloseCode, WSMsgType
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection as HeldConnection

from tests.load.report import Cause, Connection

BODY_PREFIX = 300  # characters of a wrong answer that are kept
GOODBYE = "goodbye"  # in place of a release: the WebSocket was closed in order
POLITE = frozenset({WSCloseCode.OK, WSCloseCode.GOING_AWAY, WSCloseCode.SERVICE_RESTART})


@dataclass(frozen=True)
class Shape:
    """What requests look like; times in seconds. A path without {n} is asked for as it is and any body is right."""

    get_path: str = "/release?n={n}"
    post_path: str = "/echo"
    slow_path: str = "/slow?s={s}&n={n}"
    stream_path: str = "/stream?n={n}&count={count}&interval={interval}"
    websocket_path: str = "/ws"
    timeout: float = 30.0
    slow: float = 5.0
    body_bytes: int = 2048
    stream_count: int = 10
    stream_interval: float = 0.1
    message_interval: float = 0.5
    messages: int = 120  # per WebSocket, then it is closed and another opened


class WrongAnswer(Exception):
    """The response is not the right one."""

    def __init__(self, cause: Cause, error: str, status: int | None = None, reason: str | None = None, body: str = ""):
        super().__init__(error)
        self.cause, self.error, self.status, self.reason, self.body = cause, error, status, reason, body[:BODY_PREFIX]


@dataclass
class Trip:
    """What is known of the connection of the request that the current task makes."""

    connection: Connection | None = None


trip: ContextVar[Trip] = ContextVar("trip")


@dataclass
class Connections:
    """When each open connection was begun; shared by the connectors of one client."""

    opened: WeakKeyDictionary[ResponseHandler, float] = field(default_factory=WeakKeyDictionary)
    count: int = 0


class RecordingConnector(aiohttp.TCPConnector):
    """A connector that notes on the task's trip which connection the request goes over."""

    def __init__(self, connections: Connections, *, force_close: bool) -> None:
        super().__init__(limit=0, force_close=force_close)
        self._seen = connections

    async def connect(self, req: aiohttp.ClientRequest, traces: list[Any], timeout: ClientTimeout) -> HeldConnection:
        begun = time.time()
        trip.get().connection = Connection(opened_at=begun, local_port=None, reused=False)
        held = await super().connect(req, traces, timeout)
        assert held.protocol is not None
        opened = self._seen.opened.setdefault(held.protocol, begun)
        self._seen.count += opened == begun
        address = held.transport.get_extra_info("sockname") if held.transport is not None else None
        port = address[1] if address else None
        trip.get().connection = Connection(opened_at=opened, local_port=port, reused=opened != begun)
        return held


class Client:
    """Makes requests of every kind to one app. Each returns the release that answered or raises.

    Raises WrongAnswer, or what aiohttp raises when there is no whole response. Use as an async context manager.
    """

    def __init__(self, url: str, host: str | None, shape: Shape) -> None:
        self.shape = shape
        self.connections = Connections()
        self._url = url.rstrip("/")
        self._headers = {"Host": host} if host else {}
        self._kept: aiohttp.ClientSession
        self._fresh: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._kept = self._open(force_close=False)
        self._fresh = self._open(force_close=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._kept.close()
        await self._fresh.close()

    def _open(self, *, force_close: bool) -> aiohttp.ClientSession:
        connector = RecordingConnector(self.connections, force_close=force_close)
        session = aiohttp.ClientSession(
            connector=connector,
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=ClientTimeout(total=None),  # Load limits each request as a whole
        )
        if not hasattr(session, "_retry_connection"):
            raise RuntimeError(f"aiohttp {aiohttp.__version__} hides its retry of GETs; find out how to turn it off")
        session._retry_connection = False
        return session

    async def get(self, n: int) -> str | None:
        """GET on a kept-alive connection."""
        return await self._get(self._kept, self.shape.get_path, n)

    async def new(self, n: int) -> str | None:
        """GET on a connection of its own, closed after it."""
        return await self._get(self._fresh, self.shape.get_path, n)

    async def slow(self, n: int) -> str | None:
        """GET that the app answers after `shape.slow` seconds."""
        return await self._get(self._kept, self.shape.slow_path, n)

    async def post(self, n: int) -> str | None:
        """POST a body of this request alone; it must come back."""
        body = b"%d " % n + random.Random(n).randbytes(self.shape.body_bytes)
        async with self._kept.post(self._url + self.shape.post_path, data=body, allow_redirects=False) as response:
            got = await read_right(response)
            if got != body:
                raise wrong_body(response, got, f"{len(body)} bytes were sent and {len(got)} others came back")
            return response.headers.get("x-release")

    async def stream(self, n: int) -> str | None:
        """GET a body that comes in pieces over some time; all of them must come."""
        count = self.shape.stream_count
        path = self.shape.stream_path.format(n=n, count=count, interval=self.shape.stream_interval)
        async with self._kept.get(self._url + path, allow_redirects=False) as response:
            got = await read_right(response)
            if got != b"".join(b"%d %d\n" % (n, index) for index in range(count)):
                raise wrong_body(response, got, f"{count} lines were expected, {got.count(bytes([10]))} came")
            return response.headers.get("x-release")

    async def _get(self, session: aiohttp.ClientSession, path: str, n: int) -> str | None:
        url = self._url + path.format(n=n, s=self.shape.slow)
        async with session.get(url, allow_redirects=False) as response:
            got = await read_right(response)
            if "{n}" in path and not _is_answer(got, "n", str(n)):
                raise wrong_body(response, got, f'JSON with "n": "{n}" was expected')
            return response.headers.get("x-release")

    async def open_websocket(self, n: int) -> aiohttp.ClientWebSocketResponse:
        """Open a WebSocket, or raise aiohttp's error."""
        url = self._url.replace("http", "ws", 1) + self.shape.websocket_path
        return await self._kept.ws_connect(url, autoping=True, autoclose=True)

    async def listen(self, socket: aiohttp.ClientWebSocketResponse, seconds: float) -> int | None:
        """Wait while nothing should come. Return None, or the close code (1006 for none) if the socket closed."""
        try:
            message = await socket.receive(timeout=seconds)
        except TimeoutError:
            return None
        if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            return WSCloseCode.PROTOCOL_ERROR  # a message that answers nothing
        return close_code(message)

    async def complain(self, code: int, n: int) -> None:
        """Raise the error of a WebSocket that closed in a way it should not."""
        raise WrongAnswer(Cause.BROKEN, f"the WebSocket was closed with code {code} while it was idle")

    async def exchange(self, socket: aiohttp.ClientWebSocketResponse, n: int) -> str | None:
        """Send one message and await its echo; return GOODBYE if the app said goodbye meanwhile.

        An orderly close tells a WebSocket's client to connect again, also if it crosses a message on its way.
        """
        try:
            await socket.send_str(str(n))
        except ConnectionError:  # aiohttp has seen the close frame before we have
            if socket.close_code not in POLITE:
                raise
        message = await socket.receive()
        if message.type is WSMsgType.TEXT:
            if not _is_answer(message.data, "echo", str(n)):
                raise WrongAnswer(Cause.BODY, f'JSON with "echo": "{n}" was expected', body=message.data)
            release = json.loads(message.data).get("release")
            return str(release) if release is not None else None
        code = close_code(message)
        if message.type is WSMsgType.CLOSED and socket.close_code in POLITE:
            return GOODBYE
        if code in POLITE:
            return GOODBYE
        raise WrongAnswer(Cause.BROKEN, f"closed with code {code} while message {n} was unanswered")


def close_code(message: aiohttp.WSMessage) -> int:
    """Return the code of a close frame, 1006 for an end without one (aiohttp itself calls that 1000)."""
    if message.type is WSMsgType.CLOSE and isinstance(message.data, int):
        return message.data
    return WSCloseCode.ABNORMAL_CLOSURE


async def read_right(response: aiohttp.ClientResponse) -> bytes:
    """Return the whole body of a response with status 200, else raise WrongAnswer."""
    body = await response.read()
    if response.status != 200:
        text = body[:BODY_PREFIX].decode(errors="replace")
        reason = response.headers.get("x-seaway-reason")
        raise WrongAnswer(Cause.STATUS, f"status {response.status}", response.status, reason, text)
    return body


def wrong_body(response: aiohttp.ClientResponse, body: bytes, error: str) -> WrongAnswer:
    """Return the error of a body that is not the right one."""
    reason = response.headers.get("x-seaway-reason")
    return WrongAnswer(Cause.BODY, error, response.status, reason, body[:BODY_PREFIX].decode(errors="replace"))


def cause_of(error: BaseException) -> tuple[Cause, int | None, str | None]:
    """Return why a request without a whole response failed, and what is known of status and x-seaway-reason."""
    match error:
        case TimeoutError():
            return Cause.TIMEOUT, None, None
        case aiohttp.ClientConnectorError():
            return Cause.CONNECT, None, None
        case aiohttp.ClientResponseError():  # for example the handshake of a WebSocket
            reason = error.headers.get("x-seaway-reason") if error.headers else None
            return Cause.STATUS, error.status, reason
        case aiohttp.ClientError() | ConnectionError():
            return Cause.BROKEN, None, None
        case _:
            return Cause.ERROR, None, None


def _is_answer(body: bytes | str, key: str, value: str) -> bool:
    try:
        answer = json.loads(body)
    except ValueError:
        return False
    return isinstance(answer, dict) and str(answer.get(key)) == value

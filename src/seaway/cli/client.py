"""The HTTP client: JSON in and out, streams, and patience while the platform restarts."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2

from seaway.cli.errors import ApiError, CliError, Unreachable
from seaway.cli.target import Target
from seaway.kube.names import TOKEN_HEADER

Doc = dict[str, Any]
"""A document as the API sent it; read leniently, so that an older command line understands a newer platform."""

T = TypeVar("T")

CONNECT_TIMEOUT = 5.0  # seconds
ANSWER_TIMEOUT = 60.0  # seconds
SILENCE_TIMEOUT = 60.0  # seconds without a byte on a stream; the API sends heartbeats far more often
RESTART_LIMIT = 30.0  # seconds that the API of a platform that runs may take to come back
UNSENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.InvalidURL)
AWAY = frozenset({502, 503, 504})  # what a proxy before the API answers while the API restarts
TOO_MANY = 429
TRIES = 60  # of a request that the API does not take because its token sends too many
LONGEST_WAIT = 5.0  # seconds before the next of these, whatever Retry-After says
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds between tries while the API does not answer


@dataclass(frozen=True)
class StreamItem:
    """One server-sent event, or one line of a line-delimited answer (then `event` is "message")."""

    event: str
    data: str

    def json(self) -> Any:
        """Return the data parsed, or {"line": data} if it is not JSON."""
        try:
            return json.loads(self.data)
        except ValueError:
            return {"line": self.data}

    def line(self) -> str:
        """Return the line of output it carries."""
        value = self.json()
        return str(value.get("line", "")) if isinstance(value, dict) else str(value)


@dataclass(frozen=True)
class Answer:
    """What the API answered: HTTP status (below 400) and the parsed body (None if it was empty)."""

    status: int
    body: Any


class Api:
    """Speaks to one API; use as an async context manager. It waits `patience` seconds for an API that comes back."""

    def __init__(self, target: Target, patience: float = RESTART_LIMIT, within: float = ANSWER_TIMEOUT) -> None:
        """`within`: seconds for an answer."""
        self.target = target
        self._patience = patience
        headers = {"Accept": "application/json"}
        if target.token:
            headers |= {TOKEN_HEADER: target.token} if target.way else {"Authorization": f"Bearer {target.token}"}
        self._http = httpx2.AsyncClient(
            base_url=target.url,
            headers=headers,
            timeout=httpx2.Timeout(within, connect=min(within, CONNECT_TIMEOUT)),
            # Plain HTTP has no certificates, and reading them takes a while.
            verify=target.way.verify if target.way else _choose_authorities(target),
            auth=target.way.auth if target.way else None,
            trust_env=not target.local,  # a proxy is never the way to this machine
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def get(self, path: str, **params: Any) -> Any:
        """Return the parsed answer; parameters that are None are left out."""
        return await self.call("GET", path, params=params)

    async def post(self, path: str, body: Any = None) -> Any:
        """Post JSON (an empty object by default); return the parsed answer."""
        return await self.call("POST", path, body={} if body is None else body)

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        params: Mapping[str, Any] | None = None,
        content: Callable[[], AsyncIterator[bytes]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Send one request and return the parsed answer; raise ApiError for an error answer, Unreachable for none."""
        return (await self.request(method, path, body=body, params=params, content=content, headers=headers)).body

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        params: Mapping[str, Any] | None = None,
        content: Callable[[], AsyncIterator[bytes]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Do as `call` does, and return the HTTP status too."""
        with self._translated():
            answer = await self._send(
                lambda: self._http.request(
                    method,
                    f"/v1{path}",
                    json=body,
                    params=_present(params),
                    content=content() if content else None,
                    headers=headers,
                )
            )
        _check(answer)
        return Answer(answer.status_code, _parse(answer))

    async def _send(self, send: Callable[[], Awaitable[httpx2.Response]]) -> httpx2.Response:
        """Send a request; one that nobody took is sent again while the API comes back, or has too many."""
        limit = asyncio.get_running_loop().time() + self._patience
        while True:
            try:
                return await _send_in_turn(send)
            except httpx2.ConnectError:
                if asyncio.get_running_loop().time() > limit or not self.target.comes_back():
                    raise
                await asyncio.sleep(FIRST_PAUSE)

    async def stream(
        self, path: str, *, silence: float = SILENCE_TIMEOUT, **params: Any
    ) -> AsyncGenerator[StreamItem, None]:
        """Yield server-sent events, or the lines of a line-delimited answer, until the API ends the stream.

        Unreachable: among others, nothing came for `silence` seconds.
        """
        with self._translated():
            request = self._http.build_request(
                "GET",
                f"/v1{path}",
                params=_present(params),
                headers={"Accept": "text/event-stream, application/x-ndjson"},
                timeout=httpx2.Timeout(silence, connect=CONNECT_TIMEOUT),
            )
            answer = await _send_in_turn(lambda: self._http.send(request, stream=True))
            async with aclosing(answer):
                if answer.is_error:
                    await answer.aread()
                    _check(answer)
                events = "event-stream" in answer.headers.get("content-type", "")
                async for item in _read_events(answer) if events else _read_lines(answer):
                    if item.event == "error":
                        raise _streamed_error(item)
                    yield item

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            unsent = isinstance(error, UNSENT)
            failure = Unreachable(self.target.url, _words(error), sent=not unsent, local=self.target.local)
            if self.target.way:
                failure.hint = "check that `kubectl get nodes` works; `seaway login --local` leaves the cluster"
            raise failure from error


async def _send_in_turn(send: Callable[[], Awaitable[httpx2.Response]]) -> httpx2.Response:
    """Send a request, and again when the API says, while it has too many of this token; it took none of them."""
    for _ in range(TRIES - 1):
        answer = await send()
        seconds = answer.headers.get("Retry-After", "")
        if answer.status_code != TOO_MANY or not seconds.isdecimal():
            return answer
        await answer.aclose()
        await asyncio.sleep(min(float(seconds), LONGEST_WAIT))
    return await send()


def _words(error: Exception) -> str:
    text = str(error).strip()
    if isinstance(error, httpx2.TimeoutException):
        return "timed out"
    if isinstance(error, httpx2.ConnectError) and "All connection attempts failed" in text:
        return "connection refused"
    return text or "the connection was lost"


class Patience:
    """Asks again while the platform restarts. `say` is told once per outage, and once when it is over.

    The caller sets the limit with asyncio.timeout.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self._out = False

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """Repeat an idempotent request until the API answers it."""
        return await self._repeat(question, lambda _: True)

    async def send(self, request: Callable[[], Awaitable[T]]) -> T:
        """Repeat a request that must not be taken twice, as long as it certainly was not taken."""
        return await self._repeat(request, lambda error: isinstance(error, Unreachable) and not error.sent)

    async def _repeat(self, request: Callable[[], Awaitable[T]], may_repeat: Callable[[CliError], bool]) -> T:
        pause = FIRST_PAUSE
        while True:
            try:
                answer = await request()
            except (Unreachable, ApiError) as error:
                if isinstance(error, ApiError) and not error.passing:
                    raise
                if not may_repeat(error):
                    raise
                self.outage()
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            self.answered()
            return answer

    @property
    def waits(self) -> bool:
        """Whether it was said that the API does not answer, and not yet that it does again."""
        return self._out

    def answered(self) -> None:
        """Say that the API answers again, if it was said that it does not."""
        if self._out:
            self._out = False
            self.say("the API answers again")

    def outage(self) -> None:
        """Say that the API does not answer, once."""
        if not self._out:
            self._out = True
            self.say("the API does not answer; waiting for it to come back")


@asynccontextmanager
async def cancelling(task: asyncio.Task[Any]) -> AsyncIterator[asyncio.Task[Any]]:
    """Cancel the task at the end and await it, so that nothing is left running."""
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _present(params: Mapping[str, Any] | None) -> dict[str, Any]:
    return {k: v for k, v in (params or {}).items() if v is not None}


def _parse(answer: httpx2.Response) -> Any:
    if not answer.content:
        return None
    try:
        return answer.json()
    except ValueError as error:
        raise CliError(
            f"{answer.request.url} answered with something that is not JSON: is it Seaway's API?",
            hint="check SEAWAY_URL",
            code="not-the-api",
        ) from error


def _choose_authorities(target: Target) -> ssl.SSLContext | bool:
    if not target.authority:
        return target.url.startswith("https:")
    try:
        return ssl.create_default_context(cafile=target.authority)
    except ssl.SSLError as error:
        raise CliError(f"SEAWAY_CA: {target.authority} holds no certificates", hint="give a PEM file") from error


def _check(answer: httpx2.Response) -> None:
    """Raise the API's own error, or what can be said of an answer that is none of its."""
    if not answer.is_error:
        return
    try:
        error = answer.json()["error"]
        message, code = str(error["message"]), str(error.get("code") or "")
        field, hint = str(error.get("field") or ""), str(error.get("hint") or "")
    except (ValueError, KeyError, TypeError, AttributeError):
        _check_cluster(answer)
        words = f"{answer.status_code} {answer.reason_phrase}"
        if answer.status_code not in AWAY:
            raise CliError(
                f"{answer.request.url} answered {words}, and not as Seaway's API does: is it Seaway's API?",
                hint="check SEAWAY_URL",
                code="not-the-api",
            ) from None
        message, code, field, hint = f"the API answered {words}", "", "", ""
    if answer.status_code == 401 and not hint:
        hint = "set SEAWAY_TOKEN to a valid token (an admin makes one with `seaway tokens create`)"
    raise ApiError(answer.status_code, message, code=code, hint=hint, field=field)


def _check_cluster(answer: httpx2.Response) -> None:
    """Raise what the API server of a cluster says by itself: it did not let the request through to Seaway."""
    try:
        said = answer.json()
        if said["kind"] != "Status":
            return
        message = str(said["message"])
    except (ValueError, KeyError, TypeError):
        return
    hints = {
        401: "the kubeconfig's credentials are not good (any more): `kubectl get pods` would fail as well",
        403: "bind the Role seaway-user in Seaway's namespace to this user of the cluster",
        404: "Seaway is not there: `seaway install` puts it into the cluster, `seaway login` chooses another",
        503: "no replica of the control plane is ready: `kubectl get pods` in Seaway's namespace tells more",
    }
    hint = hints.get(answer.status_code, "")
    raise ApiError(answer.status_code, f"the cluster's API server says: {message}", code="cluster", hint=hint)


def _streamed_error(item: StreamItem) -> CliError:
    """Return the error that ended a stream; its status is told by its code."""
    value = item.json()
    error = value.get("error", {}) if isinstance(value, dict) else {}
    code = str(error.get("code") or "")
    status = 401 if code == "not-authenticated" else 404 if code == "not-found" else 503
    message, hint = str(error.get("message") or "the API ended the stream"), str(error.get("hint") or "")
    return ApiError(status, message, code=code, hint=hint)


async def _split_lines(answer: httpx2.Response) -> AsyncIterator[str]:
    """Split at newlines only: httpx2's own splitting also cuts at characters that JSON may hold unescaped."""
    rest = b""
    async for chunk in answer.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "replace").removesuffix("\r")
    if rest:
        yield rest.decode("utf-8", "replace")


async def _read_lines(answer: httpx2.Response) -> AsyncIterator[StreamItem]:
    async for line in _split_lines(answer):
        if line.strip():
            yield StreamItem("message", line)


async def _read_events(answer: httpx2.Response) -> AsyncIterator[StreamItem]:
    """Parse text/event-stream: event and data fields, comments ignored, a blank line ends an event."""
    event, data = "message", list[str]()
    async for line in _split_lines(answer):
        if not line:
            if data or event != "message":
                yield StreamItem(event, "\n".join(data))
            event, data = "message", []
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "event":
                event = value
            elif name == "data":
                data.append(value)

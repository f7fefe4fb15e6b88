"""The gate before every endpoint: who calls, how often, and how much is sent. Plain ASGI."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seaway.api.auth import Caller, authenticate, find_authorization
from seaway.api.callers import LONGEST_ADDRESS, check_rate
from seaway.api.deps import ApiDeps
from seaway.api.errors import ApiError, answer, translate
from seaway.builder.source import LARGEST_ARCHIVE
from seaway.control.serving import HEAD_LIMIT

JSON_LIMIT = 1 << 20  # bytes
SOURCES = "/v1/sources"

PUBLIC = frozenset({"/healthz", "/metrics", "/openapi.json", "/docs"})
"""Paths that need no token, and are answered however often they are asked for."""

CALLER = "seaway.caller"
"""Where the scope holds the Caller."""


class Guard:
    """Lets a request through once its token is known; ends it when its body grows too large."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        head = sum(len(name) + len(value) for name, value in scope["headers"]) + len(scope["query_string"])
        limit = LARGEST_ARCHIVE if scope["path"] == SOURCES else JSON_LIMIT
        try:
            if head > HEAD_LIMIT:
                message = f"the headers and the query of the request are larger than {HEAD_LIMIT >> 10} KiB"
                raise ApiError(431, "head-too-large", message, hint="send less of them, or in the body")
            if scope["path"] not in PUBLIC:
                scope[CALLER] = await _admit(scope, headers)
            announced = headers.get("content-length", "")
            if announced.isdecimal() and int(announced[:20]) > limit:
                raise too_large(limit)
        except Exception as error:
            await answer(translate(error))(scope, receive, send)
            return
        await self._app(scope, _limited(receive, limit), send)


async def _admit(scope: Scope, headers: Headers) -> Caller:
    """Return who calls, or raise ApiError: 401, or 429 if it calls too often.

    Who shows no good token is counted by address, and only then: from there others may come whose tokens are good.
    """
    deps = scope["app"].state.deps
    assert isinstance(deps, ApiDeps)
    rate = deps.settings.token_rate
    try:
        caller = await authenticate(deps.store, find_authorization(headers), deps.clock())
    except ApiError:
        address = scope["client"][0][:LONGEST_ADDRESS] if scope.get("client") else "unknown"
        check_rate(deps.rates, f"the address {address}, without a good token,", rate, deps.monotonic())
        raise
    check_rate(deps.rates, f"the token {caller.name!r}", rate, deps.monotonic())
    return caller


def too_large(limit: int) -> ApiError:
    """Return the error for a body over `limit` bytes."""
    size = f"{limit >> 20} MiB"
    hint = "leave files out with .seawayignore" if limit == LARGEST_ARCHIVE else "send less at once"
    return ApiError(413, "too-large", f"the body is larger than {size}", hint=hint)


def _limited(receive: Receive, limit: int) -> Receive:
    taken = 0

    async def receive_within() -> Message:
        nonlocal taken
        message = await receive()
        if message["type"] == "http.request":
            taken += len(message.get("body", b""))
            if taken > limit:
                raise too_large(limit)
        return message

    return receive_within

"""The gate before every endpoint: authentication first, then limits on the body. Plain ASGI."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seaway.api.auth import authenticate, find_authorization
from seaway.api.deps import ApiDeps
from seaway.api.errors import ApiError, answer, translate

JSON_LIMIT = 1 << 20  # bytes
SOURCE_LIMIT = 512 << 20  # bytes
SOURCES = "/v1/sources"

PUBLIC = frozenset({"/healthz", "/metrics", "/openapi.json", "/docs"})
"""Paths that need no token."""

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
        limit = SOURCE_LIMIT if scope["path"] == SOURCES else JSON_LIMIT
        try:
            if scope["path"] not in PUBLIC:
                deps = scope["app"].state.deps
                assert isinstance(deps, ApiDeps)
                scope[CALLER] = await authenticate(deps.store, find_authorization(headers), deps.clock())
            announced = headers.get("content-length", "")
            if announced.isdecimal() and int(announced[:20]) > limit:
                raise too_large(limit)
        except Exception as error:
            await answer(translate(error))(scope, receive, send)
            return
        await self._app(scope, _limited(receive, limit), send)


def too_large(limit: int) -> ApiError:
    """Return the error for a body over `limit` bytes."""
    size = f"{limit >> 20} MiB"
    hint = "leave files out with .seawayignore" if limit == SOURCE_LIMIT else "send less at once"
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

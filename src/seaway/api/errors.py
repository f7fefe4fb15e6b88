"""Errors of the API: one shape, a stable code, and always what would be right."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic_core import PydanticSerializationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from seaway.disk import NO_ROOM
from seaway.engine.base import EngineError, EngineUnavailable, StreamsGone
from seaway.model import Frozen
from seaway.registry.errors import RegistryError
from seaway.rollout.releases import ReleaseRefused
from seaway.store.base import (
    AlreadyExists,
    Conflict,
    Expired,
    NotFound,
    OutOfRoom,
    StoreError,
    Unavailable,
    Unreadable,
)  # fmt: skip

log = structlog.get_logger(__name__)

SHOWN_ERRORS = 5  # of one request; the rest would not be read

REFUSALS = {"no-such-release": 404, "no-such-config": 422, "does-not-fit": 422, "config-too-large": 422}
"""HTTP status per code of ReleaseRefused; 409 for all others: the app is not in a state to do it."""

CODES = {400: "bad-request", 401: "not-authenticated", 404: "no-such-path", 405: "method-not-allowed"}


class ErrorBody(Frozen):
    """What went wrong: a stable code for programs, a sentence for people, the field at fault, what to do next."""

    code: str
    message: str
    field: str | None = None
    hint: str | None = None


class ErrorAnswer(Frozen):
    """The body of every answer with a status of 400 or more."""

    error: ErrorBody


class ApiError(HTTPException):
    """Ends a request with an error answer."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        field: str | None = None,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.body = ErrorBody(code=code, message=message, field=field, hint=hint)


class AsciiJson(Response):
    """JSON in ASCII only, because messages may repeat input that has no UTF-8 form (lone surrogates)."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json.dumps(content).encode("ascii")


def answer(error: ApiError) -> Response:
    """Return the error as a response; absent fields are left out."""
    body = {"error": error.body.model_dump(exclude_none=True)}
    return AsciiJson(body, error.status_code, headers=dict(error.headers or {}))


def translate(error: Exception) -> ApiError:
    """Return what a client is told about an error of a part behind the API."""
    match error:
        case ApiError():
            return error
        case HTTPException():
            return _translate_http(error)
        case ReleaseRefused():
            return ApiError(REFUSALS.get(error.code, 409), error.code, error.message)
        case StoreError():
            return _translate_store(error)
        case EngineUnavailable():
            return _unavailable("engine-unavailable", f"the engine does not answer now: {error}")
        case RegistryError():
            return _unavailable("registry", str(error))
        case StreamsGone():
            return ApiError(409, "no-streams", str(error))
        case EngineError():
            return ApiError(409, "engine-refused", str(error))
        case UnicodeError() | PydanticSerializationError():
            return ApiError(422, "invalid", "the text has no form in UTF-8 (half of a surrogate pair)")
        case OSError() if error.errno in NO_ROOM:
            return disk_full("the platform's disk is full")
        case _:
            return _internal(error)


def disk_full(message: str) -> ApiError:
    """Return the error for what there is no room for."""
    return ApiError(507, "disk-full", message, hint="an operator has to free space below SEAWAY_HOME; `seaway status`")


def _translate_store(error: StoreError) -> ApiError:
    match error:
        case NotFound():
            return ApiError(404, "not-found", str(error))
        case Conflict():
            return ApiError(409, "conflict", "somebody else changed this at the same time", hint="try again")
        case AlreadyExists():
            return ApiError(409, "exists", str(error))
        case OutOfRoom():
            return disk_full("the platform's disk is full: nothing was changed")
        case Unavailable():
            return _unavailable("store-unavailable", "the store does not answer now")
        case Expired():
            hint = "begin again without `since`, with what there is now"
            return ApiError(410, "expired", "what has changed since is not known any more", field="since", hint=hint)
        case Unreadable():
            return ApiError(500, "unreadable", str(error))
        case _:
            return _internal(error)


def _internal(error: Exception) -> ApiError:
    log.error("request failed", exc_info=error)
    return ApiError(500, "internal", "an error inside Seaway; its control plane's log has the details")


def _translate_http(error: HTTPException) -> ApiError:
    """Return the error for one of the framework's own; it says of deep JSON only that it could not be parsed."""
    if error.status_code == 400 and isinstance(error.__cause__, (RecursionError, ValueError)):
        message = "the body cannot be read as JSON: it is nested too deeply, or holds a number of too many digits"
        return ApiError(400, "not-json", message, hint="send a plain JSON object")
    code = CODES.get(error.status_code, f"http-{error.status_code}")
    return ApiError(error.status_code, code, str(error.detail), headers=error.headers)


def install_handlers(api: FastAPI) -> None:
    """Make every error of `api` one of ours."""

    async def handle(_: Request, error: Exception) -> Response:
        return answer(translate(error))

    async def handle_input(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return answer(explain_input(error.errors()))

    for kind in (HTTPException, ReleaseRefused, StoreError, EngineError, RegistryError, OSError, Exception):
        api.add_exception_handler(kind, handle)
    api.add_exception_handler(RequestValidationError, handle_input)


def explain_input(errors: Iterable[Any]) -> ApiError:
    """Return the error for input that does not fit: 400 if it is not JSON at all, else 422 naming the fields."""
    listed = list(errors)
    first = listed[0]
    if first["type"] == "json_invalid":
        reason = (first.get("ctx") or {}).get("error", "")
        return ApiError(400, "not-json", f"the body is not JSON: {reason}".rstrip(": "), hint="send a JSON object")
    parts = [f"{field}: {problem}" if (field := _field(e)) else problem for e in listed if (problem := _problem(e))]
    shown = "; ".join(parts[:SHOWN_ERRORS])
    more = f"; and {len(parts) - SHOWN_ERRORS} more" if len(parts) > SHOWN_ERRORS else ""
    hint = None
    if first["type"] in {"model_attributes_type", "model_type", "dict_type"} and first["loc"] == ("body",):
        hint = "send a JSON object with Content-Type: application/json"
    return ApiError(422, "invalid", shown + more, field=_field(first) or None, hint=hint)


def _field(error: Mapping[str, Any]) -> str:
    return ".".join(str(part) for part in error["loc"][1:] if part != "[key]")


def _problem(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such field here"
    if error["type"] == "missing":
        return "is required" if len(error["loc"]) > 1 else "a JSON object is required as the body"
    message = str(error["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _unavailable(code: str, message: str) -> ApiError:
    return ApiError(503, code, message, hint="try again in a few seconds", headers={"Retry-After": "2"})

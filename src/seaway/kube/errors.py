"""What a Kubernetes API server answers instead of a result, as exceptions with a sentence each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import msgspec


class KubeError(Exception):
    """Base: the call did not do what was asked. `code` is the HTTP status, 0 without an answer."""

    def __init__(self, message: str, code: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class Misconfigured(KubeError):
    """The kubeconfig or the service account cannot be used; the message says what to do."""


class Unavailable(KubeError):
    """No answer, a late one, or "not now" (429, 5xx): whether anything changed is unknown."""


class NotFound(KubeError):
    """404: no such object, or no such kind in this cluster."""


class AlreadyExists(KubeError):
    """409: an object of that name exists (it may be on its way out)."""


class Conflict(KubeError):
    """409: the object was changed, or is another one, since it was read; apply: another manager owns the field."""


class Gone(KubeError):
    """410: the resource version or the continue token is too old; list again."""


class Denied(KubeError):
    """401 or 403: not known, or not allowed; also an exceeded quota."""


class Invalid(KubeError):
    """400, 413 or 422: the object itself is refused; the message names the fields."""


class Status(msgspec.Struct):
    """The fields used of a Kubernetes Status."""

    message: str = ""
    reason: str = ""
    code: int = 0


_status = msgspec.json.Decoder(Status)

_CLASSES: dict[int, type[KubeError]] = {
    400: Invalid, 401: Denied, 403: Denied, 404: NotFound, 409: Conflict, 410: Gone, 413: Invalid, 422: Invalid,
}  # fmt: skip


def error_of(status: Status, doing: str) -> KubeError:
    """Return the exception for a Status; `doing` says what was tried ("create Secret a/b")."""
    cls = _CLASSES.get(status.code, Unavailable if status.code == 429 or status.code >= 500 else KubeError)
    if status.reason == "AlreadyExists":
        cls = AlreadyExists
    elif status.reason in {"Expired", "Gone"}:
        cls = Gone
    # Newer servers answer a resource version of the future with 504 and this reason: not an outage.
    return cls(f"{doing}: {status.message or status.reason or status.code}", status.code, status.reason)


def parse_status(code: int, body: bytes) -> Status:
    """Read an error's body; what is no Status (a balancer's page) becomes one with its first line."""
    try:
        status = _status.decode(body)
    except (msgspec.DecodeError, msgspec.ValidationError):
        line = body[:200].decode("utf-8", "replace").strip().partition("\n")[0]
        return Status(message=f"HTTP {code} {line}".strip(), code=code)
    status.code = status.code or code
    return status


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn what lightkube and its HTTP client raise into KubeError; `doing` says what is tried."""
    try:
        yield
    except httpx2.HTTPStatusError as error:
        answer = getattr(error, "status", None)  # lightkube's ApiError, also from inside a stream
        if answer is not None:
            status = Status(answer.message or "", answer.reason or "", answer.code or 0)
        else:
            status = parse_status(error.response.status_code, error.response.content)
        raise error_of(status, doing) from error
    except httpx2.TimeoutException as error:
        raise Unavailable(f"{doing}: the API server did not answer in time ({type(error).__name__})") from error
    except httpx2.TransportError as error:
        detail = str(error) or type(error).__name__
        raise Unavailable(f"{doing}: the API server cannot be reached ({detail})") from error

"""What goes wrong, as one sentence, what to do next, and the exit code."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

SHOWN = 20  # things that are wrong with one command; of a file that is something else altogether, all are


class ExitCode(IntEnum):
    """The exit codes of every command (`run` returns its command's own)."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    NOT_ALLOWED = 4
    TIMED_OUT = 5
    INTERRUPTED = 130


class CliError(Exception):
    """Ends the command: `message` says what is wrong, `hint` what to do next; both go to stderr."""

    def __init__(
        self, message: str, *, hint: str = "", exit_code: int = ExitCode.FAILED, code: str = "failed", field: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = int(exit_code)
        self.code = code
        self.field = field
        self.as_json: bool | None = None  # set where the command's -o is known

    def document(self) -> dict[str, Any]:
        """Return the shape `-o json` prints, the API's own plus the exit code."""
        body: dict[str, Any] = {"code": self.code, "message": self.message, "exit_code": self.exit_code}
        if self.field:
            body["field"] = self.field
        if self.hint:
            body["hint"] = self.hint
        return {"error": body}


class UsageError(CliError):
    """The command line itself is wrong."""

    def __init__(self, message: str, *, hint: str = "", field: str = "") -> None:
        super().__init__(message, hint=hint, exit_code=ExitCode.USAGE, code="usage", field=field)


def join_errors(errors: Sequence[UsageError]) -> UsageError:
    """Return one error that tells all of them, each on a line of its own beyond the first."""
    first = errors[0]
    if len(errors) == 1:
        return first
    shown = "".join(f"\n- {error.message}" for error in errors[:SHOWN])
    more = f"\n- and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
    hint = next((error.hint for error in errors if error.hint), "")
    field = first.field if len({error.field for error in errors}) == 1 else ""
    return UsageError(f"{len(errors)} things are wrong, so nothing was done:{shown}{more}", hint=hint, field=field)


class ApiError(CliError):
    """The API answered with an error; `status` is the HTTP status."""

    def __init__(self, status: int, message: str, *, code: str = "", hint: str = "", field: str = "") -> None:
        super().__init__(message, hint=hint, field=field, exit_code=exit_code_of(status), code=code or f"http-{status}")
        self.status = status

    @property
    def passing(self) -> bool:
        """Whether the API says that it cannot answer just now (a part of the platform is restarting)."""
        return self.status in {502, 503, 504}


class Unreachable(CliError):
    """No answer from the API. `sent`: the request may have been taken all the same."""

    def __init__(self, url: str, why: str, *, sent: bool, local: bool) -> None:
        hint = (
            "start the platform with `seaway up -d`" if local else "check SEAWAY_URL and that the platform runs there"
        )
        super().__init__(f"Seaway's API at {url} does not answer ({why})", hint=hint, code="unreachable")
        self.sent = sent


class TimedOut(CliError):
    """The time given to the command is over; the platform goes on."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint, exit_code=ExitCode.TIMED_OUT, code="timed-out")


def exit_code_of(status: int) -> ExitCode:
    """Return the exit code for an HTTP error status: 400, 413 and 422 mean that the input was wrong."""
    known = {
        400: ExitCode.USAGE,
        401: ExitCode.NOT_ALLOWED,
        403: ExitCode.NOT_ALLOWED,
        404: ExitCode.NOT_FOUND,
        408: ExitCode.TIMED_OUT,
        413: ExitCode.USAGE,
        422: ExitCode.USAGE,
        504: ExitCode.TIMED_OUT,
    }
    return known.get(status, ExitCode.FAILED)

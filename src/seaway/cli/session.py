"""What every command shares: options, the session, and running an async command from a sync one."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, ParamSpec

import typer
from pydantic import TypeAdapter, ValidationError

from seaway.cli.client import Api
from seaway.cli.errors import CliError, UsageError
from seaway.cli.show import Output
from seaway.cli.target import find_target
from seaway.model import Seconds

P = ParamSpec("P")

_SECONDS: TypeAdapter[float] = TypeAdapter(Seconds)


def parse_seconds(text: str | float) -> float:
    """Parse a duration option: a number of seconds, or 500ms, 30s, 5m, 1h."""
    try:
        plain = isinstance(text, str) and text.replace(".", "", 1).isdecimal()
        return _SECONDS.validate_python(float(text) if plain else text)
    except ValidationError as error:
        raise typer.BadParameter(f"{text!r} is not a duration: write 90, 30s, 5m or 1h (at most 7 days)") from error


AppOption = Annotated[
    str | None, typer.Option("--app", "-a", metavar="APP", help="The app; may be left out inside its folder.")
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to print: for people or for programs.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Do it even if not as many instances fit; for admins.")]
NoWaitOption = Annotated[bool, typer.Option("--no-wait", help="Return at once; the platform goes on by itself.")]
TimeoutOption = Annotated[
    float,
    typer.Option(
        "--timeout", parser=parse_seconds, metavar="TIME", help="Stop waiting after this long (90, 30s, 5m, 1h)."
    ),
]


def command(function: Callable[P, Coroutine[None, None, None]]) -> Callable[P, None]:
    """Make a command of an async function; its errors are printed the way its -o says."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            asyncio.run(function(*args, **kwargs))
        except CliError as error:
            error.as_json = kwargs.get("output") is Output.JSON
            raise

    return run


@asynccontextmanager
async def connect() -> AsyncIterator[Api]:
    """Give a client for the platform's API."""
    async with Api(find_target()) as api:
        yield api


def parse_release(text: str) -> int:
    """Parse v3 or 3."""
    return _parse_number(text, "v", "release")


def parse_build(text: str) -> int:
    """Parse b7 or 7."""
    return _parse_number(text, "b", "build")


def _parse_number(text: str, prefix: str, noun: str) -> int:
    digits = text.lower().removeprefix(prefix)
    if not (digits.isascii() and digits.isdigit()) or int(digits) < 1 or len(digits) > 9:
        raise UsageError(f"{text!r} is not a {noun}: write {prefix}3 or 3", field=noun)
    return int(digits)

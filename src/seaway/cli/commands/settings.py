"""seaway config: list, set, unset; seaway routes: list, add, remove."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from seaway.cli.client import Doc
from seaway.cli.errors import UsageError
from seaway.cli.group import ListingGroup
from seaway.cli.releasing import release_and_wait
from seaway.cli.session import AppOption, NoWaitOption, OutputOption, TimeoutOption, command, connect
from seaway.cli.show import Output, dig, print_fields, print_json, print_table, print_text
from seaway.cli.target import find_app
from seaway.model import Route

KEY_PATTERN = r"[A-Za-z_][A-Za-z0-9_]*"

RouteArgument = Annotated[str, typer.Argument(metavar="HOST[/PATH]", help="For example shop.example.com/api.")]


def add(root: typer.Typer) -> None:
    """Add `config` and `routes` to the root command."""
    group = typer.Typer(cls=ListingGroup, help="Config: the environment of an app's processes.")
    group.command("list")(list_config)
    group.command("set")(set_config)
    group.command("unset")(unset_config)
    root.add_typer(group, name="config")
    routes = typer.Typer(cls=ListingGroup, help="Routes: the hosts and paths that lead to an app.")
    routes.command("list")(list_routes)
    routes.command("add")(add_route)
    routes.command("remove")(remove_route)
    root.add_typer(routes, name="routes")


@command
async def list_config(
    *,
    app: AppOption = None,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show the values; viewers may not.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """List an app's config; values are masked unless --reveal."""
    app = find_app(app)
    async with connect() as api:
        answer: Doc = await api.get(f"/apps/{app}/config", reveal=1 if reveal else None)
    if output is Output.JSON:
        print_json(answer)
        return
    values: Doc = dig(answer, "config", answer)
    if not values:
        print_text(f"{app} has no config: `seaway config set KEY=VALUE -a {app}` sets some")
    else:
        print_fields((key, str(value) or "(empty)") for key, value in sorted(values.items()))


@command
async def set_config(
    pairs: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY=VALUE...", help="KEY=VALUE, KEY=@FILE for a file's content, or - to read KEY=VALUE lines."
        ),
    ],
    *,
    app: AppOption = None,
    no_wait: NoWaitOption = False,
    timeout: TimeoutOption = 1800.0,
    output: OutputOption = Output.TEXT,
) -> None:
    """Set config values, all in one new release, and roll it out.

    Secrets need not be on the command line: `KEY=@FILE` reads a file (without one newline at its end; `KEY=@@x` sets
    the value `@x`), and `-` reads `KEY=VALUE` lines from standard input (blank lines and lines that begin with `#`
    are skipped).
    """
    values = parse_config(pairs)
    app = find_app(app)
    body = {"set": values, "unset": []}
    await release_and_wait(app, "PATCH", "/config", body, wait=not no_wait, timeout=timeout, output=output)


@command
async def unset_config(
    keys: Annotated[list[str], typer.Argument(metavar="KEY...", help="The keys to remove.")],
    *,
    app: AppOption = None,
    no_wait: NoWaitOption = False,
    timeout: TimeoutOption = 1800.0,
    output: OutputOption = Output.TEXT,
) -> None:
    """Remove config values, all in one new release, and roll it out."""
    for key in keys:
        _check_key(key, key)
    app = find_app(app)
    body = {"set": {}, "unset": keys}
    await release_and_wait(app, "PATCH", "/config", body, wait=not no_wait, timeout=timeout, output=output)


def parse_config(pairs: list[str]) -> dict[str, str]:
    """Parse what `config set` was given; errors name the key, never the value."""
    values: dict[str, str] = {}
    for number, pair in enumerate(pairs, 1):
        if pair == "-":
            values |= _parse_lines(sys.stdin.read())
            continue
        key, value = _split(pair, f"argument {number}")
        values[key] = _read_value(key, value) if value.startswith("@") else value
    if not values:
        raise UsageError("nothing to set: standard input had no KEY=VALUE lines", field="config")
    return values


def _parse_lines(text: str) -> dict[str, str]:
    lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip() and not line.startswith("#")]
    return dict(_split(line, f"line {number} of standard input") for number, line in lines)


def _split(pair: str, where: str) -> tuple[str, str]:
    key, equals, value = pair.partition("=")
    if not equals:
        raise UsageError(
            f"{where} is not KEY=VALUE: it has no =",
            hint="for example: seaway config set COLOUR=blue, or seaway config set - < secrets.env",
            field="config",
        )
    return _check_key(key, where), value


def _check_key(key: str, where: str) -> str:
    if not re.fullmatch(KEY_PATTERN, key):
        raise UsageError(
            f"{where}: {key!r} is not a config key: use letters, digits and _, not starting with a digit",
            field="config",
        )
    return key


def _read_value(key: str, value: str) -> str:
    if value.startswith("@@"):
        return value[1:]
    file = Path(value[1:])
    try:
        return file.read_text().removesuffix("\n")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise UsageError(
            f"{key}: the file {str(file)!r} cannot be read: {why}",
            hint=f"for a value that begins with @ write {key}=@@...",
            field=key,
        ) from error


@command
async def list_routes(*, app: AppOption = None, output: OutputOption = Output.TEXT) -> None:
    """List the routes that lead to an app."""
    app = find_app(app)
    async with connect() as api:
        routes: list[Doc] = await api.get(f"/apps/{app}/routes")
    if output is Output.JSON:
        print_json(routes)
        return
    rows = [(dig(r, "host", ""), dig(r, "path", "/"), dig(r, "source", "")) for r in routes]
    print_table(
        ("host", "path", "from"), rows, empty=f"{app} has no routes: `seaway routes add HOST -a {app}` adds one"
    )


@command
async def add_route(route: RouteArgument, *, app: AppOption = None, output: OutputOption = Output.TEXT) -> None:
    """Lead requests for a host (and a path below it) to an app."""
    wanted = parse_route(route)
    app = find_app(app)
    async with connect() as api:
        answer = await api.post(f"/apps/{app}/routes", wanted.model_dump(mode="json"))
    if output is Output.JSON:
        print_json(answer)
    else:
        print_text(f"{wanted} leads to {app}")


@command
async def remove_route(route: RouteArgument, *, app: AppOption = None, output: OutputOption = Output.TEXT) -> None:
    """Remove a route from an app."""
    wanted = parse_route(route)
    app = find_app(app)
    async with connect() as api:
        answer = await api.call("DELETE", f"/apps/{app}/routes", params=wanted.model_dump(mode="json"))
    if output is Output.JSON:
        print_json(answer if answer is not None else {"app": app, "removed": wanted.model_dump(mode="json")})
    else:
        print_text(f"{wanted} does not lead to {app} any more")


def parse_route(text: str) -> Route:
    """Parse HOST or HOST/PATH."""
    host, slash, path = text.partition("/")
    try:
        return Route(host=host, path=slash + path or "/")
    except ValidationError as error:
        problem = error.errors()[0]
        raise UsageError(
            problem["msg"].removeprefix("Value error, "),
            hint="for example: seaway routes add shop.example.com/api",
            field=str(problem["loc"][0]),
        ) from error

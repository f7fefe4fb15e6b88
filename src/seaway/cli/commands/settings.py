"""seaway config: list, get, set, unset; seaway routes: list, add, remove."""

from __future__ import annotations

import difflib
from typing import Annotated

import typer
from pydantic import ValidationError

from seaway.cli.client import Doc
from seaway.cli.errors import CliError, ExitCode, UsageError, join_errors
from seaway.cli.group import ListingGroup
from seaway.cli.releasing import release_and_wait
from seaway.cli.session import AppOption, NoWaitOption, OutputOption, TimeoutOption, command, connect
from seaway.cli.show import Output, dig, print_exactly, print_fields, print_json, print_note, print_table, print_text
from seaway.cli.target import find_app
from seaway.cli.values import check_keys, parse_config
from seaway.cli.words import quote
from seaway.model import Route
from seaway.model.environment import find_change

RouteArgument = Annotated[str, typer.Argument(metavar="HOST[/PATH]", help="For example shop.example.com/api.")]


def add(root: typer.Typer) -> None:
    """Add `config` and `routes` to the root command."""
    group = typer.Typer(cls=ListingGroup, help="Config: the environment of an app's processes.")
    group.command("list")(list_config)
    group.command("get")(get_config)
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
    """List an app's config; values are masked unless --reveal.

    A value that would not be plain on one line (newlines, control characters, blanks at its ends, nothing at all) is
    shown in quotes with escapes.
    """
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
        print_fields((key, quote(str(value))) for key, value in sorted(values.items()))


@command
async def get_config(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Which value.")],
    *,
    app: AppOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Print one value, and nothing else; viewers may not.

    To a pipe or a file exactly, so that `KEY=@FILE` sets it again. On a terminal a newline follows, and control
    characters, which a terminal would obey, are shown as their escapes.
    """
    app = find_app(app)
    async with connect() as api:
        answer: Doc = await api.get(f"/apps/{app}/config", reveal=1)
    values: dict[str, str] = dig(answer, "config", {})
    if key not in values:
        near = {name.upper(): name for name in values}
        close = [near[name] for name in difflib.get_close_matches(key.upper(), near, n=3)]
        hint = f"did you mean {' or '.join(close)}?" if close else f"`seaway config list -a {app}` shows what is set"
        raise CliError(
            f"{app} has no config value {key!r}", hint=hint, exit_code=ExitCode.NOT_FOUND, code="no-such-config",
            field=key,
        )  # fmt: skip
    if output is Output.JSON:
        print_json({"app": app, "key": key, "value": values[key]})
    else:
        print_exactly(values[key])


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

    Secrets need not be on the command line: `KEY=@FILE` takes a file exactly (`KEY=@@x` sets the value `@x`), and `-`
    reads the lines of a `.env` file from standard input: blank lines, comments (a line that begins with `#`, or what
    is behind a blank and `#`), `export KEY=...`, `KEY='as it is'`, `KEY="with \\n, \\t, \\", \\\\ and \\$"`; quotes may
    span lines. Without quotes the value goes to the end of its line. Nothing is put in for `${NAME}`: outside single
    quotes it is refused. All that is wrong is told at once, with the number of its line, and then nothing is set.
    """
    values = parse_config(pairs)
    app = find_app(app)
    _warn(values)
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
    check_keys(keys)
    app = find_app(app)
    body = {"set": {}, "unset": keys}
    await release_and_wait(app, "PATCH", "/config", body, wait=not no_wait, timeout=timeout, output=output)


def _warn(values: dict[str, str]) -> None:
    """Tell of values that change more than the app's own settings; they are set all the same."""
    for key in values:
        if change := find_change(key):
            print_note(f"note: {change}; `seaway config unset {key}` takes that back")


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
    """Parse HOST or HOST/PATH; raise UsageError that tells all that is wrong."""
    host, slash, path = text.partition("/")
    try:
        return Route(host=host, path=slash + path or "/")
    except ValidationError as error:
        hint = "for example: seaway routes add shop.example.com/api"
        raise join_errors(
            [
                UsageError(problem["msg"].removeprefix("Value error, "), hint=hint, field=str(problem["loc"][0]))
                for problem in error.errors()
            ]
        ) from error

"""seaway logs and seaway events: what happened, and what happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

import typer
from rich.text import Text

from seaway.cli.client import FIRST_PAUSE, LONGEST_PAUSE, Api, Doc, Patience
from seaway.cli.errors import ApiError, Unreachable
from seaway.cli.logline import Resume, format_line
from seaway.cli.session import AppOption, OutputOption, command, connect, parse_release
from seaway.cli.show import Output, age, console, dig, print_json, print_json_line, print_note, print_table
from seaway.cli.target import check_name, find_app

OVERLAP = 1000  # lines asked for again after an outage, to go on without a gap

FollowOption = Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes; Ctrl-C ends it.")]


def add(root: typer.Typer) -> None:
    """Add `logs` and `events` to the root command."""
    root.command("logs")(logs)
    root.command("events")(events)


@command
async def logs(
    *,
    app: AppOption = None,
    follow: FollowOption = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, max=100_000, help="How many from the end.")] = 100,
    process: Annotated[str | None, typer.Option("--process", "-p", help="Only of this process type.")] = None,
    release: Annotated[str | None, typer.Option("--release", metavar="RELEASE", help="Only of v3 (or 3).")] = None,
    instance: Annotated[str | None, typer.Option("--instance", metavar="ID", help="Only of this instance.")] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Print an app's logs, also of old releases and crashed instances. JSON: one object (ECS) on each line."""
    app = find_app(app)
    query = {
        "process": None if process is None else process.replace("_", "-"),  # celery_beat is called celery-beat
        "release": None if release is None else parse_release(release),
        "instance": instance,
    }
    out, printed = console(), False
    async with (
        connect() as api,
        aclosing(read_stream(api, f"/apps/{app}/logs", query, lines, follow=follow, time_field="@timestamp")) as stream,
    ):
        async for line in stream:
            printed = True
            if output is Output.JSON:
                print_json_line(line)
            else:
                for shown in format_line(line):
                    out.print(shown, soft_wrap=True)
                out.file.flush()
    if not printed and lines and output is Output.TEXT:
        chosen = ", ".join(f"{name} {value}" for name, value in query.items() if value is not None)
        print_note(f"{app} has no output" + (f" of {chosen}" if chosen else " yet"))


async def read_stream(
    api: Api, path: str, query: dict[str, Any], count: int, *, follow: bool, time_field: str
) -> AsyncGenerator[Doc, None]:
    """Yield the last `count` objects, then (following) what comes, across outages without gap or repetition."""
    patience, resume, pause = Patience(print_note), Resume(time_field, 2 * OVERLAP), FIRST_PAUSE
    connected, wanted = False, count
    while True:
        try:
            async with aclosing(api.stream(path, **query, n=wanted, follow=1 if follow else None)) as items:
                async for item in items:
                    line = item.json() if item.event != "end" else None
                    connected, pause = True, FIRST_PAUSE
                    if isinstance(line, dict) and resume.is_new(line, item.data):
                        yield line
            connected = True
            if not follow:
                return
        except (Unreachable, ApiError) as error:
            if not connected or (isinstance(error, ApiError) and not error.passing):
                raise
            patience.outage()
        resume.begin_again()
        wanted = count if resume.empty else max(count, OVERLAP)
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


@command
async def events(
    *,
    app: AppOption = None,
    follow: FollowOption = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, max=10_000, help="How many from the end.")] = 50,
    output: OutputOption = Output.TEXT,
) -> None:
    """Print what happened, why, and who or what did it: of one app (-a), or of all you may see."""
    query = {"app": None if app is None else check_name(app)}
    async with connect() as api:
        if not follow:
            _print_events(await api.get("/events", **query, n=lines), output)
            return
        out = console()
        stream = read_stream(api, "/events", query, lines, follow=True, time_field="spec.at")
        async with aclosing(stream) as items:
            async for event in items:
                if output is Output.JSON:
                    print_json_line(event)
                else:
                    out.print(_event_line(event), soft_wrap=True)
                    out.file.flush()


def _print_events(found: list[Doc], output: Output) -> None:
    if output is Output.JSON:
        print_json(found)
        return
    rows = [
        (age(dig(e, "spec.at")), dig(e, "spec.about", ""), dig(e, "spec.reason", ""), dig(e, "spec.by", ""),
         dig(e, "spec.message", ""))
        for e in found
    ]  # fmt: skip
    print_table(("when", "about", "reason", "by", "what"), rows, empty="no events")


def _event_line(event: Doc) -> Text:
    return Text.assemble(
        (f"{dig(event, 'spec.at', '')} ", "dim"),
        (f"{dig(event, 'spec.about', '')} ", "cyan"),
        f"{dig(event, 'spec.reason', '')}: {dig(event, 'spec.message', '')}",
        (f" (by {dig(event, 'spec.by', '')})", "dim"),
    )

"""seaway logs and seaway events: what happened, and what happens."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated

import typer
from rich.text import Text

from seaway.cli.client import Doc, Patience
from seaway.cli.logline import format_line
from seaway.cli.session import AppOption, OutputOption, command, connect, parse_release
from seaway.cli.show import Output, age, console, dig, print_json, print_json_line, print_note, print_table
from seaway.cli.streaming import read_stream
from seaway.cli.target import check_name, find_app

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
        aclosing(
            read_stream(
                api,
                f"/apps/{app}/logs",
                query,
                lines,
                follow=follow,
                time_field="@timestamp",
                patience=Patience(print_note),
            )
        ) as stream,
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
        stream = read_stream(
            api, "/events", query, lines, follow=True, time_field="spec.at", patience=Patience(print_note)
        )
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

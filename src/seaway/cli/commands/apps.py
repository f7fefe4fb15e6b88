"""seaway apps: list, create, info, destroy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seaway.cli.client import Doc
from seaway.cli.creating import create_app
from seaway.cli.errors import UsageError
from seaway.cli.group import ListingGroup
from seaway.cli.progress import show_progress
from seaway.cli.session import AppOption, NoWaitOption, OutputOption, TimeoutOption, command, connect
from seaway.cli.show import (
    Output,
    age,
    dig,
    print_fields,
    print_json,
    print_note,
    print_table,
    print_text,
    traffic,
    version,
)
from seaway.cli.show import state as coloured
from seaway.cli.target import LINK_FILE, find_app, link_folder
from seaway.cli.waiting import Waiter, limit

NameArgument = Annotated[str | None, typer.Argument(metavar="NAME", help="The app; the same as -a.")]


def add(root: typer.Typer) -> None:
    """Add `apps` to the root command."""
    group = typer.Typer(cls=ListingGroup, help="Apps: list, create, look at, destroy.")
    group.command("list")(list_apps)
    group.command("create")(create)
    group.command("info")(info)
    group.command("destroy")(destroy)
    root.add_typer(group, name="apps")


@command
async def list_apps(*, output: OutputOption = Output.TEXT) -> None:
    """List the apps you may see."""
    async with connect() as api:
        apps: list[Doc] = await api.get("/apps")
    if output is Output.JSON:
        print_json(apps)
        return
    rows = [
        (dig(a, "meta.name"), coloured(dig(a, "status.state", "")), version(dig(a, "status.current")), traffic(a),
         dig(a, "spec.team", ""), age(dig(a, "meta.created_at")))
        for a in apps
    ]  # fmt: skip
    print_table(
        ("app", "state", "release", "traffic", "team", "created"),
        rows,
        empty="no apps yet: create one with `seaway apps create NAME`",
    )


@command
async def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="1 to 30 lower-case letters, digits, single hyphens.")],
    *,
    team: Annotated[str | None, typer.Option("--team", help="The team it belongs to; by default the token's.")] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Create an app. In a folder that looks like an app's, the folder is linked to it (file `.seaway`)."""
    async with connect() as api:
        app = await create_app(api, name, team)
    linked = link_folder(Path.cwd(), name)
    if output is Output.JSON:
        print_json(app)
        return
    print_text(f"created {name}" + (f"; this folder is linked to it ({LINK_FILE})" if linked else ""))
    print_note(f"next: seaway deploy{'' if linked else f' PATH -a {name}'}")


@command
async def info(name: NameArgument = None, *, app: AppOption = None, output: OutputOption = Output.TEXT) -> None:
    """Show an app: its state and why, what serves, routes and scale."""
    app = _named(name, app)
    async with connect() as api:
        doc: Doc = await api.get(f"/apps/{app}")
    if output is Output.JSON:
        print_json(doc)
        return
    routes = [_route_text(route) for route in dig(doc, "spec.routes", [])]
    print_fields(
        (
            ("app", dig(doc, "meta.name", app)),
            ("state", coloured(dig(doc, "status.state", ""))),
            ("why", dig(doc, "status.reason", "")),
            ("release", version(dig(doc, "status.current"))),
            ("traffic", traffic(doc)),
            ("url", dig(doc, "url", "")),
            ("routes", ", ".join(routes)),
            ("scale", " ".join(f"{k}={v}" for k, v in sorted(dig(doc, "spec.scale", {}).items()))),
            ("team", dig(doc, "spec.team", "")),
            ("created", age(dig(doc, "meta.created_at"))),
        )
    )


def _route_text(route: Doc) -> str:
    path = dig(route, "path", "/")
    return str(dig(route, "host", "")) + ("" if path == "/" else str(path))


@command
async def destroy(
    name: NameArgument = None,
    *,
    app: AppOption = None,
    confirm: Annotated[str | None, typer.Option("--confirm", metavar="NAME", help="The app's name, again.")] = None,
    no_wait: NoWaitOption = False,
    timeout: TimeoutOption = 300.0,
    output: OutputOption = Output.TEXT,
) -> None:
    """Destroy an app: its instances, releases, config and routes. There is no way back."""
    app = _named(name, app)
    if confirm != app:
        said = "--confirm is missing" if confirm is None else f"--confirm says {confirm!r}, the app is {app!r}"
        raise UsageError(
            f"this destroys {app} with all its releases and config, and {said}",
            hint=f"seaway apps destroy {app} --confirm {app}",
            field="confirm",
        )
    async with connect() as api:
        answer = await api.call("DELETE", f"/apps/{app}", params={"confirm": confirm})
        if not no_wait:
            with show_progress(quiet=output is Output.JSON) as progress:
                goes_on, hint = f"the end of {app}", f"seaway apps info {app}"
                async with limit(timeout, progress, what=goes_on, cancel=hint):
                    await Waiter(api, app, progress).follow_destroy()
    if output is Output.JSON:
        print_json(answer if answer is not None else {"app": app, "result": "destroying" if no_wait else "destroyed"})
    else:
        print_text(f"{app} is being destroyed" if no_wait else f"destroyed {app}")


def _named(name: str | None, app: str | None) -> str:
    if name and app and name != app:
        raise UsageError(f"which app: {name!r} or -a {app!r}?", field="app")
    return find_app(name or app)

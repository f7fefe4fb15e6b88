"""The `seaway` command, put together."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import Annotated

import typer

from seaway.cli.commands import (
    access,
    apps,
    cluster,
    deploys,
    install,
    oneoff,
    platform,
    processes,
    releases,
    settings,
    watching,
)
from seaway.cli.commands.install import InstallCommands
from seaway.cli.commands.platform import PlatformCommands
from seaway.cli.group import RootGroup


def build_cli(platform_commands: PlatformCommands, install_commands: InstallCommands) -> typer.Typer:
    """Return the whole command line; the commands given do what needs the platform's own parts."""
    app = typer.Typer(
        name="seaway",
        cls=RootGroup,
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    platform.add(app, platform_commands)
    install.add(app, install_commands)
    for module in (apps, deploys, releases, processes, settings, watching, oneoff, access, cluster):
        module.add(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"seaway {installed_version('seaway')}")
        raise typer.Exit


def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Run a team's apps as numbered releases and drop no request while anything changes.

    Commands may be written with a space or a colon: `seaway config set`, `seaway config:set`.
    """

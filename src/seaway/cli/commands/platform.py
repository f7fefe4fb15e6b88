"""seaway up, down, status, and the hidden commands that are Seaway's own processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from rich.text import Text

from seaway.cli.client import Api, Doc
from seaway.cli.errors import ApiError, CliError, ExitCode, Unreachable, UsageError, join_errors
from seaway.cli.quotas import (
    AppInstancesOption,
    AppMemoryOption,
    TeamAppsOption,
    TeamInstancesOption,
    TeamMemoryOption,
    TokenRateOption,
    TrustedProxiesOption,
)
from seaway.cli.session import OutputOption, parse_seconds
from seaway.cli.show import Cell, Output, age, dig, plural, print_fields, print_json, print_table, print_text
from seaway.cli.show import state as coloured
from seaway.cli.target import find_target
from seaway.disk import judge, read_disk
from seaway.home import Home, Settings
from seaway.model.problems import say_problem

AT_ONCE = 3.0  # seconds for the API to say how things are; it takes less, whatever else does not answer


@dataclass(frozen=True)
class Part:
    """One of Seaway's own processes on this machine, as the supervisor's files tell it."""

    name: str  # "supervisor", "control", "node", "router-0", ...
    state: str  # "running", "restarting", "stopped", ...
    pid: int | None = None
    started_at: datetime | None = None
    reason: str = ""
    url: str = ""

    def document(self) -> dict[str, Any]:
        """Return the part for `-o json`."""
        started = self.started_at.isoformat() if self.started_at else None
        return {
            "name": self.name, "pid": self.pid, "state": self.state, "started_at": started, "reason": self.reason,
            "url": self.url,
        }  # fmt: skip


@dataclass(frozen=True)
class PlatformCommands:
    """What the composition root gives the command line; every int is an exit code.

    They may raise CliError for people to read.
    """

    up: Callable[[Settings, bool], int]  # settings, detach
    down: Callable[[float], int]  # seconds to wait for everything to stop; not 0: something ran
    status_local: Callable[[], Sequence[Part]]
    control: Callable[[], int | None]
    node: Callable[[], int | None]
    router: Callable[[str], int | None]
    supervise: Callable[[], int | None]


def add(root: typer.Typer, platform: PlatformCommands) -> None:
    """Add the commands to the root command."""
    root.command("up")(_make_up(platform))
    root.command("down")(_make_down(platform))
    root.command("status")(_make_status(platform))
    _add_processes(root, platform)


def _make_up(platform: PlatformCommands) -> Callable[..., None]:
    def up(
        *,
        detach: Annotated[
            bool, typer.Option("--detach", "-d", help="Return when it runs; go on in the background.")
        ] = False,
        http_port: Annotated[int | None, typer.Option("--http-port", help="Where apps are reached. [8080]")] = None,
        api_port: Annotated[int | None, typer.Option("--api-port", help="Where the API is. [8700]")] = None,
        domain: Annotated[str | None, typer.Option("--domain", help="Apps are at APP.DOMAIN. [localhost]")] = None,
        routers: Annotated[int | None, typer.Option("--routers", metavar="N", help="How many routers. [1]")] = None,
        trusted_proxies: TrustedProxiesOption = None,
        app_instances: AppInstancesOption = None,
        team_instances: TeamInstancesOption = None,
        app_memory: AppMemoryOption = None,
        team_memory: TeamMemoryOption = None,
        team_apps: TeamAppsOption = None,
        token_rate: TokenRateOption = None,
        output: OutputOption = Output.TEXT,
    ) -> None:
        """Start the platform on this machine, with all apps as they were.

        Options that are not given are as in the last `seaway up`.
        """
        given = {
            "http_port": http_port, "api_port": api_port, "domain": domain, "routers": routers,
            "trusted_proxies": trusted_proxies,
            "app_instances": app_instances, "team_instances": team_instances,
            "app_memory": app_memory, "team_memory": team_memory, "team_apps": team_apps, "token_rate": token_rate,
        }  # fmt: skip
        settings = merge_settings(given)
        code = platform.up(settings, detach)
        if detach and code == ExitCode.DONE:
            _print_up(settings, output)
        raise typer.Exit(code)

    return up


def _print_up(settings: Settings, output: Output) -> None:
    apps, api = f"http://APP.{settings.domain}:{settings.http_port}/", f"http://{settings.bind}:{settings.api_port}/"
    home = Home.find().root
    warnings = list_warnings(asyncio.run(_ask_api()))
    if output is Output.JSON:
        result = {"result": "up", "apps": apps, "api": api, "home": str(home), "routers": settings.routers}
        print_json({**result, "warnings": warnings})
    else:
        for warning in warnings:
            print_text(f"warning: {warning}")
        print_text(f"Seaway is up: apps at {apps}, API at {api}, home {home}")


def list_warnings(api: Doc) -> list[str]:
    """Return what people should know of the platform though it works, from what the API says of it."""
    found = []
    for node in dig(api, "engine.nodes", []):
        for field, what in (("unprotected", "not protected from each other"), ("unlimited", "not limited in all")):
            if why := dig(node, field, ""):
                found.append(f"apps on {dig(node, 'name', '')} are {what}: {why}")
    if why := dig(api, "disk.reason", ""):
        found.append(why)
    return found


def merge_settings(given: dict[str, Any]) -> Settings:
    """Return the last settings with what is given (not None) in their place; raise UsageError naming the option."""
    try:
        last = Home.find().read_settings()
    except (ValidationError, OSError) as error:
        raise CliError(
            f"the settings in {Home.find().root} cannot be read", hint="correct or remove settings.json there"
        ) from error
    try:
        return Settings.model_validate(last.model_dump() | {k: v for k, v in given.items() if v is not None})
    except ValidationError as error:
        raise join_errors([_explain_option(problem, given) for problem in error.errors()]) from error


def _explain_option(problem: ErrorDetails, given: Mapping[str, Any]) -> UsageError:
    name = str(problem["loc"][0])
    option = "--" + name.replace("_", "-")
    typed = given.get(name) if len(problem["loc"]) == 1 else None  # else it is one of several
    return UsageError(f"{option}: {say_problem(problem, typed)}", field=option)


def _make_down(platform: PlatformCommands) -> Callable[..., None]:
    def down(
        *,
        timeout: Annotated[
            float, typer.Option("--timeout", parser=parse_seconds, metavar="TIME", help="How long it may take.")
        ] = 60.0,
        output: OutputOption = Output.TEXT,
    ) -> None:
        """Stop the platform and all apps; `seaway up` brings everything back as it was."""
        stopped, home = platform.down(timeout), Home.find().root
        if output is Output.JSON:
            print_json({"result": "down" if stopped else "not-running", "home": str(home)})
        else:
            print_text("Seaway is down; `seaway up` brings every app back" if stopped else f"nothing runs on {home}")

    return down


def _make_status(platform: PlatformCommands) -> Callable[..., None]:
    def status(*, output: OutputOption = Output.TEXT) -> None:
        """Show the parts of the platform, also when its API is down. Exit code 1 if anything does not run."""
        parts = platform.status_local()
        try:
            api = asyncio.run(_ask_api())
        except CliError as error:
            error.as_json = output is Output.JSON
            raise
        if output is Output.JSON:
            print_json({"parts": [part.document() for part in parts], "api": api})
        else:
            _print_status(parts, api)
        fine = dig(api, "reachable", False) and all(part.state == "running" for part in parts)
        raise typer.Exit(ExitCode.DONE if fine else ExitCode.FAILED)

    return status


async def _ask_api() -> Doc:
    """Return {"url", "reachable", "error"?} and what the API says of the platform, at once: that it is away is news."""
    url = find_target().url
    async with Api(find_target(), patience=0, within=AT_ONCE) as api:
        try:
            async with asyncio.timeout(AT_ONCE):  # in all, in however many pieces an answer comes
                answer: Doc = await api.get("/status")
        except TimeoutError:
            error: CliError = Unreachable(url, f"not within {AT_ONCE:g} s", sent=True, local=find_target().local)
        except (Unreachable, ApiError) as failed:
            error = failed
        else:
            return {**answer, "url": url, "reachable": True}
    return {"url": url, "reachable": False, **error.document(), "disk": {"reason": _look_at_disk()}}


def _look_at_disk() -> str:
    """Return what is wrong with the disk of the home on this machine, which may be why nothing answers; or ""."""
    home = Home.find().root
    if not find_target().local or not home.is_dir():
        return ""
    disk = read_disk(home)
    return str(disk) if judge(disk) else ""


def _print_status(parts: Sequence[Part], api: Doc) -> None:
    rows = [
        (part.name, coloured(part.state), str(part.pid or "-"), age(part.started_at).removesuffix(" ago"), part.url,
         part.reason)
        for part in parts
    ]  # fmt: skip
    if rows:
        print_table(("part", "state", "pid", "up", "url", "why"), rows, empty="")
        print_text()
    elif find_target().local:
        print_text("no part of Seaway runs on this machine: start it with `seaway up -d`")
        print_text()
    print_fields(_describe_api(api))


def _describe_api(api: Doc) -> Iterator[tuple[str, Cell]]:
    """Yield what the API says of the platform at a glance."""
    yield "api", Text.assemble(f"{api['url']} ", coloured("ok" if dig(api, "reachable", False) else "down"))
    yield "why", dig(api, "error.message", "")
    if not dig(api, "reachable", False):
        if why := dig(api, "disk.reason", ""):
            yield "warning", why
        return
    yield "version", dig(api, "version", "")
    port = dig(api, "http_port", 80)
    yield "apps at", f"http://APP.{dig(api, 'domain', '')}{'' if port == 80 else f':{port}'}/"
    states = ", ".join(f"{count} {word}" for word, count in sorted(dig(api, "app_states", {}).items()))
    yield "apps", f"{dig(api, 'apps', 0)}" + (f" ({states})" if states else "")
    nodes = [
        f"{dig(n, 'name', '')} {'ready' if dig(n, 'ready', False) else 'not ready'}"
        for n in dig(api, "engine.nodes", [])
    ]
    yield (
        "engine",
        dig(api, "engine.reason", "") or f"{plural(dig(api, 'engine.instances', 0), 'instance')} on {', '.join(nodes)}",
    )
    routers = [
        f"{dig(r, 'name', '')} {'connected' if dig(r, 'connected', False) else 'not connected'}"
        for r in dig(api, "routers", [])
    ]
    yield "routers", ", ".join(routers) or "none has connected yet"
    for warning in list_warnings(api):
        yield "warning", warning


def _add_processes(root: typer.Typer, platform: PlatformCommands) -> None:
    def control() -> None:
        """Run the control plane (started by `seaway up`)."""
        raise typer.Exit(platform.control() or 0)

    def node() -> None:
        """Run the node agent (started by `seaway up`)."""
        raise typer.Exit(platform.node() or 0)

    def router(name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
        """Run a router (started by `seaway up`)."""
        raise typer.Exit(platform.router(name) or 0)

    def supervise() -> None:
        """Run the supervisor (started by `seaway up -d`)."""
        raise typer.Exit(platform.supervise() or 0)

    for name, function in (("control", control), ("node", node), ("router", router), ("supervise", supervise)):
        root.command(name, hidden=True)(function)

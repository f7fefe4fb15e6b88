"""seaway releases, rollback and rollouts."""

from __future__ import annotations

from typing import Annotated

import typer

from seaway.cli.client import Api, Doc
from seaway.cli.errors import CliError, ExitCode
from seaway.cli.group import ListingGroup
from seaway.cli.releasing import release_and_wait
from seaway.cli.session import AppOption, NoWaitOption, OutputOption, TimeoutOption, command, connect, parse_release
from seaway.cli.show import (
    Output,
    age,
    dig,
    print_fields,
    print_json,
    print_table,
    print_text,
    short_image,
    version,
)
from seaway.cli.show import state as coloured
from seaway.cli.target import find_app
from seaway.model import ENDED, Phase
from seaway.model.base import say_bytes

ReleaseArgument = Annotated[str, typer.Argument(metavar="RELEASE", help="v3 or 3.")]
RolloutArgument = Annotated[
    str | None, typer.Argument(metavar="RELEASE", help="v3 or 3; by default the newest rollout that has not ended.")
]


def add(root: typer.Typer) -> None:
    """Add `releases`, `rollback` and `rollouts` to the root command."""
    group = typer.Typer(cls=ListingGroup, help="Releases: list them, look at one, compare two.")
    group.command("list")(list_releases)
    group.command("info")(info)
    group.command("diff")(diff)
    root.add_typer(group, name="releases")
    root.command("rollback")(rollback)
    moves = typer.Typer(cls=ListingGroup, help="Rollouts: how traffic moves to a release; steer it.")
    moves.command("list")(list_rollouts)
    moves.command("show")(show)
    moves.command("pause")(pause)
    moves.command("resume")(resume)
    moves.command("promote")(promote)
    moves.command("cancel")(cancel)
    root.add_typer(moves, name="rollouts")


@command
async def list_releases(*, app: AppOption = None, output: OutputOption = Output.TEXT) -> None:
    """List an app's releases, newest first, and which serves, failed, or is on its way."""
    app = find_app(app)
    async with connect() as api:
        releases: list[Doc] = await api.get(f"/apps/{app}/releases")
        if output is Output.JSON:
            print_json(releases)
            return
        current = dig(await api.get(f"/apps/{app}"), "status.current")
        rollouts: list[Doc] = await api.get(f"/apps/{app}/rollouts")
    marks = {dig(r, "spec.target"): _phase(r) for r in rollouts if dig(r, "status.phase") != Phase.SUCCEEDED}
    marks[current] = "serving"
    rows = [
        (version(dig(r, "spec.number")), coloured(marks.get(dig(r, "spec.number"), "")),
         short_image(dig(r, "spec.image")), age(dig(r, "meta.created_at")), dig(r, "spec.by", ""),
         dig(r, "spec.description", ""))
        for r in sorted(releases, key=lambda r: -int(dig(r, "spec.number", 0)))
    ]  # fmt: skip
    print_table(
        ("release", "", "image", "created", "by", "what"),
        rows,
        empty=f"{app} has no releases: `seaway deploy` makes one",
    )


@command
async def info(release: ReleaseArgument, *, app: AppOption = None, output: OutputOption = Output.TEXT) -> None:
    """Show one release: image, processes, config keys and where it came from."""
    app = find_app(app)
    async with connect() as api:
        doc: Doc = await api.get(f"/apps/{app}/releases/{parse_release(release)}")
    if output is Output.JSON:
        print_json(doc)
        return
    spec = doc["spec"]
    processes = [(name, describe_process(process)) for name, process in dig(spec, "processes", {}).items()]
    print_fields(
        (
            ("release", version(dig(spec, "number"))),
            ("what", dig(spec, "description", "")),
            ("created", f"{age(dig(doc, 'meta.created_at'))} by {dig(spec, 'by', 'unknown')}"),
            ("image", dig(spec, "image", "none: this release holds config only")),
            ("build", str(dig(spec, "build", "")).rpartition(".")[2]),
            ("copies", "" if dig(spec, "copies") is None else version(dig(spec, "copies"))),
            ("strategy", dig(spec, "rollout.strategy", "")),
            ("config", ", ".join(sorted(dig(spec, "config", {})))),
            ("release cmd", dig(spec, "release_command", "")),
            *processes,
        )
    )


def describe_process(process: Doc) -> str:
    """Return its command and the limits that its instances have."""
    amounts, counts = (
        [(name, value) for name in names if (value := dig(process, name))]
        for names in (("memory", "disk"), ("cpu", "pids"))
    )
    limits = [f"{name} {say_bytes(value)}" for name, value in amounts]
    limits += [f"{name} {value:g}" for name, value in counts]
    return str(dig(process, "command", "")) + (f"  ({', '.join(limits)})" if limits else "")


@command
async def diff(
    old: ReleaseArgument, new: ReleaseArgument, *, app: AppOption = None, output: OutputOption = Output.TEXT
) -> None:
    """Show what changed from one release to another; config values are masked."""
    app = find_app(app)
    a, b = parse_release(old), parse_release(new)
    async with connect() as api:
        answer: Doc = await api.get(f"/apps/{app}/releases/{a}/diff/{b}")
    if output is Output.JSON:
        print_json(answer)
        return
    rows = [(dig(c, "field", ""), str(dig(c, "from", "-")), str(dig(c, "to", "-"))) for c in dig(answer, "changes", [])]
    print_table(("field", version(a), version(b)), rows, empty=f"{version(a)} and {version(b)} do not differ")


@command
async def rollback(
    to: Annotated[
        str | None, typer.Argument(metavar="RELEASE", help="v3 or 3; by default the one that served before.")
    ] = None,
    *,
    app: AppOption = None,
    no_wait: NoWaitOption = False,
    timeout: TimeoutOption = 1800.0,
    output: OutputOption = Output.TEXT,
) -> None:
    """Go back to an earlier release, as a new release that copies it."""
    app = find_app(app)
    body = {} if to is None else {"to": parse_release(to)}
    await release_and_wait(app, "POST", "/rollback", body, wait=not no_wait, timeout=timeout, output=output)


@command
async def list_rollouts(*, app: AppOption = None, output: OutputOption = Output.TEXT) -> None:
    """List an app's rollouts, newest first."""
    app = find_app(app)
    async with connect() as api:
        rollouts: list[Doc] = await api.get(f"/apps/{app}/rollouts")
    if output is Output.JSON:
        print_json(rollouts)
        return
    rows = [
        (version(dig(r, "spec.target")), version(dig(r, "status.base")), coloured(_phase(r)),
         age(dig(r, "meta.created_at")), dig(r, "status.reason", ""))
        for r in sorted(rollouts, key=lambda r: -int(dig(r, "spec.target", 0)))
    ]  # fmt: skip
    print_table(
        ("to", "from", "phase", "started", "why"), rows, empty=f"{app} has no rollouts: `seaway deploy` makes one"
    )


def _phase(rollout: Doc) -> str:
    return "paused" if dig(rollout, "spec.paused", False) and not _ended(rollout) else dig(rollout, "status.phase", "")


def _ended(rollout: Doc) -> bool:
    return dig(rollout, "status.phase") in ENDED


@command
async def show(release: RolloutArgument = None, *, app: AppOption = None, output: OutputOption = Output.TEXT) -> None:
    """Show one rollout: where it is, why, and every phase it went through."""
    app = find_app(app)
    async with connect() as api:
        rollout: Doc = await api.get(f"/apps/{app}/rollouts/{await _find_rollout(api, app, release)}")
    if output is Output.JSON:
        print_json(rollout)
        return
    print_fields(
        (
            ("rollout", f"{version(dig(rollout, 'status.base'))} to {version(dig(rollout, 'spec.target'))}"),
            ("strategy", dig(rollout, "spec.strategy", "")),
            ("phase", coloured(_phase(rollout))),
            ("why", dig(rollout, "status.reason", "")),
            ("deadline", str(dig(rollout, "status.deadline", ""))),
        )
    )
    history = dig(rollout, "status.history", [])
    if history:
        print_text()
        rows = [(age(dig(s, "at")), coloured(dig(s, "phase", "")), dig(s, "reason", "")) for s in history]
        print_table(("when", "phase", "why"), rows, empty="")


@command
async def pause(release: RolloutArgument = None, *, app: AppOption = None, output: OutputOption = Output.TEXT) -> None:
    """Hold a rollout where it is."""
    await _steer(app, release, "pause", "is paused", output)


@command
async def resume(release: RolloutArgument = None, *, app: AppOption = None, output: OutputOption = Output.TEXT) -> None:
    """Let a paused rollout go on."""
    await _steer(app, release, "resume", "goes on", output)


@command
async def promote(
    release: RolloutArgument = None, *, app: AppOption = None, output: OutputOption = Output.TEXT
) -> None:
    """Skip the rest of the waiting: the old release is not kept any longer."""
    await _steer(app, release, "promote", "is promoted", output)


@command
async def cancel(release: RolloutArgument = None, *, app: AppOption = None, output: OutputOption = Output.TEXT) -> None:
    """Cancel a rollout: traffic and config go back to what served before."""
    await _steer(app, release, "cancel", "is being cancelled", output)


async def _steer(app: str | None, release: str | None, verb: str, said: str, output: Output) -> None:
    app = find_app(app)
    async with connect() as api:
        number = await _find_rollout(api, app, release)
        answer = await api.post(f"/apps/{app}/rollouts/{number}/{verb}")
    if output is Output.JSON:
        print_json(answer)
    else:
        print_text(f"the rollout of {version(number)} {said}")


async def _find_rollout(api: Api, app: str, release: str | None) -> int:
    """Return the number given, or of the newest rollout under way (oldest queued last), or of the newest."""
    if release is not None:
        return parse_release(release)
    rollouts: list[Doc] = await api.get(f"/apps/{app}/rollouts")
    if not rollouts:
        raise CliError(
            f"{app} has no rollouts", hint="`seaway deploy` makes one", exit_code=ExitCode.NOT_FOUND, code="no-rollout"
        )
    under_way = [r for r in rollouts if not _ended(r)]
    return max(int(dig(r, "spec.target", 0)) for r in under_way or rollouts)

"""seaway ps: list, scale, restart, stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated
from urllib.parse import quote

import typer

from seaway.cli.client import Doc
from seaway.cli.errors import UsageError, join_errors
from seaway.cli.group import ListingGroup
from seaway.cli.outcome import bring_release
from seaway.cli.progress import Progress, show_progress
from seaway.cli.releasing import release_and_wait
from seaway.cli.session import AppOption, ForceOption, NoWaitOption, OutputOption, TimeoutOption, command, connect
from seaway.cli.show import Cell, Output, age, dig, print_json, print_note, print_table, print_text, size, version
from seaway.cli.show import state as coloured
from seaway.cli.target import find_app
from seaway.cli.waiting import Waiter, limit
from seaway.model.base import name_process

MOST = 1000  # instances of a process; the API's own limit
LACKING = frozenset({"deploying", "degraded", "down"})  # states of an app whose reason says what is missing


def add(root: typer.Typer) -> None:
    """Add `ps` to the root command."""
    group = typer.Typer(cls=ListingGroup, help="Processes: list instances, scale, restart, stop.")
    group.command("list")(list_instances)
    group.command("scale")(scale)
    group.command("restart")(restart)
    group.command("stop")(stop)
    root.add_typer(group, name="ps")


@command
async def list_instances(*, app: AppOption = None, output: OutputOption = Output.TEXT) -> None:
    """List an app's instances: state, age, restarts, CPU and memory, and why; below, what the app still lacks.

    As text also the commands of `seaway run` that run now.
    """
    app = find_app(app)
    async with connect() as api:
        instances: list[Doc] = await api.get(f"/apps/{app}/instances")
        if output is Output.JSON:
            print_json(instances)
            return
        status = dig(await api.get(f"/apps/{app}"), "status", {})
        tasks: list[Doc] = await api.get(f"/apps/{app}/run")
    rows: list[tuple[Cell, ...]] = [
        (dig(i, "key.process", ""), version(dig(i, "key.release")), short_id(dig(i, "id", "")), coloured(_state(i)),
         age(dig(i, "started_at")), str(dig(i, "restarts", 0)), measured(dig(i, "cpu"), "{:.2f}".format),
         measured(dig(i, "memory"), size), dig(i, "node", ""), dig(i, "drain_reason", "") or dig(i, "reason", ""))
        for i in sorted(instances, key=_order)
    ]  # fmt: skip
    rows += [_task_row(task) for task in tasks if not dig(task, "done", False)]
    print_table(
        ("process", "release", "instance", "state", "started", "restarts", "cpu", "memory", "node", "why"),
        rows,
        empty=f"{app} has no instances: `seaway deploy` starts some, `seaway ps scale web=1 -a {app}` sets how many",
    )
    if status.get("webless"):
        print_note(f"{app} takes no requests: {version(status.get('current'))} has no web process")
    if status.get("state") in LACKING:
        print_note(f"{app} is {status['state']}: {status.get('reason', '')}")


def measured(amount: float | None, write: Callable[[float], str]) -> str:
    """Return the amount as `write` has it, "-" where nobody measures it."""
    return "-" if amount is None else write(amount)


def short_id(instance: str) -> str:
    """Return the last part of an instance's id, the one that tells it from its siblings."""
    return instance.rpartition("-")[2] or instance


def _task_row(task: Doc) -> tuple[Cell, ...]:
    """Return a command's row. Its release, restarts and usage are not told."""
    began = dig(task, "started_at")
    word = coloured("running" if began else "pending")
    why = dig(task, "reason", "")
    return ("run", "-", short_id(dig(task, "id", "")), word, age(began), "-", "-", "-", "-", "" if began else why)


def _state(instance: Doc) -> str:
    word = str(dig(instance, "state", ""))
    if dig(instance, "draining", False) and word == "running":
        return "draining"
    return "not ready" if word == "running" and not dig(instance, "ready", False) else word


def _order(instance: Doc) -> tuple[bool, str, int, str]:
    process = str(dig(instance, "key.process", ""))
    return (process != "web", process, -int(dig(instance, "key.release", 0)), str(dig(instance, "id", "")))


@command
async def scale(
    counts: Annotated[list[str], typer.Argument(metavar="PROCESS=COUNT...", help="For example web=3 worker=2.")],
    *,
    app: AppOption = None,
    force: ForceOption = False,
    no_wait: NoWaitOption = False,
    timeout: TimeoutOption = 300.0,
    output: OutputOption = Output.TEXT,
) -> None:
    """Set how many instances of each process run; waits until they do.

    More than fits (free memory, the platform's limits) is refused, with the number that does.
    """
    wanted = parse_scale(counts)
    app = find_app(app)
    async with connect() as api:
        params = {"force": "true"} if force else None
        answer: Doc = await api.call("PUT", f"/apps/{app}/scale", body=wanted, params=params)
        if not no_wait:
            with show_progress(quiet=output is Output.JSON) as progress:
                what, hint = f"scaling {app}", f"`seaway ps -a {app}` tells how it stands; scale it back to undo it"
                async with limit(timeout, progress, what=what, cancel=hint):
                    await _follow(Waiter(api, app, progress), answer, wanted, progress)
    if output is Output.JSON:
        print_json(answer)
    else:
        print_text(f"scaled {app}: {' '.join(f'{name}={count}' for name, count in wanted.items())}")


async def _follow(waiter: Waiter, answer: Doc, wanted: dict[str, int], progress: Progress) -> None:
    """Wait for the rollout if the API made a release of it, for the instances if it only took the numbers."""
    if dig(answer, "spec.number") is not None:
        await bring_release(waiter, answer)
        return
    app = await waiter.get("")
    current = dig(app, "status.current")
    if current is None:
        progress.say(f"{waiter.app} has nothing deployed yet; the numbers take effect with the first deploy")
        return
    if dig(app, "status.state") != "deploying":
        there = dig(await waiter.get(f"/releases/{current}"), "spec.processes", {})
        if absent := [name for name in wanted if name not in there]:
            names = " or ".join(absent)
            progress.say(f"{version(current)} has no {names}; that number takes effect with a release that has")
            wanted = {name: count for name, count in wanted.items() if name in there}
    if wanted:
        await waiter.follow_scale(wanted)


def parse_scale(counts: list[str]) -> dict[str, int]:
    """Parse ["web=3", "worker=2"]; raise UsageError that tells all that are wrong."""
    wanted: dict[str, int] = {}
    errors = []
    for text in counts:
        try:
            name, count = _parse_count(text)
            if name in wanted:
                raise UsageError(f"{name} is given twice", field="scale")
            wanted[name] = count
        except UsageError as error:
            errors.append(error)
    if errors:
        raise join_errors(errors)
    return wanted


def _parse_count(text: str) -> tuple[str, int]:
    name, equals, count = text.partition("=")
    if not (name and equals and count.isascii() and count.isdigit() and len(count) <= 9 and int(count) <= MOST):
        raise UsageError(
            f"{text!r} is not PROCESS=COUNT (a whole number from 0 to {MOST})",
            hint="for example: seaway ps scale web=3 worker=2",
            field="scale",
        )
    try:
        return name_process(name), int(count)
    except ValueError as error:
        raise UsageError(str(error), field="scale") from error


@command
async def restart(
    *,
    app: AppOption = None,
    no_wait: NoWaitOption = False,
    timeout: TimeoutOption = 1800.0,
    output: OutputOption = Output.TEXT,
) -> None:
    """Replace every instance by a new one, without dropping a request: a new release that is the same."""
    app = find_app(app)
    await release_and_wait(app, "POST", "/restart", {}, wait=not no_wait, timeout=timeout, output=output)


@command
async def stop(
    task: Annotated[str, typer.Argument(metavar="ID", help="As `seaway run --detach` printed it, or its last part.")],
    *,
    app: AppOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Kill a command that `seaway run` started."""
    app = find_app(app)
    name = task if task.startswith(f"{app}-") else f"{app}-run-{task}"
    async with connect() as api:
        state: Doc = await api.call("DELETE", f"/apps/{app}/run/{quote(name, safe='')}")
    if output is Output.JSON:
        print_json(state)
    else:
        print_text(f"{name} had ended already" if dig(state, "done", False) else f"killed {name}")

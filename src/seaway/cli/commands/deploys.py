"""seaway deploy, and seaway builds: list, log, cancel."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from seaway.cli.client import Api, Doc, Patience
from seaway.cli.creating import require_app
from seaway.cli.errors import CliError, ExitCode, UsageError
from seaway.cli.group import ListingGroup
from seaway.cli.outcome import Outcome, bring_release
from seaway.cli.pack import pack_folder
from seaway.cli.progress import Progress, show_progress
from seaway.cli.session import (
    AppOption,
    ForceOption,
    NoWaitOption,
    OutputOption,
    TimeoutOption,
    command,
    connect,
    parse_build,
)
from seaway.cli.show import (
    Output,
    age,
    dig,
    plural,
    print_json,
    print_json_line,
    print_note,
    print_table,
    print_text,
    short_image,
    version,
)
from seaway.cli.show import state as coloured
from seaway.cli.target import LINK_FILE, find_app, link_folder
from seaway.cli.waiting import Waiter, limit, read_build_log
from seaway.cli.words import show_line
from seaway.model import Strategy

APP_FILES = {"procfile": "Procfile", "seaway_toml": "seaway.toml"}

ImageOption = Annotated[
    str | None, typer.Option("--image", metavar="REF", help="Deploy this image: HOST/PATH:TAG or a digest.")
]
BuildArgument = Annotated[str | None, typer.Argument(metavar="BUILD", help="b7 or 7; by default the newest.")]


def add(root: typer.Typer) -> None:
    """Add `deploy` and `builds` to the root command."""
    root.command("deploy")(deploy)
    group = typer.Typer(cls=ListingGroup, help="Builds: list them, read their output, cancel one.")
    group.command("list")(list_builds)
    group.command("log")(log)
    group.command("cancel")(cancel)
    root.add_typer(group, name="builds")


@dataclass(frozen=True)
class _Wanted:
    """What to deploy: exactly one of folder, image and git; `choice`: fields of the request that say how."""

    folder: Path | None
    image: str | None
    git: str | None
    ref: str | None
    choice: dict[str, Any]


@command
async def deploy(
    path: Annotated[Path | None, typer.Argument(metavar="PATH", help="The app's folder; by default this one.")] = None,
    *,
    app: AppOption = None,
    image: ImageOption = None,
    git: Annotated[str | None, typer.Option("--git", metavar="URL", help="Build from this git repository.")] = None,
    ref: Annotated[str | None, typer.Option("--ref", metavar="REF", help="Branch, tag or commit of --git.")] = None,
    strategy: Annotated[Strategy | None, typer.Option("--strategy", help="How traffic moves, this time.")] = None,
    create: Annotated[bool, typer.Option("--create", help="Create the app first if it is not there.")] = False,
    force: ForceOption = False,
    no_wait: NoWaitOption = False,
    timeout: TimeoutOption = 1800.0,
    output: OutputOption = Output.TEXT,
) -> None:
    """Build an app's folder (or a git ref, or take an image), release it and move the traffic to it.

    An app that is not there is created by --create, or when you say so on a terminal. It belongs to the token's team.

    An image that others built runs its own command as `web`, unless a Procfile or seaway.toml of this folder says more.

    Waits until all traffic is on the new release. If it fails, what served before (if anything did) still serves. It is
    refused if its instances do not fit beside those that run.
    """
    choice = ({"strategy": strategy} if strategy else {}) | ({"force": True} if force else {})
    wanted = _check(path, image, git, ref, choice)
    app = find_app(app, wanted.folder)
    async with connect() as api:
        await require_app(api, app, create=create, output=output)
        with show_progress(quiet=output is Output.JSON) as progress:
            if wanted.folder == Path.cwd() and link_folder(wanted.folder, app):
                progress.say(f"this folder is linked to {app} from now on ({LINK_FILE})")
            hint = (
                f"stop it with `seaway rollouts cancel -a {app}` (or, while it builds, `seaway builds cancel -a {app}`)"
            )
            async with limit(timeout, progress, what=f"the deploy of {app}", cancel=hint):
                outcome = await _deploy(Waiter(api, app, progress), wanted, no_wait=no_wait)
        has_address = isinstance(outcome, Outcome) and outcome.has_web
        url = await _find_url(api, app) if has_address else ""
    if output is Output.JSON:
        print_json(outcome.document() if isinstance(outcome, Outcome) else {"app": app, "result": "started", **outcome})
    elif isinstance(outcome, Outcome):
        print_text(outcome.sentence())
        if url:
            print_text(url)
    else:
        print_text(_started(app, outcome))


def _check(path: Path | None, image: str | None, git: str | None, ref: str | None, choice: dict[str, Any]) -> _Wanted:
    given = [name for name, value in (("PATH", path), ("--image", image), ("--git", git)) if value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other: give one", field=given[1])
    if ref is not None and git is None:
        raise UsageError("--ref needs --git URL", field="ref")
    if given and given[0] != "PATH":
        return _Wanted(None, image, git, ref, choice)
    folder = (path or Path.cwd()).absolute()
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UsageError(f"{path} {what}", hint="give the folder that holds the app's Procfile", field="PATH")
    return _Wanted(folder, None, None, None, choice)


async def _deploy(waiter: Waiter, wanted: _Wanted, *, no_wait: bool) -> Outcome | dict[str, Doc]:
    """Return the outcome, or (not waiting) what was started: {"build": ...} or {"release": ...}."""
    api, app = waiter.api, waiter.app
    if wanted.image:
        files = {} if wanted.image.startswith("sha256:") else _read_app_files(Path.cwd())
        if files:
            waiter.progress.say(f"how to run it is read from {' and '.join(APP_FILES[key] for key in files)} here")
        body = {"image": wanted.image, **files, **wanted.choice}
        release: Doc = await waiter.patience.send(lambda: api.post(f"/apps/{app}/releases", body))
        return {"release": release} if no_wait else await _bring(waiter, release)
    source = await _find_source(waiter, wanted)
    request = {"source": source, "deploy": True, **wanted.choice}
    build: Doc = await waiter.patience.send(lambda: api.post(f"/apps/{app}/builds", request))
    number = int(dig(build, "spec.number"))
    waiter.progress.say(f"build b{number} of {app}" + (f" from {_name_source(build)}" if wanted.git else ""))
    if no_wait:
        return {"build": build}
    build = await waiter.follow_build(number)
    waiter.progress.settle()
    waiter.progress.say(f"built image {short_image(dig(build, 'status.image'))}")
    if not dig(build, "status.release"):
        why, hint = dig(build, "status.reason", ""), f"correct it and deploy again{await waiter.say_what_serves()}"
        raise CliError(f"build b{number} of {app} made no release: {why}", hint=hint, code="no-release")
    return await _bring(waiter, await waiter.get(f"/releases/{dig(build, 'status.release')}"))


def _name_source(build: Doc) -> str:
    git = dig(build, "spec.source.git")
    return f"{dig(build, 'spec.source.ref', 'HEAD')} of {git}" if git else "upload"


def _read_app_files(folder: Path) -> dict[str, str]:
    """Return what the folder's app files say, for an image that was built without Seaway."""
    files = {}
    for key, name in APP_FILES.items():
        try:
            files[key] = (folder / name).read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise CliError(
                f"{name}: cannot be read: {error}", hint="correct it, or deploy from another folder"
            ) from error
    return files


async def _bring(waiter: Waiter, release: Doc) -> Outcome:
    number, strategy = dig(release, "spec.number"), dig(release, "spec.rollout.strategy", "")
    waiter.progress.say(f"release {version(number)} of {waiter.app}" + (f" ({strategy})" if strategy else ""))
    if note := dig(release, "spec.note"):
        waiter.progress.say(note)
    return await bring_release(waiter, release)


async def _find_source(waiter: Waiter, wanted: _Wanted) -> dict[str, str]:
    if wanted.git:
        return {"git": wanted.git} | ({"ref": wanted.ref} if wanted.ref else {})
    assert wanted.folder is not None
    return {"archive": await _upload(waiter, wanted.folder, waiter.progress)}


async def _upload(waiter: Waiter, folder: Path, progress: Progress) -> str:
    """Pack and upload the folder (an upload may be repeated: it is stored under its digest); return the digest."""
    progress.phase("packing", str(folder))
    with pack_folder(folder) as archive:
        progress.settle()
        for left_out in archive.skipped:
            progress.say(f"left out: {left_out}")
        length = {"Content-Length": str(archive.file.stat().st_size), "Content-Type": "application/gzip"}
        with progress.upload(archive.file, plural(archive.files, "file")) as opened:
            answer: Any = await waiter.patience.ask(
                lambda: waiter.api.call("PUT", "/sources", content=opened, headers=length)
            )
    return str(answer["digest"])


async def _find_url(api: Api, app: str) -> str:
    return str(dig(await api.get(f"/apps/{app}"), "url", ""))


def _started(app: str, started: dict[str, Doc]) -> str:
    if "build" in started:
        number = dig(started["build"], "spec.number")
        return f"build b{number} of {app} is queued; follow it with `seaway builds log b{number} -f -a {app}`"
    name = version(dig(started["release"], "spec.number"))
    return f"release {name} of {app} is on its way; `seaway rollouts show {name} -a {app}` tells how it stands"


@command
async def list_builds(*, app: AppOption = None, output: OutputOption = Output.TEXT) -> None:
    """List an app's builds, newest first."""
    app = find_app(app)
    async with connect() as api:
        builds: list[Doc] = await api.get(f"/apps/{app}/builds")
    if output is Output.JSON:
        print_json(builds)
        return
    rows = [
        (f"b{dig(b, 'spec.number')}", coloured(dig(b, "status.state", "")), version(dig(b, "status.release") or None),
         age(dig(b, "meta.created_at")), dig(b, "spec.by", ""), _name_source(b), dig(b, "status.reason", ""))
        for b in sorted(builds, key=lambda b: -int(dig(b, "spec.number", 0)))
    ]  # fmt: skip
    print_table(
        ("build", "state", "release", "started", "by", "source", "why"),
        rows,
        empty=f"{app} has no builds: `seaway deploy` makes one",
    )


@command
async def log(
    build: BuildArgument = None,
    *,
    app: AppOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the build ends.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Print a build's output. With -f the exit code is 1 if the build fails."""
    app = find_app(app)
    async with connect() as api:
        number = await _find_build(api, app, build)
        patience = Patience(print_note)
        if follow:
            async with aclosing(read_build_log(api, app, number, patience)) as lines:
                async for line in lines:
                    _print_line(line, output)
            doc = await patience.ask(lambda: api.get(f"/apps/{app}/builds/{number}"))
            if dig(doc, "status.state") in {"failed", "cancelled"}:
                raise CliError(f"build b{number} of {app} {dig(doc, 'status.state')}: {dig(doc, 'status.reason', '')}")
        else:
            async with aclosing(api.stream(f"/apps/{app}/builds/{number}/log")) as items:
                async for item in items:
                    _print_line(item.line(), output)


def _print_line(line: str, output: Output) -> None:
    if output is Output.JSON:
        print_json_line({"line": line})
    else:
        print_text(show_line(line))


@command
async def cancel(build: BuildArgument = None, *, app: AppOption = None, output: OutputOption = Output.TEXT) -> None:
    """Cancel a build that is queued or running."""
    app = find_app(app)
    async with connect() as api:
        number = await _find_build(api, app, build)
        answer = await api.post(f"/apps/{app}/builds/{number}/cancel")
    if output is Output.JSON:
        print_json(answer)
    else:
        print_text(f"build b{number} of {app} is being cancelled")


async def _find_build(api: Api, app: str, text: str | None) -> int:
    if text is not None:
        return parse_build(text)
    builds: list[Doc] = await api.get(f"/apps/{app}/builds")
    if not builds:
        raise CliError(
            f"{app} has no builds", hint="`seaway deploy` makes one", exit_code=ExitCode.NOT_FOUND, code="no-build"
        )
    return max(int(dig(b, "spec.number", 0)) for b in builds)

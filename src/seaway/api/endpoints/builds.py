"""Sources and builds: upload, build, follow the output, cancel."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from fastapi import APIRouter, Query, Request
from starlette.requests import ClientDisconnect

from seaway.api.capacity import check_force
from seaway.api.changing import change, is_past, make_build
from seaway.api.context import ChangeableApp, Deps, Developer, Number, VisibleApp, note, require_role
from seaway.api.deps import ApiDeps
from seaway.api.errors import ApiError
from seaway.api.forwarding import pass_on
from seaway.api.inputs import NewBuild
from seaway.api.room import check_room
from seaway.api.streams import STREAM, Stream, event, lines, server_sent
from seaway.api.tailing import BuildLog, tail_build
from seaway.api.views import Digest, view_build
from seaway.builder.git import describe_git
from seaway.model import App, Build, BuildSpec, BuildState, Role, build_name
from seaway.store.base import NotFound

router = APIRouter(tags=["builds"])

UPLOAD_PREFIX = ".upload-"
GZIP_MAGIC = b"\x1f\x8b"
CHUNK = 1 << 20  # bytes written to disk at once

BINARY = {"application/gzip": {"schema": {"type": "string", "format": "binary"}}}
ARCHIVE = {"requestBody": {"required": True, "content": BINARY}}


@router.put("/sources", summary="Upload an app's source, a gzipped tar of at most 512 MiB", openapi_extra=ARCHIVE)
async def put_source(request: Request, deps: Deps, _: Developer) -> Digest:
    """The same archive may be sent again: it is kept under its digest."""
    await check_room(deps.home.root)
    temporary = deps.home.sources / f"{UPLOAD_PREFIX}{secrets.token_hex(8)}"
    try:
        digest = await _receive(request, temporary)
        await deps.sources.put(temporary, digest)
    except ClientDisconnect as error:
        raise ApiError(400, "incomplete", "the upload broke off") from error
    finally:
        temporary.unlink(missing_ok=True)
    return Digest(digest=digest)


async def _receive(request: Request, target: Path) -> str:
    """Write the body to a file, synced; return its digest."""
    digest, buffer, first = hashlib.sha256(), bytearray(), True
    with target.open("xb", buffering=0) as file:

        def write(data: bytes) -> None:
            digest.update(data)
            file.write(data)

        async for part in request.stream():
            buffer += part
            if first and len(buffer) >= len(GZIP_MAGIC):
                first = False
                if not buffer.startswith(GZIP_MAGIC):
                    break
            if len(buffer) >= CHUNK:
                await asyncio.to_thread(write, bytes(buffer))
                buffer.clear()
        if first or (file.tell() == 0 and not buffer.startswith(GZIP_MAGIC)):
            raise ApiError(
                400, "not-an-archive", "the body is not a gzipped tar archive", hint="send what `tar -cz` makes"
            )
        await asyncio.to_thread(write, bytes(buffer))
        await asyncio.to_thread(os.fsync, file.fileno())
    return digest.hexdigest()


@router.post("/apps/{app}/builds", status_code=201, summary="Build an image from source, and deploy it")
async def create_build(app: ChangeableApp, body: NewBuild, deps: Deps, caller: Developer) -> Build:
    """The build is queued; follow it with its log or the app's watch."""
    check_force(caller, force=body.force)
    await check_room(deps.home.root)
    source = body.source.plain()
    if source.archive and not await deps.sources.use(source.archive):  # pruning spares what was used of late
        message = f"there is no uploaded source {source.archive[:12]}"
        raise ApiError(422, "no-such-source", message, field="source.archive", hint="upload it with PUT /v1/sources")
    if source.git and source.git.startswith("file:"):
        require_role(caller, Role.ADMIN, "building from a path on the platform's own disk")
    build = await make_build(
        deps.store,
        app,
        lambda number: BuildSpec(
            app=app.name,
            number=number,
            source=source,
            deploy=body.deploy,
            strategy=body.strategy,
            force=body.force,
            by=caller.name,
        ),
    )
    of_git = f": {name}" if (name := describe_git(source)) else ""
    await note(
        deps,
        caller,
        app,
        about=f"build {build.name}",
        reason="BuildRequested",
        message=f"Build b{build.spec.number} is queued{of_git}.",
    )
    return view_build(build)


@router.get("/apps/{app}/builds", summary="List an app's builds, newest first")
async def list_builds(app: VisibleApp, deps: Deps) -> list[Build]:
    """Credentials in git URLs are masked."""
    builds = (await deps.store.list(Build, {"app": app.name})).documents
    return [view_build(build) for build in sorted(builds, key=lambda build: -build.spec.number)]


@router.get("/apps/{app}/builds/{number}", summary="A build: where it is and why")
async def get_build(app: VisibleApp, number: Number, deps: Deps) -> Build:
    """`status.release` is the release it made."""
    return view_build(await _find_build(deps, app, number))


@router.get(
    "/apps/{app}/builds/{number}/log",
    summary="A build's output",
    response_class=Stream,
    responses=STREAM,
)
async def read_build_log(
    app: VisibleApp, number: Number, deps: Deps, request: Request, follow: bool = Query(False)
) -> Stream:
    """One {"line": "..."} a line; with `follow` as server-sent events, and `end` with the state once it is over."""
    build = await _find_build(deps, app, number)
    if not is_over(build) and (answer := await pass_on(request, deps.leader)) is not None:
        return answer
    log = BuildLog(deps.home, build, deps.build_logs)
    if not follow:
        await log.refresh()
        return lines({"line": line} async for line in tail_build(log, None))
    return server_sent(request, _follow_log(deps, build, log))


async def _follow_log(deps: ApiDeps, build: Build, log: BuildLog) -> AsyncGenerator[bytes, None]:
    ended, complete = asyncio.Event(), asyncio.Event()
    watching = asyncio.create_task(_wait_for_end(deps, build, ended))
    copying = asyncio.create_task(_copy_log(log, ended, complete))
    try:
        async with aclosing(tail_build(log, complete)) as output:
            async for line in output:
                yield event({"line": line})
        state = await watching
        yield event({"state": state.status.state, "reason": state.status.reason}, "end")
    finally:
        watching.cancel()
        copying.cancel()
        await asyncio.gather(watching, copying, return_exceptions=True)


async def _copy_log(log: BuildLog, ended: asyncio.Event, complete: asyncio.Event) -> None:
    try:
        await log.follow(ended)
    finally:
        complete.set()


async def _wait_for_end(deps: ApiDeps, build: Build, ended: asyncio.Event) -> Build:
    """Return the build once it is over; set `ended` however this ends."""
    try:
        revision = (await deps.store.list(Build, {"app": build.spec.app})).revision
        now = await deps.store.get(Build, build.name)
        if is_over(now):
            return now
        async with aclosing(deps.store.watch((Build,), revision)) as changes:
            async for seen in changes:
                document = seen.document
                if isinstance(document, Build) and document.name == build.name:
                    now = document
                    if is_over(now) or seen.type == "deleted":
                        return now
        return now
    finally:
        ended.set()


@router.post("/apps/{app}/builds/{number}/cancel", status_code=202, summary="Cancel a build")
async def cancel_build(app: VisibleApp, number: Number, deps: Deps, caller: Developer) -> Build:
    """A build that is over cannot be cancelled."""
    name = (await _find_build(deps, app, number)).name

    def cancel(build: Build) -> Build:
        if is_over(build):
            message = f"build b{number} of {app.name} is over ({build.status.state})"
            raise ApiError(409, "ended", message)
        return build.model_copy(update={"spec": build.spec.model_copy(update={"cancel": True})})

    before = (await deps.store.get(Build, name)).spec.cancel
    build = await change(deps.store, Build, name, cancel)
    if not before:
        await note(
            deps,
            caller,
            app,
            about=f"build {name}",
            reason="BuildCancelRequested",
            message=f"Build b{number} is to be cancelled.",
        )
    return view_build(build)


def is_over(build: Build) -> bool:
    """Whether the build has ended."""
    return build.status.state not in {BuildState.QUEUED, BuildState.RUNNING}


async def _find_build(deps: ApiDeps, app: App, number: int) -> Build:
    try:
        return await deps.store.get(Build, build_name(app.name, number))
    except NotFound:
        hint = f"`seaway builds list -a {app.name}` shows what there is"
        message = f"{app.name} has no build b{number}"
        if await is_past(deps.store, Build, app, number):
            message = f"b{number} of {app.name} is not kept any more"
        raise ApiError(404, "no-such-build", message, field="number", hint=hint) from None

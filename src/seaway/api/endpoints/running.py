"""One-offs and logs."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request

from seaway.api.context import ChangeableApp, Deps, Developer, VisibleApp, note
from seaway.api.deps import ApiDeps
from seaway.api.endpoints.releases import find_release
from seaway.api.errors import ApiError
from seaway.api.inputs import TaskInput
from seaway.api.streams import STREAM, Stream, event, lines, server_sent
from seaway.api.views import TaskStarted
from seaway.logs.base import LogLine, LogQuery
from seaway.model import App, Task, TaskState

router = APIRouter()

MOST_LINES = 100_000

TaskId = Annotated[str, Path(max_length=200, description="what POST answered")]
Filter = Annotated[str | None, Query(max_length=200)]


@router.get(
    "/apps/{app}/logs",
    summary="Read an app's logs",
    response_class=Stream,
    responses=STREAM,
    tags=["logs"],
)
async def read_logs(
    app: VisibleApp,
    deps: Deps,
    request: Request,
    process: Filter = None,
    release: Annotated[int | None, Query(ge=1, le=2**31)] = None,
    instance: Filter = None,
    n: Annotated[int, Query(ge=0, le=MOST_LINES, description="how many lines from the end")] = 100,
    follow: Annotated[bool, Query(description="answer with server-sent events, and go on")] = False,
) -> Stream:
    """One JSON object a line, in the shape of docs/logs.md; with `follow` each is an event's data.

    What another app of the same name wrote before this one was created is not shown.
    """
    query = LogQuery(
        app=app.name, process=process, release=release, instance=instance, tail=n, follow=follow,
        since=app.meta.created_at,
    )  # fmt: skip
    source = _read(deps, query)
    if not follow:
        return lines(source)
    return server_sent(request, (event(line) async for line in source))


async def _read(deps: ApiDeps, query: LogQuery) -> AsyncGenerator[LogLine, None]:
    async for line in deps.logs.read(query):
        yield line


@router.post("/apps/{app}/run", status_code=201, summary="Run a command once", tags=["run"])
async def start_task(app: ChangeableApp, body: TaskInput, deps: Deps, caller: Developer) -> TaskStarted:
    """With the image and config of the release that serves. Read its output from the logs, its id as instance."""
    if app.status.current is None:
        raise ApiError(409, "nothing-deployed", f"{app.name} has no release that serves", hint="deploy it first")
    release = await find_release(deps, app, app.status.current)
    if release.spec.image is None:
        raise ApiError(409, "nothing-deployed", f"{release.name} has no image", hint="deploy it first")
    task = Task(
        id=f"{app.name}-run-{secrets.token_hex(4)}", app=app.name, team=app.spec.team, release=release.spec.number,
        image=release.spec.image, command=body.command, stdin=body.stdin, env=release.spec.config,
        timeout=body.timeout,
    )  # fmt: skip
    await deps.engine.start_task(task)
    await note(
        deps, caller, app, about=f"task {task.id}", reason="TaskStarted", message=f"Runs a command on v{task.release}."
    )
    return TaskStarted(id=task.id, app=app.name, release=task.release)


@router.get("/apps/{app}/run/{task}", summary="What became of a command", tags=["run"])
async def get_task(app: VisibleApp, task: TaskId, deps: Deps) -> TaskState:
    """`exit_code` is the command's own; -N: ended by signal N."""
    return await _find_task(deps, app, task)


@router.delete("/apps/{app}/run/{task}", summary="Kill a command and forget it", tags=["run"])
async def kill_task(app: VisibleApp, task: TaskId, deps: Deps, caller: Developer) -> TaskState:
    """Answers with its last state."""
    state = await _find_task(deps, app, task)
    await deps.engine.remove_task(task)
    if not state.done:
        await note(deps, caller, app, about=f"task {task}", reason="TaskKilled", message="Was killed.")
    return state


async def _find_task(deps: ApiDeps, app: App, task: str) -> TaskState:
    for state in (await deps.engine.observe()).tasks:
        if state.id == task and state.app == app.name:
            return state
    raise ApiError(404, "no-such-task", f"{app.name} has no command {task[:80]!r}", field="task")

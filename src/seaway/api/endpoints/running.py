"""One-offs and logs."""

from __future__ import annotations

import asyncio
import secrets
from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request

from seaway.api.context import ChangeableApp, Deps, Developer, VisibleApp, note
from seaway.api.deps import ApiDeps
from seaway.api.endpoints.releases import find_release
from seaway.api.errors import ApiError
from seaway.api.forwarding import pass_on
from seaway.api.inputs import TaskInput
from seaway.api.streams import STREAM, Stream, event, lines, merge, server_sent
from seaway.api.views import InputTaken, TaskStarted
from seaway.engine.base import EngineUnavailable, StreamControl, StreamsGone
from seaway.logs.base import LogLine, LogQuery
from seaway.model import App, Offsets, Release, Streams, Task, TaskState, Terminal

router = APIRouter()

MOST_LINES = 100_000
MOST_BYTES = 1 << 62  # of a stream
ROOM_LIMIT = 20.0  # seconds for a command to have room for a piece of input
BEAT = 2.0  # seconds between signs of life to who waits for a command: a leader that hangs is to be noticed soon

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
    """With the image and config of the release that serves, or of the newest if none does. Its output is in the logs.

    They name it, by its id, as instance. One that is `attached` is killed when nobody follows its .../attach any more.
    """
    release = await _choose_release(deps, app)
    has_streams = body.streams is not None and deps.task_streams is not None
    if body.streams is not None and not has_streams and body.streams != Streams():
        raise ApiError(
            409, "no-streams", "this platform's engine passes on neither input nor a terminal yet",
            hint="send at most 512 KiB of input as stdin", field="streams",
        )  # fmt: skip
    task = Task(
        id=f"{_prefix(app)}{secrets.token_hex(4)}", app=app.name, team=app.spec.team, release=release.spec.number,
        image=release.spec.image, command=body.command, stdin=body.stdin, env=release.spec.config,
        timeout=body.timeout, attached=body.attached, limits=release.spec.task_limits,
        mounts=release.spec.mounts, streams=body.streams if has_streams else None,
    )  # fmt: skip
    await deps.engine.start_task(task)
    await note(
        deps, caller, app, about=f"task {task.id}", reason="TaskStarted", message=f"Runs a command on v{task.release}."
    )
    return TaskStarted(
        id=task.id, app=app.name, release=task.release, serves=task.release == app.status.current, streams=has_streams
    )


async def _choose_release(deps: ApiDeps, app: App) -> Release:
    if app.status.current is not None:
        return await find_release(deps, app, app.status.current)
    releases = (await deps.store.list(Release, {"app": app.name})).documents
    built = [release for release in releases if release.spec.image is not None]
    if not built:
        raise ApiError(409, "nothing-deployed", f"{app.name} has no release with an image", hint="deploy it first")
    return max(built, key=lambda release: release.spec.number)


@router.get("/apps/{app}/run", summary="List the commands that run or ran", tags=["run"])
async def list_tasks(app: VisibleApp, deps: Deps) -> list[TaskState]:
    """Oldest first. Of those that have ended only the latest are known."""
    found = (await deps.engine.observe()).part(app.name).tasks.values()
    mine = [state for state in found if state.id.startswith(_prefix(app))]
    return sorted(mine, key=lambda state: (state.started_at or deps.clock(), state.id))


@router.get("/apps/{app}/run/{task}", summary="What became of a command", tags=["run"])
async def get_task(app: VisibleApp, task: TaskId, deps: Deps) -> TaskState:
    """`exit_code` is the command's own; -N: ended by signal N."""
    return await _find_task(deps, app, task)


@router.get(
    "/apps/{app}/run/{task}/attach",
    summary="Wait for a command, and hold it",
    response_class=Stream,
    responses=STREAM,
    tags=["run"],
)
async def attach_to_task(
    app: VisibleApp,
    task: TaskId,
    deps: Deps,
    request: Request,
    _: Developer,
    output: Annotated[bool, Query(description="bring what it writes, too; it has `streams`")] = False,
    stdout: Annotated[int, Query(ge=0, le=MOST_BYTES, description="bytes of it that are not to come again")] = 0,
    stderr: Annotated[int, Query(ge=0, le=MOST_BYTES, description="likewise")] = 0,
) -> Stream:
    """Events named `state`, one for each change; the last one is `done`. If it ends before, ask again.

    With `output` also events named `output`: `stream` (a terminal is stdout), `offset` in it, and `data` in base64.
    They may come after the last state, whose `output_ends` say how many bytes there are in all.

    A command that was started `attached` is killed a second after the last of these streams breaks. Whoever asks again
    finds it: after an absence of the platform's own there are 20 s for that.
    """
    if (answer := await _pass_on(request, deps)) is not None:
        return answer
    await _find_task(deps, app, task)
    source = _hold_task(deps, app, task, Offsets(stdout=stdout, stderr=stderr) if output else None)
    return server_sent(request, source, beat=BEAT, good=lambda: deps.leads)


async def _pass_on(request: Request, deps: ApiDeps) -> Stream | None:
    """Return the answer of the replica that leads, which holds what commands write and read; None if this one does."""
    if (answer := await pass_on(request, deps.leader)) is not None:
        return answer
    if not deps.leads:
        raise ApiError(503, "no-leader", "no replica of the control plane leads now", hint="try again")
    return None


async def _hold_task(deps: ApiDeps, app: App, task: str, begin: Offsets | None) -> AsyncGenerator[bytes, None]:
    """Yield its states, and what it writes from `begin` on, if that is wanted."""
    runs = asyncio.Event()
    sources = [_follow_states(deps, app, task, runs)]
    if begin is not None and deps.task_streams is not None:
        sources.append(_follow_output(deps.task_streams, task, begin, runs))
    with deps.attachments.attach(task):
        async with aclosing(merge(*sources)) as events:
            async for item in events:
                yield item


async def _follow_output(
    streams: StreamControl, task: str, begin: Offsets, runs: asyncio.Event
) -> AsyncGenerator[bytes, None]:
    await runs.wait()
    try:
        async with aclosing(streams.read_output(task, begin)) as pieces:
            async for piece in pieces:
                data = b64encode(piece.data).decode()
                yield event({"stream": piece.stream, "offset": piece.offset, "data": data}, "output")
    except StreamsGone:
        return  # what is missing shows beside `output_ends` of the last state


async def _follow_states(deps: ApiDeps, app: App, task: str, runs: asyncio.Event) -> AsyncGenerator[bytes, None]:
    """Yield each state until it is done or gone. `runs` is set as soon as the command runs, or never will."""
    told: TaskState | None = None
    try:
        async with aclosing(deps.engine.watch()) as changes:
            async for name in changes:
                if name not in (app.name, ""):
                    continue
                try:
                    state = (await deps.engine.observe()).part(app.name).tasks.get(task)
                except EngineUnavailable:
                    continue  # it says when it is back
                if state is None:
                    return
                if state.started_at is not None:
                    runs.set()
                if state != told:
                    yield event(state.model_dump(mode="json"), "state")
                    told = state
                if state.done:
                    return
    finally:
        runs.set()


@router.post(
    "/apps/{app}/run/{task}/input",
    summary="Send what a command reads",
    response_model=InputTaken,
    openapi_extra={
        "requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
    },
    tags=["run"],
)
async def send_input(
    app: ChangeableApp,
    task: TaskId,
    deps: Deps,
    request: Request,
    offset: Annotated[int, Query(ge=0, le=MOST_BYTES, description="where the body stands in all that it reads")],
    end: Annotated[bool, Query(description="nothing comes after the body")] = False,
) -> InputTaken | Stream:
    """The body's bytes, for a command whose `streams` said that it `reads`. It is answered when the command has room.

    After 20 s without room the answer is that it was not `taken`: send it again. What was taken is not given twice.
    What is typed at a terminal has no `end`.
    """
    if (answer := await _pass_on(request, deps)) is not None:
        return answer
    engine = await _find_streams(deps, app, task)
    data = await request.body()
    try:
        async with asyncio.timeout(ROOM_LIMIT):
            await engine.write_input(task, offset, data, end=end)
    except TimeoutError:
        return InputTaken(taken=False)
    return InputTaken(taken=True)


@router.put(
    "/apps/{app}/run/{task}/terminal",
    summary="Tell a command the size of its terminal",
    response_model=Terminal,
    tags=["run"],
)
async def resize_terminal(
    app: ChangeableApp, task: TaskId, body: Terminal, deps: Deps, request: Request
) -> Terminal | Stream:
    """Programs hear of it by SIGWINCH. Its `kind` stays as it was at the start."""
    if (answer := await _pass_on(request, deps)) is not None:
        return answer
    await (await _find_streams(deps, app, task)).resize(task, body)
    return body


async def _find_streams(deps: ApiDeps, app: App, task: str) -> StreamControl:
    """Return who has the streams of a command that runs. ApiError."""
    state = await _find_task(deps, app, task)
    if deps.task_streams is None or state.started_at is None or state.done:
        why = "has ended" if state.done else "has no streams yet, or none at all"
        raise ApiError(409, "no-streams", f"the command {why}", field="task")
    return deps.task_streams


@router.delete("/apps/{app}/run/{task}", summary="Kill a command and forget it", tags=["run"])
async def kill_task(app: VisibleApp, task: TaskId, deps: Deps, caller: Developer) -> TaskState:
    """Answers with its last state."""
    state = await _find_task(deps, app, task)
    await deps.engine.remove_task(task)
    if not state.done:
        await note(deps, caller, app, about=f"task {task}", reason="TaskKilled", message="Was killed.")
    return state


def _prefix(app: App) -> str:
    """Return how the ids of its commands begin; a release command is called otherwise."""
    return f"{app.name}-run-"


async def _find_task(deps: ApiDeps, app: App, task: str) -> TaskState:
    state = (await deps.engine.observe()).part(app.name).tasks.get(task)
    if state is not None:
        return state
    raise ApiError(404, "no-such-task", f"{app.name} has no command {task[:80]!r}", field="task")

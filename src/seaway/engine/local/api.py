"""The node agent's HTTP over its unix socket: Engine's methods, one path each.

    PUT    /v1/workloads                         Workload             204
    DELETE /v1/workloads/APP/RELEASE/PROCESS                          204
    GET    /v1/observation                                            Observation
    GET    /v1/watch                             one JSON list of app names a line; [] is a sign of life
    PUT    /v1/tasks                             Task                 204
    DELETE /v1/tasks/ID                                               204
    POST   /v1/stop-all                          204 once everything has stopped
    GET    /v1/health                            {"pid": N, "node": NAME}

Refusals are 409 with {"error": "what to do"}.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from seaway.engine.base import EngineError
from seaway.engine.local.keeper import Keeper
from seaway.model import Task, Workload, WorkloadKey

HEARTBEAT = 5.0  # seconds between signs of life on a watch
DONE = 204

Handler = Callable[[Request], Awaitable[Response]]


def make_api(keeper: Keeper) -> Starlette:
    """Return the ASGI app of one agent. Starlette alone: an agent has to be back within a moment."""

    async def apply(request: Request) -> Response:
        keeper.apply(Workload.model_validate_json(await request.body()))
        return Response(status_code=DONE)

    async def remove(request: Request) -> Response:
        keeper.remove(WorkloadKey.model_validate(request.path_params))
        return Response(status_code=DONE)

    async def observe(_: Request) -> Response:
        return Response(keeper.observe().model_dump_json(), media_type="application/json")

    async def watch(_: Request) -> Response:
        return StreamingResponse(_stream_changes(keeper), media_type="application/x-ndjson")

    async def start_task(request: Request) -> Response:
        keeper.start_task(Task.model_validate_json(await request.body()))
        return Response(status_code=DONE)

    async def remove_task(request: Request) -> Response:
        await keeper.remove_task(request.path_params["id"])
        return Response(status_code=DONE)

    async def stop_all(_: Request) -> Response:
        await keeper.halt()
        return Response(status_code=DONE)

    async def health(_: Request) -> Response:
        return JSONResponse({"pid": os.getpid(), "node": keeper.machine.node})

    routes: list[tuple[str, str, Handler]] = [
        ("PUT", "/v1/workloads", apply),
        ("DELETE", "/v1/workloads/{app}/{release:int}/{process}", remove),
        ("GET", "/v1/observation", observe),
        ("GET", "/v1/watch", watch),
        ("PUT", "/v1/tasks", start_task),
        ("DELETE", "/v1/tasks/{id}", remove_task),
        ("POST", "/v1/stop-all", stop_all),
        ("GET", "/v1/health", health),
    ]
    return Starlette(
        routes=[Route(path, handler, methods=[method]) for method, path, handler in routes],
        exception_handlers={EngineError: _refuse, OSError: _refuse_now, ValidationError: _refuse_body},
    )


async def _refuse(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, status_code=409)


async def _refuse_now(_: Request, error: Exception) -> Response:
    """Nothing was changed, for lack of room or the like; whoever asks goes on asking."""
    assert isinstance(error, OSError)
    return JSONResponse({"error": f"the node agent cannot do this now: {error.strerror or error}"}, status_code=409)


async def _refuse_body(_: Request, error: Exception) -> Response:
    assert isinstance(error, ValidationError)
    faults = error.errors(include_input=False, include_url=False, include_context=False)  # inputs may hold secrets
    said = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults)
    return JSONResponse({"error": f"the node agent does not understand this (is it of another version?): {said}"}, 409)


async def _stream_changes(keeper: Keeper) -> AsyncIterator[bytes]:
    async for names in keeper.changes.watch(HEARTBEAT):
        yield json.dumps(names).encode() + b"\n"

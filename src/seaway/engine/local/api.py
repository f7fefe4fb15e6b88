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
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from seaway.engine.base import EngineError
from seaway.engine.local.keeper import Keeper
from seaway.model import Task, Workload, WorkloadKey

HEARTBEAT = 5.0  # seconds between signs of life on a watch


def make_api(keeper: Keeper) -> FastAPI:
    """Return the ASGI app of one agent."""
    api = FastAPI(openapi_url=None)

    @api.exception_handler(EngineError)
    async def refuse(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status_code=409)

    @api.put("/v1/workloads", status_code=204)
    async def apply(workload: Workload) -> None:
        keeper.apply(workload)

    @api.delete("/v1/workloads/{app}/{release}/{process}", status_code=204)
    async def remove(app: str, release: int, process: str) -> None:
        keeper.remove(WorkloadKey(app=app, release=release, process=process))

    @api.get("/v1/observation")
    async def observe() -> Response:
        return Response(keeper.observe().model_dump_json(), media_type="application/json")

    @api.get("/v1/watch")
    async def watch() -> Response:
        return StreamingResponse(_stream_changes(keeper), media_type="application/x-ndjson")

    @api.put("/v1/tasks", status_code=204)
    async def start_task(task: Task) -> None:
        keeper.start_task(task)

    @api.delete("/v1/tasks/{task_id}", status_code=204)
    async def remove_task(task_id: str) -> None:
        await keeper.remove_task(task_id)

    @api.post("/v1/stop-all", status_code=204)
    async def stop_all() -> None:
        await keeper.halt()

    @api.get("/v1/health")
    async def health() -> dict[str, int | str]:
        return {"pid": os.getpid(), "node": keeper.machine.node}

    return api


async def _stream_changes(keeper: Keeper) -> AsyncIterator[bytes]:
    yield b'[""]\n'  # the watch is on: look at everything once
    async for names in keeper.changes.watch(HEARTBEAT):
        yield json.dumps(names).encode() + b"\n"

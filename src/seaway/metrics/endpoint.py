"""GET /metrics on the API's port, without a token: it holds numbers and names, no values of any config."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastapi import FastAPI, Response

from seaway import __version__
from seaway.disk import read_disk
from seaway.engine.base import Engine, EngineUnavailable
from seaway.metrics.collector import CONTENT_TYPE, render
from seaway.model import App, Observation, Rollout
from seaway.router.base import RouterPlane
from seaway.store.base import Store


def add_metrics(api: FastAPI, store: Store, engine: Engine, routers: RouterPlane, home: Path) -> None:
    """Add the endpoint to the API."""

    async def metrics() -> Response:
        observation: Observation | None
        try:
            observation = await engine.observe()
        except EngineUnavailable:
            observation = None
        apps = (await store.list(App)).documents
        rollouts = (await store.list(Rollout)).documents
        disk = await asyncio.to_thread(read_disk, home)
        body = render(apps, rollouts, observation, routers.views(), disk, version=__version__)
        return Response(body, media_type=CONTENT_TYPE)

    api.add_api_route("/metrics", metrics, methods=["GET"], include_in_schema=False)

"""What a router in a cluster is asked by its kubelet: `/ready` and `/alive`, over plain HTTP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn

Verdict = Callable[[], Awaitable[str]]
"""Says what is wrong, or ""."""


class _Server(uvicorn.Server):
    """Uvicorn without signal handlers of its own."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serve_probes(host: str, port: int, probes: Mapping[str, Verdict]) -> AsyncIterator[None]:
    """Answer each path of `probes`: 200 if nothing is wrong, else 503 and why. OSError if the port is taken."""

    async def answer(scope: Any, _receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        verdict = probes.get(scope["path"])
        wrong = await verdict() if verdict else ""
        status = 404 if verdict is None else 503 if wrong else 200
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": f"{wrong or ('ok' if verdict else 'not found')}\n".encode()})

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=128)
    config = uvicorn.Config(answer, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1)
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]), name="probes")
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)
        listening.close()

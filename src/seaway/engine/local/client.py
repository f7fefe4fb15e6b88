"""The local engine as the control plane sees it: a client of the node agent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2

from seaway.engine.base import EngineError, EngineUnavailable, Output
from seaway.engine.local import streams
from seaway.engine.local.state import check_name
from seaway.home import Home
from seaway.model import Observation, Offsets, Task, Terminal, Workload, WorkloadKey

TIMEOUT = httpx2.Timeout(10.0, connect=2.0)
WATCH_TIMEOUT = httpx2.Timeout(15.0, connect=2.0)  # three signs of life missed
RETRY_FIRST, RETRY_LONGEST = 0.05, 0.5


class LocalEngine:
    """Implements Engine over the node agent's unix socket."""

    def __init__(self, home: Home) -> None:
        self._socket = home.socket("node")
        self._tasks = home.node / "tasks"
        # A socket has no certificates, and reading them takes a while.
        transport = httpx2.AsyncHTTPTransport(uds=str(self._socket), verify=False)
        self._http = httpx2.AsyncClient(transport=transport, base_url="http://node", timeout=TIMEOUT)

    async def apply(self, workload: Workload) -> None:
        """See Engine.apply."""
        await self._call("PUT", "/v1/workloads", content=workload.model_dump_json())

    async def remove(self, key: WorkloadKey) -> None:
        """See Engine.remove."""
        await self._call("DELETE", f"/v1/workloads/{quote(key.app)}/{key.release}/{quote(key.process)}")

    async def observe(self) -> Observation:
        """See Engine.observe."""
        return Observation.model_validate_json((await self._call("GET", "/v1/observation")).content)

    async def watch(self) -> AsyncGenerator[str, None]:
        """See Engine.watch. Yields "" first, and again whenever the agent is back or has just gone."""
        wait = RETRY_FIRST
        while True:
            try:
                async with self._http.stream("GET", "/v1/watch", timeout=WATCH_TIMEOUT) as response:
                    response.raise_for_status()
                    wait = RETRY_FIRST
                    async for line in response.aiter_lines():
                        for name in json.loads(line):
                            yield name
            except httpx2.HTTPError:
                pass  # the agent is away; what it runs goes on
            if wait == RETRY_FIRST:
                yield ""
            await asyncio.sleep(wait)
            wait = min(wait * 2, RETRY_LONGEST)

    async def start_task(self, task: Task) -> None:
        """See Engine.start_task."""
        await self._call("PUT", "/v1/tasks", content=task.model_dump_json())

    async def remove_task(self, task_id: str) -> None:
        """See Engine.remove_task."""
        await self._call("DELETE", f"/v1/tasks/{quote(task_id, safe='')}")

    def read_output(self, task_id: str, begin: Offsets) -> AsyncGenerator[Output, None]:
        """See StreamControl.read_output. It does not need the node agent, which may be away."""
        return streams.read_output(self._folder(task_id), begin)

    async def write_input(self, task_id: str, offset: int, data: bytes, *, end: bool = False) -> None:
        """See StreamControl.write_input."""
        await streams.write_input(self._folder(task_id), offset, data, end=end)

    async def resize(self, task_id: str, terminal: Terminal) -> None:
        """See StreamControl.resize."""
        await streams.resize(self._folder(task_id), terminal)

    def _folder(self, task_id: str) -> Path:
        return self._tasks / check_name(task_id)

    async def stop_all(self) -> None:
        """Stop every instance with its grace and return when done; the next agent starts them all again."""
        await self._call("POST", "/v1/stop-all", timeout=httpx2.Timeout(None, connect=2.0))

    async def ping(self) -> dict[str, Any]:
        """Return {"pid": ..., "node": ...} of the agent."""
        found: dict[str, Any] = (await self._call("GET", "/v1/health")).json()
        return found

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _call(self, method: str, path: str, **options: Any) -> httpx2.Response:
        headers = {"content-type": "application/json"} if "content" in options else None
        try:
            response = await self._http.request(method, path, headers=headers, **options)
        except httpx2.TransportError as error:
            raise EngineUnavailable(
                f"the node agent does not answer on {self._socket} ({type(error).__name__}): "
                "it is restarted by `seaway up`; see `seaway status`"
            ) from error
        if response.status_code == 409:
            raise EngineError(response.json()["error"])
        if response.is_error:
            raise EngineError(f"the node agent answered {response.status_code} to {method} {path}; see its log")
        return response

"""A control plane's end, real routers with real Envoys, and small web apps behind them, for contract tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from seaway.home import Home, Settings
from seaway.model import App, AppSpec, AppStatus, Drain, Instance, InstanceState, Meta, Release, Route, WorkloadKey
from seaway.router.envoy import HEALTH_LOG
from seaway.router.plane import XdsPlane, read_secret
from seaway.router.process import BOOTSTRAP_FILE, find_envoys
from seaway.router.table import build_app_table
from tests.ports import free_port

ROUTER = """
import asyncio, json, pathlib, resource, sys
from seaway.home import Home
from seaway.router import bootstrap
from seaway.router.running import run_router
changed = json.loads(sys.argv[3])
if "files" in changed:
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(64, changed["files"]), changed.pop("files")))
vars(bootstrap).update(changed)
home = Home(pathlib.Path(sys.argv[1]))
raise SystemExit(asyncio.run(run_router(sys.argv[2], home, home.read_settings())))
"""


def make_instance(app: str, release: int, port: int, state: InstanceState = InstanceState.RUNNING) -> Instance:
    return Instance(
        id=f"{app}-v{release}-{port}",
        key=WorkloadKey(app=app, release=release, process="web"),
        node="here",
        state=state,
        ready=state is InstanceState.RUNNING,
        address="127.0.0.1",
        port=port,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def make_app(
    name: str, traffic: Mapping[int, int], routes: tuple[Route, ...] = (), drains: tuple[str, ...] = ()
) -> App:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    drain = Drain(since=now, limit=now, why="test")
    status = AppStatus(traffic=dict(traffic), drains=dict.fromkeys(drains, drain))
    return App(meta=Meta(name=name), spec=AppSpec(routes=routes), status=status)


class Backend:
    """A web app that says who it is; /slow answers when it is released; /ws echoes."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.port = 0
        self.requests = 0
        self.slow = 0  # requests for /slow that came
        self.waiting = asyncio.Event()
        self.release = asyncio.Event()
        app = web.Application()
        app.router.add_get("/ws", self._echo)
        app.router.add_route("*", "/slow", self._slow)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app)

    async def start(self, port: int = 0) -> None:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        self.release.set()
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.requests += 1
        headers = {name.lower(): value for name, value in request.headers.items()}
        return web.json_response({"label": self.label, "path": request.path, "headers": headers})

    async def _slow(self, request: web.Request) -> web.Response:
        self.slow += 1
        self.waiting.set()
        await self.release.wait()
        return await self._answer(request)

    async def _echo(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(f"{self.label}:{message.data}")
        return socket


class Lab:
    """One home with a control plane's end, its routers and backends; `close` leaves nothing behind."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.home = Home(root).create()
        self.settings = Settings(http_port=free_port(), **settings)
        self.home.write_settings(self.settings)
        self.plane = XdsPlane()
        self.releases: dict[str, dict[int, Release]] = {}
        self.routers: dict[str, asyncio.subprocess.Process] = {}
        self.backends: list[Backend] = []
        self.client = aiohttp.ClientSession()

    async def start_plane(self) -> None:
        await self.plane.start(self.home.socket("xds"), read_secret(self.home.root))

    async def start_backend(self, label: str, port: int = 0) -> Backend:
        backend = Backend(label)
        await backend.start(port)
        self.backends.append(backend)
        return backend

    async def start_router(self, name: str, **changed: float) -> None:
        """Start a router. `changed`: `files` that it may have open at most, and limits of its bootstrap by name."""
        arguments = [sys.executable, "-c", ROUTER, str(self.home.root), name, json.dumps(changed)]
        self.routers[name] = await asyncio.create_subprocess_exec(*arguments)

    def set_app(self, app: App, *instances: Instance) -> None:
        self.plane.set_app(build_app_table(app, self.releases.get(app.name, {}), instances, "localhost"))

    async def until(self, condition: Callable[[], object], seconds: float = 60) -> None:
        """Wait until a condition of the plane's views holds; looked at whenever they change."""
        changes = self.plane.watch()
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    await anext(changes)
        finally:
            await changes.aclose()  # type: ignore[attr-defined]

    async def until_acked(self, *apps: str) -> None:
        """Wait until every router is connected and has acknowledged all of the apps."""

        def acked() -> bool:
            wanted = {key: version for app in apps for key, version in self.plane.app_versions(app).items()}
            views = self.plane.views()
            return len(views) >= len(self.routers) and all(
                view.connected and wanted.items() <= view.acked.items() for view in views
            )

        await self.until(acked)

    async def until_gone(self, condition: Callable[[], object], seconds: float = 60) -> None:
        """Wait until something is gone at a router that belongs to no app any more: the plane tells nobody, so look."""
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.02)

    async def until_healthy(self, cluster: str, count: int = 1) -> None:
        await self.until(lambda: all(len(view.healthy.get(cluster, ())) == count for view in self.plane.views()))

    @contextlib.asynccontextmanager
    async def ask(
        self, host: str, path: str = "/", method: str = "GET", **options: object
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        url = f"http://127.0.0.1:{self.settings.http_port}{path}"
        headers = {"Host": host, **options.pop("headers", {})}  # type: ignore[dict-item]
        async with self.client.request(method, url, headers=headers, **options) as response:  # type: ignore[arg-type]
            yield response

    async def get(self, host: str, path: str = "/", method: str = "GET", **options: object) -> tuple[int, str]:
        """Return status and the label of who answered, or Seaway's reason code."""
        async with self.ask(host, path, method, **options) as response:
            if "x-seaway-reason" in response.headers:
                return response.status, response.headers["x-seaway-reason"]
            return response.status, (await response.json())["label"]

    async def until_check_failed(self, name: str, cluster: str) -> None:
        """Wait until a router's Envoy has found an endpoint of the cluster not to answer its first check."""
        path = self.home.router(name) / HEALTH_LOG
        async with asyncio.timeout(15):
            while not any(
                event["cluster_name"] == cluster and event.get("health_check_failure_event", {}).get("first_check")
                for event in map(json.loads, path.read_text().rpartition("\n")[0].splitlines())
            ):
                await asyncio.sleep(0.01)  # a file: nobody is told

    def envoys(self, name: str) -> list[int]:
        return find_envoys(self.home.router(name) / BOOTSTRAP_FILE)

    async def stop_router(self, name: str) -> int:
        process = self.routers.pop(name)
        process.terminate()
        return await process.wait()

    async def kill_router(self, name: str) -> None:
        process = self.routers.pop(name)
        process.kill()
        await process.wait()

    async def close(self) -> None:
        await self.client.close()
        names = [path.name for path in (self.home.root / "routers").glob("*")]
        for name in list(self.routers):
            await self.kill_router(name)
        for pid in (pid for name in names for pid in self.envoys(name)):
            os.kill(pid, signal.SIGKILL)
        await self.plane.stop()
        for backend in self.backends:
            await backend.stop()


class Traffic:
    """Asks again and again over several connections, as fast as answers come, and keeps every failure."""

    def __init__(self, lab: Lab, connections: int = 4) -> None:
        self._lab = lab
        self._stop = asyncio.Event()
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(connections)]
        self.good = 0
        self.bad: list[object] = []

    async def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                answer = await self._lab.get("shop.localhost")
            except aiohttp.ClientError as error:
                self.bad.append(error)
                continue
            if answer[0] == 200:
                self.good += 1
            else:
                self.bad.append(answer)
            await asyncio.sleep(0.005)

    @property
    def asked(self) -> int:
        """How many answers there were, of any kind."""
        return self.good + len(self.bad)

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

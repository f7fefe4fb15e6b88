"""The control plane as one process: loop, xDS and API on one event loop. Concrete parts come from the outside."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog
import uvicorn

from seaway.builder.base import Builder
from seaway.control.builds import BuildRunner
from seaway.control.loop import ControlLoop
from seaway.control.observer import Observer
from seaway.control.pruning import Pruner
from seaway.control.reconcile import Reconciler
from seaway.control.routes import PlaneRoutes
from seaway.engine.base import Engine, EngineUnavailable
from seaway.home import Home, Settings
from seaway.model import App, Event, EventSpec, Release, Rollout
from seaway.router.plane import XdsPlane
from seaway.router.table import find_collisions
from seaway.store.base import NotFound, Store, StoreError
from seaway.store.events import KEEP_EVENTS, record_event

log = structlog.get_logger()

TRIM_INTERVAL = 300.0  # seconds between looks at how many events there are
ENGINE_LOOK_INTERVAL = 0.2  # seconds between tries to reach the engine at the start


@dataclass(frozen=True)
class ControlParts:
    """What a control plane is made of. `api` is an ASGI application."""

    home: Home
    settings: Settings
    store: Store
    engine: Engine
    plane: XdsPlane
    builder: Builder
    api: Any


def utc_now() -> datetime:
    """Return the time now, in UTC."""
    return datetime.now(UTC)


class _Server(uvicorn.Server):
    """Uvicorn without signal handlers of its own: the process decides when to stop."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class ControlPlane:
    """Runs the loop and serves the API until told to stop."""

    def __init__(self, parts: ControlParts, clock: Callable[[], datetime] = utc_now) -> None:
        self._parts = parts
        store, engine = parts.store, parts.engine
        expected = [f"router-{n}" for n in range(parts.settings.routers)]
        self._reconciler = Reconciler(
            store,
            engine,
            PlaneRoutes(parts.plane, parts.settings.domain, expected, clock()),
            clock=clock,
            tell=self._tell,
            observe=Observer(engine).observe,
        )
        self._pruner = Pruner(store, parts.builder, engine, parts.home)
        self._builds = BuildRunner(
            store,
            parts.builder,
            parts.home,
            clock=clock,
            tell=self._tell,
            check_routes=self._check_routes,
            on_end=self._pruner.kick,
        )
        sources: tuple[Callable[[], AsyncIterator[str]], ...] = (engine.watch, parts.plane.watch)
        self._loop = ControlLoop(store, self._reconcile, clock=clock, sources=sources, on_failure=self._note_failure)

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        settings = self._parts.settings
        server = _Server(
            uvicorn.Config(
                self._parts.api,
                host=settings.bind,
                port=settings.api_port,
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=1,
            )
        )
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(server.serve(), name="api"),
            asyncio.create_task(self._run_loop(), name="loop"),
            asyncio.create_task(self._trim_events(), name="trim"),
            asyncio.create_task(self._pruner.run(), name="prune"),
        ]
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait({*tasks, stopping}, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()  # raises what broke it
        finally:
            server.should_exit = True
            for task in (*tasks[1:], stopping):
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)
            await self._builds.close()

    async def _run_loop(self) -> None:
        """Wait for the engine, publish every app, only then open xDS: routers keep what they have until then.

        An app that cannot be published holds nobody else up, and what routers have of it stays.
        """
        said = False
        while not await self._reach_engine(quiet=said):
            said = True
            await asyncio.sleep(ENGINE_LOOK_INTERVAL)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._loop.run(), name="control-loop")
            await self._loop.synced.wait()
            held = self._loop.list_known() - self._parts.plane.apps()
            self._parts.plane.hold(held)
            self._parts.plane.open()
            if held:
                log.error("routers are served, but keep what they have of these apps", apps=sorted(held))
            else:
                log.info("every app is published; routers are served")

    async def _reach_engine(self, *, quiet: bool) -> bool:
        try:
            await self._parts.engine.observe()
        except EngineUnavailable as error:
            if not quiet:
                log.info("waiting for the engine", error=str(error))
            return False
        return True

    async def _reconcile(self, name: str) -> datetime | None:
        again = await self._reconciler.reconcile(name)
        try:
            app = await self._parts.store.get(App, name)
        except NotFound:
            return again
        if name not in self._parts.plane.apps():
            raise EngineUnavailable(f"{name} is not published yet")
        await self._builds.reconcile(app)
        return again

    async def _note_failure(self, app: str, error: Exception) -> None:
        """Tell where users look that nothing is done for an app any more, and why."""
        message = f"Nothing can be done for {app} now; what runs goes on, and it is tried again: {error}"
        with suppress(StoreError):
            document = await self._parts.store.get(App, app)
            event = EventSpec(at=utc_now(), app=app, about=f"app {app}", reason="AppStuck", message=message)
            await self._tell(event, document.spec.team)

    async def _tell(self, event: EventSpec, team: str) -> None:
        await record_event(
            self._parts.store,
            about=event.about,
            reason=event.reason,
            message=event.message,
            app=event.app,
            team=team,
            by=event.by,
            at=event.at,
        )

    async def _check_routes(self, app: App, release: Release) -> str:
        """Return why the routes a release declares can't be had, or ""."""
        apps = (await self._parts.store.list(App)).documents
        current = {other.name: other.status.current for other in apps}
        rollouts = (await self._parts.store.list(Rollout)).documents
        coming = {(r.spec.app, r.spec.target) for r in rollouts if not r.ended}
        releases = [
            r
            for r in (await self._parts.store.list(Release)).documents
            if r.spec.number == current.get(r.spec.app) or (r.spec.app, r.spec.number) in coming
        ]
        found = find_collisions(app.name, release.spec.routes, apps, releases, self._parts.settings.domain)
        if not found:
            return ""
        return f"seaway.toml: routes: {'; '.join(map(str, found))}; choose another host or path"

    async def _trim_events(self) -> None:
        while True:
            await self._parts.store.trim(Event, KEEP_EVENTS)
            await asyncio.sleep(TRIM_INTERVAL)

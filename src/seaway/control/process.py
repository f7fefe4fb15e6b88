"""The control plane as one process: loop, xDS and API on one event loop. Concrete parts come from the outside."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import uvicorn

from seaway.builder.base import Builder
from seaway.control.attachments import Attachments
from seaway.control.builds import BuildRunner
from seaway.control.capacity import CapacityJudge
from seaway.control.disk import DiskKeeper
from seaway.control.leading import Alone, Duties, Duty, Leadership
from seaway.control.loop import ControlLoop
from seaway.control.mounts import put_away
from seaway.control.nodes import NodeKeeper
from seaway.control.observer import Observer
from seaway.control.pruning import Pruner
from seaway.control.reconcile import Reconciler
from seaway.control.routes import PlaneRoutes
from seaway.control.serving import BoundedHeads
from seaway.control.unreadable import UnreadableTeller
from seaway.disk import Level
from seaway.engine.base import Engine, EngineUnavailable
from seaway.home import Home, Settings
from seaway.model import App, EventSpec, Release, Rollout
from seaway.rollout.releases import ReleaseRefused, select_live
from seaway.router.plane import XdsPlane
from seaway.router.table import default_route, find_collisions
from seaway.store.base import NotFound, Store, StoreError
from seaway.store.events import record_once, trim_events

log = structlog.get_logger()

TEND_INTERVAL = 300.0  # seconds between looks at how many events there are, and what cannot be read
ENGINE_LOOK_INTERVAL = 0.2  # seconds between tries to reach the engine at the start
OUT_OF_TOUCH = 45.0  # seconds without a word of store or engine after which routers had better ask another replica
TOUCH_INTERVAL = 1.0
CERTIFICATE_INTERVAL = 30.0  # seconds between looks whether the API's certificate was renewed


async def _nothing() -> None:
    """Nothing has to be done."""


@dataclass(frozen=True)
class ControlParts:
    """What a control plane is made of. `api` is an ASGI application; `engine` is bare, without verdicts.

    `expected` names the routers that should be there; `duties` are the leader's besides the loop; `refresh` brings what
    it reads up to what an earlier leader wrote; `silence` returns for how many seconds nothing has been heard of store
    or engine; `certificate` is the (certificate, key) files that the API is served with over TLS; `attachments` and
    `claiming` are the API's; `builds_here`: builds take room on this machine's disk.
    """

    home: Home
    settings: Settings
    store: Store
    engine: Engine
    plane: XdsPlane
    builder: Builder
    api: Any
    expected: Sequence[str] = ()
    leadership: Leadership = field(default_factory=Alone)
    duties: Sequence[Duty] = ()
    refresh: Callable[[], Awaitable[None]] = _nothing
    silence: Callable[[], float] = lambda: 0.0
    certificate: tuple[Path, Path] | None = None
    attachments: Attachments = field(default_factory=Attachments)
    claiming: asyncio.Lock = field(default_factory=asyncio.Lock)
    builds_here: bool = True
    nodes: NodeKeeper | None = None  # made here unless the API shows its verdicts too


def utc_now() -> datetime:
    """Return the time now, in UTC."""
    return datetime.now(UTC)


class _Server(uvicorn.Server):
    """Uvicorn without signal handlers of its own: the process decides when to stop."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _renew_certificate(config: uvicorn.Config, files: tuple[Path, Path] | None) -> None:
    """Serve new connections with the certificate as it is now in its files."""
    certificate, key = files or (None, None)
    seen = certificate.stat().st_mtime_ns if certificate else 0
    while True:
        await asyncio.sleep(CERTIFICATE_INTERVAL)
        if certificate and key and config.ssl and (now := certificate.stat().st_mtime_ns) != seen:
            config.ssl.load_cert_chain(certificate, key)
            seen = now
            log.info("the API's certificate was renewed")


class ControlPlane:
    """Runs the loop and serves the API until told to stop."""

    def __init__(self, parts: ControlParts, clock: Callable[[], datetime] = utc_now) -> None:
        self._parts = parts
        store, engine = parts.store, parts.engine
        self._leadership = parts.leadership
        self._taking_over: asyncio.Task[None] | None = None
        self._ready_to_act = False
        self._nodes = parts.nodes or NodeKeeper(engine, parts.plane, store, clock=clock, tell=self._tell)
        self._observer = Observer(engine, self._nodes.overlay)
        self._reconciler = Reconciler(
            store,
            engine,
            PlaneRoutes(parts.plane, parts.settings.domain, parts.expected, clock()),
            clock=clock,
            tell=self._tell,
            observe=self._observer.observe,
            may_act=self._may_act,
            forget=self._forget,  # of the runner that is made below
            find_host=lambda app: default_route(app, parts.settings.domain).host,
        )
        self._pruner = Pruner(
            store,
            parts.builder,
            engine,
            parts.home,
            is_short=lambda: bool(self._disk.level),
            may_act=self._may_act,
        )
        self._disk = DiskKeeper(parts.home.root, self._tell_of_disk, self._pruner.kick, clock=clock)
        self._builds = BuildRunner(
            store,
            parts.builder,
            parts.home,
            clock=clock,
            tell=self._tell,
            check=self._check_release,
            claiming=parts.claiming,
            on_end=self._pruner.kick,
            find_shortage=self._find_shortage,
        )
        keep_attached = partial(parts.attachments.run, engine, store, self._tell, clock)
        self._duties = Duties((self._tend_store, keep_attached, *parts.duties))
        sources: tuple[Callable[[], AsyncIterator[str]], ...] = (engine.watch, parts.plane.watch, self._nodes.watch)
        self._loop = ControlLoop(store, self._reconcile, clock=clock, sources=sources, on_failure=self._note_failure)

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        settings = self._parts.settings
        certificate, key = self._parts.certificate or (None, None)
        server = _Server(
            uvicorn.Config(
                self._parts.api,
                host=settings.bind,
                port=settings.api_port,
                http=BoundedHeads,
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=1,
                ssl_certfile=certificate,
                ssl_keyfile=key,
            )
        )
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(server.serve(), name="api"),
            asyncio.create_task(self._run_loop(), name="loop"),
            asyncio.create_task(self._leadership.run(self._turn), name="leadership"),
            asyncio.create_task(self._pruner.run(), name="prune"),
            asyncio.create_task(_renew_certificate(server.config, self._parts.certificate), name="certificate"),
            asyncio.create_task(self._nodes.run(), name="nodes"),
            asyncio.create_task(self._disk.run(), name="disk"),
        ]
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait({*tasks, stopping}, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()  # raises what broke it
        finally:
            self._duties.turn(False)  # first: nobody is missing only because this process ends their streams
            server.should_exit = True
            for task in (*tasks[1:], stopping, *filter(None, [self._taking_over])):
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)
            await self._duties.close()
            await self._builds.close()

    def _may_act(self) -> bool:
        return self._ready_to_act and self._leadership.leads

    def _turn(self, leads: bool) -> None:
        """Begin or end to act; who does not lead any more leaves its builds to who does."""
        if self._taking_over:
            self._taking_over.cancel()
        self._ready_to_act = False
        if leads:
            self._taking_over = asyncio.create_task(self._take_over(), name="take-over")
        else:
            self._parts.plane.lead(False)
            self._duties.turn(False)
            self._builds.abandon()

    async def _take_over(self) -> None:
        """Read what the leader before wrote last, then look at everything anew."""
        while True:
            try:
                await self._parts.refresh()
                break
            except StoreError as error:
                log.warning("cannot take over yet", error=str(error))
                await asyncio.sleep(ENGINE_LOOK_INTERVAL)
        self._ready_to_act = True
        self._parts.plane.lead(True)
        self._duties.turn(True)
        self._loop.kick("")

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
            group.create_task(self._stay_in_touch(), name="touch")

    async def _stay_in_touch(self) -> None:
        """Serve no routes that may be old: while this replica is cut off, routers go to another if there is one."""
        is_open = True
        while True:
            await asyncio.sleep(TOUCH_INTERVAL)
            silence = self._parts.silence()
            if is_open and silence > OUT_OF_TOUCH:
                log.error("out of touch with the cluster: routers keep what they have", seconds=round(silence))
                self._parts.plane.close()
                is_open = False
            elif not is_open and silence < OUT_OF_TOUCH:
                log.info("in touch again: routers are served")
                self._parts.plane.open()
                is_open = True

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
        if self._may_act():
            await self._builds.reconcile(app)
        return again

    def _find_shortage(self, running: bool) -> str:
        """Return why no build may begin now, or go on, or ""."""
        if not self._parts.builds_here or self._disk.level < (Level.FULL if running else Level.TIGHT):
            return ""
        return str(self._disk.disk)

    async def _forget(self, app: str) -> None:
        await self._builds.forget(app)
        await asyncio.to_thread(put_away, self._parts.home, app, time.time())

    async def _note_failure(self, app: str, error: Exception) -> None:
        """Tell where users look that nothing is done for an app any more, and why."""
        if not self._may_act():
            return
        message = f"Nothing can be done for {app} now; what runs goes on, and it is tried again: {error}"
        with suppress(StoreError):
            document = await self._parts.store.get(App, app)
            event = EventSpec(at=utc_now(), app=app, about=f"app {app}", reason="AppStuck", message=message)
            await self._tell(event, document.spec.team)

    async def _tell(self, event: EventSpec, team: str) -> None:
        await record_once(self._parts.store, event, team)

    async def _tell_of_disk(self, event: EventSpec, team: str) -> None:
        if self._may_act():  # others have disks of their own, and their clusters look after those
            await self._tell(event, team)

    async def _check_release(self, app: App, release: Release, force: bool) -> str:
        """Raise ReleaseRefused if a build's release cannot have its routes or instances; return what was forced."""
        apps = (await self._parts.store.list(App)).documents
        rollouts = (await self._parts.store.list(Rollout)).documents
        live = select_live(apps, (await self._parts.store.list(Release)).documents, rollouts)
        found = find_collisions(app.name, release.spec.routes, apps, live, self._parts.settings.domain)
        if found:
            problem = f"seaway.toml: routes: {'; '.join(map(str, found))}; choose another host or path"
            raise ReleaseRefused("route-taken", problem)
        judge = CapacityJudge(self._parts.store, self._observer.observe, self._parts.settings)
        return await judge.check_release(app, release, deploy=True, force=force)

    async def _tend_store(self) -> None:
        unreadable = UnreadableTeller(self._parts.store, self._tell, utc_now)
        while True:
            try:
                await trim_events(self._parts.store)
                await unreadable.look()
            except StoreError as error:
                log.warning("the store does not answer; it is tended later", error=str(error))
            await asyncio.sleep(TEND_INTERVAL)

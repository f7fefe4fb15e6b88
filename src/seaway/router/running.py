"""`seaway router`: one router, which is a relay and the Envoy beside it, until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2
import structlog

from seaway.disk import Level, judge, read_disk
from seaway.home import Home, Settings
from seaway.router.admin import EnvoyAdmin
from seaway.router.bootstrap import ACCESS_LOG, RouterConfig, build_bootstrap
from seaway.router.disk import LastGood
from seaway.router.envoy import HEALTH_LOG
from seaway.router.following import HealthLog
from seaway.router.limits import MOST_CONNECTIONS, count_connections
from seaway.router.links import Connector, connect_unix
from seaway.router.plane import read_secret
from seaway.router.probes import serve_probes
from seaway.router.process import DRAIN_TIME, ENVOY_LOG, EnvoyProcess
from seaway.router.relay import Relay
from seaway.router.reports import Reporter
from seaway.sandbox.hanging import INTERVAL, STATES, Pulse, read_state
from seaway.sandbox.procs import raise_file_limit

log = structlog.get_logger("seaway.router")

RESOURCES_FILE = "resources.db"
XDS_SOCKET = "xds"
DRAIN_LIMIT = 10.0  # seconds for requests in flight when a router stops
SHORT_LIFE = 2.0  # seconds; an Envoy that ends sooner is started again with a growing delay
RESTART_LAST = 5.0  # seconds, the longest such delay
TEND_EVERY = 5.0  # seconds between looks at the sizes of the logs, and whether they could be written
LOG_LIMITS = {ACCESS_LOG: (64 << 20, 3), HEALTH_LOG: (8 << 20, 1), ENVOY_LOG: (8 << 20, 1)}
"""Bytes after which a log is put aside, and how many old ones are kept."""


@dataclass(frozen=True)
class Balanced:
    """How a router stops that has a balancer before it, which asks `host`:`port` whether it is ready. In seconds.

    First it says that it is not ready, and serves on for `wait`: new connections go elsewhere after that. Then it asks
    clients to go with each answer, and waits for connections without a request up to `idle`.
    """

    host: str
    port: int
    wait: float
    idle: float


class Router:
    """One router's parts, wired together."""

    def __init__(
        self,
        name: str,
        home: Home,
        settings: Settings,
        connector: Connector | None = None,
        balanced: Balanced | None = None,
    ) -> None:
        self._balanced = balanced
        self._stopping = False
        self._folder = home.router(name)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._relay_socket = home.socket(f"router-{name}")
        admin_socket = home.socket(f"router-{name}-admin")
        files = raise_file_limit()
        connections = count_connections(files)
        if connections < MOST_CONNECTIONS:
            log.warning(
                "this router takes fewer connections than it could: it may open few files (ulimit -Hn, LimitNOFILE)",
                files=files,
                connections=connections,
            )
        config = RouterConfig(
            name=name,
            bind=settings.bind,
            port=settings.http_port,
            relay_socket=str(self._relay_socket),
            admin_socket=str(admin_socket),
            connections=connections,
            trusted=settings.trusted_proxies,
        )
        self._disk = LastGood(self._folder / RESOURCES_FILE)
        self._reporter = Reporter()
        self._connector = connector or connect_unix(home.socket(XDS_SOCKET), name, lambda: read_secret(home.root))
        self._relay = Relay(name, self._disk, self._reporter)
        self._admin = EnvoyAdmin(admin_socket)
        self._envoy = EnvoyProcess(self._folder, build_bootstrap(config))
        self._health = HealthLog(self._folder / HEALTH_LOG, self._reporter.note)

    async def run(self, stop: asyncio.Event, drain_limit: float) -> None:
        """Run until `stop` is set, then drain. Should the router break, Envoy runs on for the next one to adopt."""
        async with AsyncExitStack() as stack:
            if self._balanced:
                probes = {"/ready": self.find_unready, "/alive": self.find_dead}
                await stack.enter_async_context(serve_probes(self._balanced.host, self._balanced.port, probes))
            await self._serve(stop, drain_limit)

    async def _serve(self, stop: asyncio.Event, drain_limit: float) -> None:
        await self._relay.start(self._relay_socket)
        try:
            self._health.skip_to_end()
            adopted = await self._envoy.start()
            if adopted:
                await self._learn_health()
            self._health.start()
            async with asyncio.TaskGroup() as tasks:
                parts = [
                    tasks.create_task(self._relay.follow(self._connector)),
                    tasks.create_task(self._tend_disk()),
                ]
                keeper = tasks.create_task(self._keep_envoy())
                parts.append(tasks.create_task(self._watch_envoy()))
                await stop.wait()
                self._stopping = True
                if self._balanced:
                    log.info("not ready any more; draining begins later", seconds=self._balanced.wait)
                    await asyncio.sleep(self._balanced.wait)
                keeper.cancel()
                await self._drain(drain_limit)
                for part in parts:
                    part.cancel()
        finally:
            self._envoy.release()
            self._health.stop()
            await self._relay.stop()
            await self._admin.close()
            self._disk.close()

    async def find_unready(self) -> str:
        """Return why no requests should be sent here, or ""."""
        if self._stopping:
            return "the router is stopping"
        if not self._relay.complete:
            return "Envoy has not taken every route yet"
        try:
            return "" if await self._admin.is_live() else "Envoy is not live yet"
        except httpx2.HTTPError as error:
            return f"Envoy does not answer ({type(error).__name__})"

    async def find_dead(self) -> str:
        """Return why only a restart can help, or "": an Envoy that ended is started again without one."""
        if self._envoy.ended.is_set():
            return ""
        try:
            await self._admin.is_live()
        except httpx2.TimeoutException as error:
            return f"Envoy runs and does not answer ({type(error).__name__})"
        except httpx2.HTTPError:
            return ""  # it is starting or ending: a connection was refused, or broke in the middle of the answer
        return ""

    async def _learn_health(self) -> None:
        """Ask the adopted Envoy for what its log told while nobody read it."""
        try:
            self._reporter.reset_health(await self._admin.list_healthy())
        except httpx2.HTTPError as error:
            log.error("the adopted Envoy does not answer: it is replaced", error=repr(error))
            await self._envoy.stop()

    async def _keep_envoy(self) -> None:
        delay = 0.0
        while True:
            started = time.monotonic()
            await self._envoy.ended.wait()
            with suppress(OSError):  # what it said last is void anyway
                self._health.read()
            self._reporter.reset_health({})
            lived = time.monotonic() - started
            delay = 0.0 if lived > SHORT_LIFE else min(max(0.1, delay * 2), RESTART_LAST)
            await asyncio.sleep(delay)
            try:
                await self._envoy.start()
            except OSError as error:  # no room, descriptor or process now
                log.error("Envoy cannot be started now", error=str(error))

    async def _watch_envoy(self) -> None:
        """Kill an Envoy that hangs; another one is started then."""
        watched, pulse, answers = 0, Pulse(), 1
        while True:
            await asyncio.sleep(INTERVAL)
            if self._envoy.pid != watched:
                watched, pulse = self._envoy.pid, Pulse()
            try:
                if (state := read_state(watched)) not in STATES:
                    with suppress(httpx2.HTTPError):
                        await self._admin.is_live()
                        answers += 1
            except OSError:  # no descriptor now: nothing is known
                continue
            if not self._envoy.ended.is_set() and (fault := pulse.look(answers, state)):
                log.error("Envoy hangs: it is killed, and started again", pid=watched, why=fault)
                self._envoy.kill()

    async def _drain(self, limit: float) -> None:
        """Ask clients to go, let requests in flight end (at most `limit` seconds), then end Envoy."""
        try:
            await self._admin.begin_draining()
            await asyncio.sleep(DRAIN_TIME)
            began = time.monotonic()
            idle = self._balanced.idle if self._balanced else 0.0
            while time.monotonic() < began + idle and await self._admin.count_connections():
                await asyncio.sleep(0.1)  # Envoy has no event for this
            while (active := await self._admin.count_active()) and time.monotonic() < began + limit:
                await asyncio.sleep(0.1)
            if active:
                log.warning("requests in flight are cut off: the limit has passed", requests=active, limit=limit)
        except httpx2.HTTPError as error:
            log.warning("Envoy does not drain", error=repr(error))
        await self._envoy.stop()

    async def _tend_disk(self) -> None:
        """Bound the logs, old ones go where the disk is almost full; write and learn what was missed on a full one."""
        missed, envoy = 0, 0
        while True:
            await asyncio.sleep(TEND_EVERY)
            self._disk.catch_up()
            try:
                self._health.read()
                rotated = [name for name, limits in LOG_LIMITS.items() if rotate(self._folder / name, *limits)]
                if judge(read_disk(self._folder)) >= Level.TIGHT:
                    for old in self._folder.glob("*.log.*[0-9]"):
                        old.unlink()
                if rotated:
                    await self._admin.reopen_logs()
                count = await self._admin.count_failed_writes()
                if count > (missed if envoy == self._envoy.pid else 0):
                    self._reporter.reset_health(await self._admin.list_healthy())
                    log.warning("Envoy could not write its logs; what it finds healthy was asked for", writes=count)
                missed, envoy = count, self._envoy.pid
            except (OSError, httpx2.HTTPError) as error:
                log.warning("the logs of Envoy are not tended now", error=repr(error))


def rotate(path: Path, limit: int, keep: int) -> bool:
    """Rename a file above `limit` bytes to PATH.1 and older ones upwards, `keep` of them; return whether it was."""
    try:
        if path.stat().st_size <= limit:
            return False
    except FileNotFoundError:
        return False
    for number in range(keep, 1, -1):
        older = Path(f"{path}.{number - 1}")
        if older.exists():
            older.replace(f"{path}.{number}")
    path.replace(f"{path}.1")
    return True


async def run_router(
    name: str,
    home: Home,
    settings: Settings,
    drain_limit: float = DRAIN_LIMIT,
    connector: Connector | None = None,
    *,
    balanced: Balanced | None = None,
) -> int:
    """Run one router until SIGTERM or SIGINT, then drain it and return 0; a second signal cuts the draining short.

    `connector` is the way to the control plane (default: the one of this home, over its unix socket).
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    running = asyncio.create_task(Router(name, home, settings, connector, balanced).run(stop, drain_limit))

    def hear() -> None:
        if stop.is_set():
            log.warning("told twice: stopping now")
            cut()
        stop.set()

    cut: Callable[[], object] = running.cancel
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, hear)
    try:
        await running
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    return 0

"""The composition root: the one place that names concrete classes."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence, Set
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO, cast

from seaway.home import Home, Settings

if TYPE_CHECKING:
    from seaway.cli.commands.install import InstallAnswer, InstallOptions, UninstallOptions
    from seaway.cli.commands.platform import Part
    from seaway.cli.progress import Progress
    from seaway.supervisor.supervise import Endings

ALREADY_RUNS = 75  # EX_TEMPFAIL: another process holds this part


def run() -> None:
    """Entry point of the `seaway` command.

    Parts start without the command line's modules, sooner by half; commands without those of the parts, by a tenth.
    """
    match sys.argv[1:]:
        case ["control"]:
            sys.exit(run_part_control())
        case ["node"]:
            sys.exit(run_part_node())
        case ["router", name] if not name.startswith("-"):
            sys.exit(run_part_router(name))
        case ["supervise"]:
            sys.exit(supervise())
    from seaway.cli.app import build_cli
    from seaway.cli.commands.install import InstallCommands
    from seaway.cli.commands.platform import PlatformCommands

    commands = PlatformCommands(
        up=up,
        down=down,
        status_local=status_local,
        control=run_part_control,
        node=run_part_node,
        router=run_part_router,
        supervise=supervise,
    )
    build_cli(commands, InstallCommands(install=install, uninstall=uninstall))()


def run_part_control() -> int:
    """Run the control plane until told to stop."""
    return _run_part("control", run_control)


def run_part_node() -> int:
    """Run the node agent until told to stop."""
    return _run_part("node", run_node)


def run_part_router(name: str) -> int:
    """Run a router until told to stop."""
    return _run_part(name, lambda home: run_router_part(name, home))


def configure_logging() -> None:
    """Log one JSON object a line to standard error."""
    import logging

    import structlog

    from seaway.own_log import Unfailing

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="@timestamp"),
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, Unfailing(sys.stderr.fileno()))),
    )


def _run_part(part: str, main: Callable[[Home], Awaitable[int]]) -> int:
    """Hold the part's lock, watch over the supervisor, and run."""
    import structlog

    from seaway.install.settings import is_in_cluster
    from seaway.supervisor.guard import is_stopping, start_guard
    from seaway.supervisor.locks import Held, acquire

    configure_logging()
    home = Home.find().create()
    try:
        lock = acquire(home, part, beats=True)
    except Held as held:
        structlog.get_logger().info("runs already", part=part, pid=held.pid)
        return ALREADY_RUNS
    if not is_in_cluster(os.environ):
        if part != "node" and is_stopping(home):  # whoever stops the parts looks for their locks after that mark
            return 0
        start_guard(home)
    try:
        return asyncio.run(_run_beating(main(home), lock))
    finally:
        os.close(lock)


async def _run_beating(work: Awaitable[int], lock: int) -> int:
    """Do the work of a part, and say all the while that it goes on."""
    from seaway.supervisor.pulse import beat

    beating = asyncio.create_task(beat(lock))
    try:
        return await work
    finally:
        beating.cancel()


async def run_control(home: Home) -> int:
    """Run the control plane: SQLite, the local engine, xDS, the API; or one replica of it in a cluster."""
    from seaway.install.settings import ClusterSettings, is_in_cluster

    if is_in_cluster(os.environ):
        from seaway.in_cluster import run_control as run_in_cluster

        return await run_in_cluster(home, ClusterSettings.read(os.environ))
    from seaway.api import ApiDeps, create_api, ensure_admin_token
    from seaway.builder.process import SubprocessBuilder
    from seaway.control.attachments import Attachments
    from seaway.control.process import ControlParts, ControlPlane
    from seaway.engine.local.client import LocalEngine
    from seaway.logs.reader import FileLogReader
    from seaway.metrics.endpoint import add_metrics
    from seaway.router.plane import XdsPlane, read_secret
    from seaway.sandbox.procs import raise_file_limit
    from seaway.store.sqlite import RESERVE, SqliteStore

    raise_file_limit()
    settings = home.read_settings()
    store = SqliteStore.open(home.database, reserve=RESERVE)
    await ensure_admin_token(store, home, datetime.now(UTC))
    builder = SubprocessBuilder(home)
    await asyncio.to_thread(builder.clean_leftovers)
    engine, plane, attachments = LocalEngine(home), XdsPlane(), Attachments()
    deps = ApiDeps(
        store=store, engine=engine, routers=plane, logs=FileLogReader(home), home=home, settings=settings,
        attachments=attachments, task_streams=engine,
    )  # fmt: skip
    api = create_api(deps)
    add_metrics(api, store, engine, plane, home.root)
    await plane.start(home.socket("xds"), read_secret(home.root))
    try:
        await ControlPlane(
            ControlParts(
                home=home,
                settings=settings,
                store=store,
                engine=engine,
                plane=plane,
                builder=builder,
                api=api,
                attachments=attachments,
                claiming=deps.claiming,
                expected=[f"router-{n}" for n in range(settings.routers)],
            )
        ).run()
    finally:
        await plane.stop()
        await store.close()
    return 0


async def run_node(home: Home) -> int:
    """Run the node agent of the local engine."""
    from seaway.builder.layout import ImageError
    from seaway.builder.unpack import CannotRun, ImageUnpacker
    from seaway.engine.base import EngineError
    from seaway.engine.local.agent import run_agent
    from seaway.engine.local.base import RunRoot
    from seaway.logs.collector import FileLogCollector

    class Images:
        """The builder's images as the node agent wants them."""

        def __init__(self) -> None:
            self._unpacker = ImageUnpacker(home)

        async def prepare(self, image: str) -> RunRoot:
            try:
                found = await self._unpacker.prepare(image)
            except (CannotRun, ImageError) as error:
                raise EngineError(str(error)) from error
            return RunRoot(found.workdir, found.env, found.folders, found.places)

        def release(self, images_in_use: Set[str]) -> None:
            asyncio.run(self._unpacker.release(images_in_use))  # called in a thread of its own

    return await run_agent(home, Images(), FileLogCollector(home))


async def run_router_part(name: str, home: Home) -> int:
    """Run one router."""
    from seaway.install.settings import ClusterSettings, is_in_cluster

    if is_in_cluster(os.environ):
        from seaway.install.routing import run_cluster_router

        return await run_cluster_router(name, home, ClusterSettings.read(os.environ))
    from seaway.router.running import run_router

    return await run_router(name, home, home.read_settings())


def find_endings() -> Endings:
    """Return how what the parts of this home have started ends."""
    from seaway.supervisor.supervise import Endings

    return Endings(stop_apps, sweep_home)


async def sweep_home() -> list[str]:
    """End Envoys and instances that are there without a router or a node agent; return what there was."""
    from seaway.engine.local.sweeping import sweep
    from seaway.router.process import end_envoys

    home = Home.find()
    envoys = [f"Envoy (pid {pid})" for pid in end_envoys(home.routers)]
    return envoys + await sweep(home)


async def stop_apps() -> None:
    """Have the node agent stop every instance; what is wanted stays, for the next `seaway up`."""
    from seaway.engine.base import EngineError
    from seaway.engine.local.client import LocalEngine
    from seaway.supervisor.running import PlatformError

    engine = LocalEngine(Home.find())
    for _ in range(100):
        with suppress(EngineError):
            await engine.stop_all()
            return
        await asyncio.sleep(0.1)
    raise PlatformError("the node agent does not answer, so apps may still run; see logs/platform/node.log")


def supervise() -> int:
    """Run the supervisor (in the background)."""
    from seaway.supervisor.supervise import run_supervisor

    configure_logging()
    return asyncio.run(run_supervisor(Home.find(), find_endings()))


def up(settings: Settings, detach: bool) -> int:
    """Start the platform."""
    from seaway.cli.errors import CliError
    from seaway.sandbox.sandbox import ORDINARY, UNPROTECTED
    from seaway.supervisor.running import PlatformError, run_foreground, start_detached, wait_started

    home = Home.find()
    try:
        if not detach:
            configure_logging()
            if os.geteuid() != 0:
                print(f"warning: {UNPROTECTED}: {ORDINARY}", file=sys.stderr)
            return run_foreground(home, settings, find_endings())
        start_detached(home, settings)
        wait_started(home, lambda: _find_missing(home, settings), lambda text: print(f"  {text}", file=sys.stderr))
    except PlatformError as error:
        raise CliError(str(error)) from error
    return 0


def _find_missing(home: Home, settings: Settings) -> str:
    """Return what the platform still lacks, or ""."""
    import httpx2

    from seaway.supervisor.running import list_states

    missing = [state.name for state in list_states(home) if state.pid is None]
    if missing:
        return f"starting {', '.join(missing)}"
    try:
        token = home.admin_token.read_text().strip()
        url = f"http://{settings.bind}:{settings.api_port}/v1/status"
        answer = httpx2.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=2)
    except (httpx2.HTTPError, FileNotFoundError):
        return "waiting for the API"
    if answer.status_code != httpx2.codes.OK:
        return f"waiting for the API (it answers {answer.status_code})"
    connected = sum(router["connected"] for router in answer.json()["routers"])
    if connected < settings.routers:
        return f"waiting for the routers ({connected} of {settings.routers} connected)"
    return ""


def down(timeout: float) -> bool:
    """Stop the platform, apps included; return whether there was anything to stop."""
    from seaway.cli.errors import CliError
    from seaway.supervisor.running import PlatformError, stop

    home = Home.find()
    try:
        return home.run.exists() and stop(home, find_endings(), timeout)
    except PlatformError as error:
        raise CliError(str(error)) from error


def status_local() -> Sequence[Part]:
    """Return the parts as the lock files tell."""
    from seaway.cli.commands.platform import Part
    from seaway.supervisor.running import list_states

    home = Home.find()
    if not home.run.exists():
        return []
    states = list_states(home)
    if not any(state.pid for state in states):
        return []
    return [
        Part(
            name=state.name,
            state="hangs" if state.fault else "running" if state.pid else "stopped",
            reason=state.fault,
            pid=state.pid,
            started_at=datetime.fromtimestamp(state.since, UTC) if state.since else None,
        )
        for state in states
    ]


async def install(options: InstallOptions, progress: Progress) -> InstallAnswer:
    """Put Seaway into a cluster."""
    from seaway.cli.commands.install import InstallAnswer
    from seaway.cli.errors import CliError
    from seaway.install.errors import InstallError
    from seaway.install.installing import Request
    from seaway.install.installing import install as install_into
    from seaway.install.own_image import RegistryImages

    request = Request(
        given=options.settings,
        kubeconfig=options.kubeconfig,
        context=options.context,
        registry_login=options.pull_secret,
        build=options.build,
        dry_run=options.dry_run,
        within=options.within,
    )
    try:
        done = await install_into(request, progress, RegistryImages())
    except InstallError as error:
        raise CliError(error.message, hint=error.hint, exit_code=error.exit_code, field=error.field) from error
    return InstallAnswer(done.document(dry_run=options.dry_run), done.manifests, done.token)


async def uninstall(options: UninstallOptions, progress: Progress) -> list[dict[str, str]]:
    """Take Seaway out of a cluster."""
    from seaway.cli.errors import CliError
    from seaway.install.errors import InstallError
    from seaway.install.removing import Removal
    from seaway.install.removing import uninstall as take_out

    removal = Removal(options.namespace, options.apps.value, options.kubeconfig, options.context, options.within)
    try:
        return [change.document() for change in await take_out(removal, progress)]
    except InstallError as error:
        raise CliError(error.message, hint=error.hint, exit_code=error.exit_code, field=error.field) from error

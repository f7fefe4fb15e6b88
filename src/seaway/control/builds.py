"""Runs builds and makes releases of what they built. Documents say what is to be done; tasks only do it.

A build that was running when the control plane died is run again (builds are idempotent), three times at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from operator import itemgetter
from typing import Any

import structlog

from seaway.builder.base import Builder, BuildError, Built
from seaway.builder.git import describe_git
from seaway.control.reconcile import TELL_AGAIN, Tell
from seaway.home import Home
from seaway.model import App, Build, BuildState, BuildStatus, EventSpec, Release, Rollout, Source
from seaway.rollout.releases import ImageChange, ReleaseRefused, compose_release
from seaway.store.base import AlreadyExists, Conflict, NotFound, Store

log = structlog.get_logger()

MAX_ATTEMPTS = 3
AT_ONCE = 2  # builds of all apps; the others wait in the order in which they came
WAITS = "waits for room"
LOOK_INTERVAL = 1.0  # seconds between looks whether a build may go on
OPEN = (BuildState.QUEUED, BuildState.RUNNING)
ENDS = {BuildState.SUCCEEDED: "BuildSucceeded", BuildState.FAILED: "BuildFailed"}


async def _allow(_app: App, _release: Release, _force: bool) -> str:
    """Any release may be made."""
    return ""


class BuildRunner:
    """Starts queued builds, at most `parallel` at once, one per app; cancels; turns images into releases.

    `find_shortage` returns why no build may begin now (told True: go on), "" if one may: those that are queued wait.
    `check` raises ReleaseRefused for a release that may not be made; it is told whether that is forced, and returns
    what is to be said of a release that was. `claiming` is held from then until the release is stored.
    """

    def __init__(
        self,
        store: Store,
        builder: Builder,
        home: Home,
        *,
        clock: Callable[[], datetime],
        tell: Tell,
        parallel: int = AT_ONCE,
        check: Callable[[App, Release, bool], Awaitable[str]] = _allow,
        claiming: asyncio.Lock | None = None,
        on_end: Callable[[], None] = lambda: None,
        find_shortage: Callable[[bool], str] = lambda _: "",
    ) -> None:
        self._store = store
        self._builder = builder
        self._home = home
        self._clock = clock
        self._tell = tell
        self._slots = asyncio.Semaphore(parallel)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._check = check
        self._claiming = claiming or asyncio.Lock()
        self._on_end = on_end
        self._find_shortage = find_shortage
        self._told: set[str] = set()  # apps of which no event of an end is missing that was lost before this start

    async def reconcile(self, app: App) -> None:
        """Look at the app's builds: start, cancel, release."""
        builds = (await self._store.list(Build, {"app": app.name})).whole()
        await self._tell_again(app.name, builds)
        for build in builds:
            state = build.status.state
            if state in OPEN and (build.spec.cancel or app.spec.destroy):
                await self._cancel(build)
            elif state is BuildState.RUNNING and build.name not in self._running:
                await self._start_again(build)
        busy = any(b.name in self._running for b in builds)
        queued = [b for b in builds if b.status.state is BuildState.QUEUED and not b.spec.cancel]
        if queued and not busy and not app.spec.destroy:
            first = min(queued, key=lambda b: b.spec.number)
            if shortage := self._find_shortage(False):
                await self._hold(first, shortage)
            else:
                self._start(first)
        for build in sorted(builds, key=lambda b: b.spec.number):
            if build.status.state is BuildState.SUCCEEDED and build.spec.deploy and build.status.release is None:
                await self._release(app, build, builds)

    async def forget(self, app: str) -> None:
        """End what is left of the builds of an app that is being deleted; nobody who takes its name gets any of it."""
        tasks = [task for name, task in self._running.items() if name.rpartition(".b")[0] == app]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._builder.forget(app)

    def abandon(self) -> list[asyncio.Task[None]]:
        """Stop what runs, and return it; whoever leads next runs it again."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        return tasks

    async def close(self) -> None:
        """Stop what runs; it is run again when the control plane is back."""
        await asyncio.gather(*self.abandon(), return_exceptions=True)

    def _start(self, build: Build) -> None:
        task = asyncio.create_task(self._run(build), name=f"build-{build.name}")
        self._running[build.name] = task
        task.add_done_callback(lambda _: self._running.pop(build.name, None))

    async def _hold(self, build: Build, shortage: str) -> None:
        """Say why a build waits, once: how full the disk is changes all the time."""
        if not build.status.reason.startswith(WAITS):
            await self._write(build, reason=f"{WAITS}: {shortage}")

    async def _start_again(self, build: Build) -> None:
        """Queue a build that a dead control plane left running, or give it up."""
        if build.status.attempts >= MAX_ATTEMPTS:
            await self._end(build, BuildState.FAILED, f"interrupted {MAX_ATTEMPTS} times; deploy again")
        else:
            await self._write(build, state=BuildState.QUEUED, reason="interrupted by a restart; runs again")

    async def _cancel(self, build: Build) -> None:
        task = self._running.get(build.name)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        await self._end(build, BuildState.CANCELLED, "cancelled")

    async def _run(self, build: Build) -> None:
        async with self._slots:
            started = await self._write(
                build,
                state=BuildState.RUNNING,
                reason="starts",
                attempts=build.status.attempts + 1,
                started_at=self._clock(),
            )
            if started is None:
                return
            try:
                async with asyncio.timeout(build.spec.timeout):
                    built = await self._build_while_there_is_room(build)
            except TimeoutError:
                await self._end(build, BuildState.FAILED, f"took longer than {build.spec.timeout:g} s")
            except BuildError as error:
                await self._end(build, BuildState.FAILED, str(error))
            except asyncio.CancelledError:
                raise
            except Exception as error:
                log.exception("build crashed", build=build.name)
                await self._end(build, BuildState.FAILED, f"the builder itself failed: {error}")
            else:
                reason = f"built {built.image.rpartition('sha256:')[2][:12]}"
                await self._end(build, BuildState.SUCCEEDED, reason, image=built.image, manifest=built.manifest)

    async def _build_while_there_is_room(self, build: Build) -> Built:
        """Build; raise BuildError, with what it took free again, if there is no room for builds any more."""
        log_file = self._home.build_log(build.name, build.meta.uid)
        work = self._builder.build(build.spec.app, build.spec.source, log_file, lambda _: None)
        building = asyncio.create_task(work, name=f"building-{build.name}")
        try:
            while not (await asyncio.wait({building}, timeout=LOOK_INTERVAL))[0]:
                if shortage := self._find_shortage(True):
                    raise BuildError(f"ended, as {shortage}; build it again when there is room")
            return building.result()
        finally:
            building.cancel()
            await asyncio.wait({building})

    async def _end(self, build: Build, state: BuildState, reason: str, **more: Any) -> None:
        ended = await self._write(build, state=state, reason=reason, ended_at=self._clock(), **more)
        if ended is not None:
            self._on_end()
            await self._tell_end(ended)

    async def _tell_end(self, build: Build) -> None:
        status = build.status
        assert status.ended_at is not None
        word = ENDS.get(status.state, "BuildCancelled")
        event = EventSpec(
            at=status.ended_at, app=build.spec.app, about=f"build {build.name}", reason=word, message=status.reason
        )
        await self._tell(event, build.meta.labels.get("team", ""))

    async def _tell_again(self, app: str, builds: tuple[Build, ...]) -> None:
        """Tell of the build that ended last, if this process has not: the one before may have died first."""
        ended = [(b.status.ended_at, b) for b in builds if b.status.ended_at and b.status.release is None]
        if app not in self._told and ended:
            at, last = max(ended, key=itemgetter(0))
            if self._clock() - at < TELL_AGAIN:
                await self._tell_end(last)
        self._told.add(app)

    async def _write(self, build: Build, **update: Any) -> Build | None:
        """Change the status of the newest version of a build that is still open; None if it is not."""
        while True:
            try:
                newest = await self._store.get(Build, build.name)
                if newest.status.state not in OPEN:
                    return None
                status = BuildStatus.model_validate(newest.status.model_dump() | _plain(update))
                return await self._store.update(newest.model_copy(update={"status": status}))
            except Conflict:
                continue
            except NotFound:
                return None

    async def _release(self, app: App, build: Build, builds: tuple[Build, ...]) -> None:
        """Make the release of a built image, once; a build that a newer one overtook makes none."""
        assert build.status.image is not None
        assert build.status.manifest is not None
        releases = (await self._store.list(Release, {"app": app.name})).whole()
        made = next((r.spec.number for r in releases if r.spec.build == build.name), None)
        overtaken = [b for b in builds if b.spec.number > build.spec.number and b.status.release]
        if made is None and overtaken:
            await self._note_release(build, 0, f"superseded by build {overtaken[0].spec.number}; no release was made")
            return
        more = ""  # is said besides what was built
        while made is None:
            rollouts = (await self._store.list(Rollout, {"app": app.name})).whole()
            said = describe_deploy(build.spec.source, build.status.image)
            change = ImageChange(build.status.image, build.status.manifest, build.name, build.spec.strategy, said)
            try:
                release = compose_release(app, releases, rollouts, change, build.spec.by)
                async with self._claiming:
                    more = await self._check(app, release, build.spec.force)
                    made = (await self._store.create(release)).spec.number
                more += f" Note: {release.spec.note}." if release.spec.note else ""
            except ReleaseRefused as refused:
                await self._note_release(build, 0, refused.message)
                return
            except AlreadyExists:
                releases = (await self._store.list(Release, {"app": app.name})).whole()
        await self._note_release(build, made, f"{build.status.reason}.{more}" if more else build.status.reason)

    async def _note_release(self, build: Build, number: int, reason: str) -> None:
        """Record the release made of a build; 0: none, and `reason` says why, as an event tells too."""
        if not number and build.status.ended_at:
            event = EventSpec(
                at=build.status.ended_at, app=build.spec.app, about=f"build {build.name}", reason="ReleaseRefused",
                message=reason,
            )  # fmt: skip
            await self._tell(event, build.meta.labels.get("team", ""))
        status = build.status.model_copy(update={"release": number, "reason": reason})
        await self._store.update(build.model_copy(update={"status": status}))


def describe_deploy(source: Source, image: str) -> str:
    """Return what is said of the release of a build, or "" if its source has no name."""
    name = describe_git(source)
    return f"Deploy {name} ({image.rpartition('sha256:')[2][:12]})" if name else ""


def _plain(update: dict[str, Any]) -> dict[str, Any]:
    return {k: v.model_dump() if hasattr(v, "model_dump") else v for k, v in update.items()}

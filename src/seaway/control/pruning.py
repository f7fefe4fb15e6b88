"""Pruner: deletes images, sources, logs and old documents that nothing can need any more, so that the disk stays free.

At the start, after each build, and every hour. Builds go on meanwhile: an image is not touched while any build adds
layers, nor within SPARE of its (re-)use, which is how a build's result stays until the build's document names it.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Set
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import structlog

from seaway.builder.base import Builder
from seaway.control.mounts import remove_old
from seaway.engine.base import Engine, EngineError
from seaway.home import Home
from seaway.model import App, Build, Observation, Release, Rollout
from seaway.rollout.decide import task_id
from seaway.rollout.history import History, list_images, select_surplus
from seaway.rollout.keeping import list_wanted_sources
from seaway.store.base import Conflict, NotFound, Store, StoreError

log = structlog.get_logger()

INTERVAL = 3600.0  # seconds between looks when no build ends
RETRY = 60.0  # seconds until the next try when a build was under way, or something did not answer
SETTLE = 5.0  # seconds after a build's end: its release is made first, and several builds cause one look
SPARE = 3600.0  # seconds since its last use for which an image or source that nothing refers to is left alone
EARLY_SPARE = 300.0  # likewise where the disk is filling up
CACHE_SPARE = 30 * 24 * 3600.0  # seconds without a build until an app's cache is deleted
SUFFIX = ".tar.gz"
APP_LOGS = (".jsonl", ".checkpoint.json", "current")  # how files of an app's logs end


class Pruner:
    """Looks at all documents, then deletes what they don't need."""

    def __init__(
        self,
        store: Store,
        builder: Builder,
        engine: Engine,
        home: Home,
        *,
        clock: Callable[[], float] = time.time,
        is_short: Callable[[], bool] = lambda: False,
        may_act: Callable[[], bool] = lambda: True,
    ) -> None:
        """`is_short`: whether the disk is filling up; `may_act`: whether documents are this one's to delete."""
        self._store = store
        self._builder = builder
        self._engine = engine
        self._home = home
        self._clock = clock
        self._is_short = is_short
        self._may_act = may_act
        self._due = asyncio.Event()

    def kick(self) -> None:
        """A build has ended, or the disk is filling up: look soon."""
        self._due.set()

    async def run(self) -> None:
        """Prune for ever."""
        while True:
            wait = INTERVAL
            try:
                if not await self.prune():
                    wait = RETRY
            except (StoreError, EngineError) as error:
                log.warning("could not prune; tries again", error=str(error), seconds=RETRY)
                wait = RETRY
            except Exception:  # a full or damaged disk, or a bug: nothing that should end the control plane
                log.exception("could not prune; tries again", seconds=RETRY)
                wait = RETRY
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._due.wait()
                await asyncio.sleep(SETTLE)
            self._due.clear()

    async def prune(self) -> bool:
        """Delete what nothing needs; False: a build was under way and images were left for later."""
        now, is_short = self._clock(), self._is_short()
        spare_after = now - (EARLY_SPARE if is_short else SPARE)
        old = await asyncio.to_thread(_list_old, self._home.sources, SUFFIX, spare_after)
        old_logs = await asyncio.to_thread(_list_old, self._home.builds, ".log", spare_after)
        builds = (await self._store.list(Build)).whole()
        sources = {self._home.sources / f"{digest}{SUFFIX}" for digest in list_wanted_sources(builds)}
        logs = {self._home.build_log(build.name, build.meta.uid) for build in builds}
        unwanted = [*(set(old) - sources), *(set(old_logs) - logs)]
        unwanted += await self._list_logs_of_gone_apps(spare_after)
        freed = await asyncio.to_thread(_delete, unwanted, spare_after)
        await asyncio.to_thread(remove_old, self._home, now - SPARE)
        observation = await self._engine.observe()
        needed = {workload.image for workload in observation.workloads}
        async for history in read_histories(self._store):
            needed |= list_images(history)
            await self._shorten(history, observation, datetime.fromtimestamp(now, UTC))
        caches_after = spare_after if is_short else now - CACHE_SPARE
        of_images = await self._builder.prune(needed, spare_after, caches_after)
        if freed or of_images:
            log.info("pruned", images_bytes=of_images or 0, sources_bytes=freed, files=len(unwanted))
        return of_images is not None

    async def _shorten(self, history: History, observation: Observation, now: datetime) -> None:
        """Delete the documents of an app that are too many. What somebody changed meanwhile stays until next time."""
        surplus = await asyncio.to_thread(select_surplus, history, _list_in_use(history, observation), now)
        for document in (*surplus.releases, *surplus.rollouts, *surplus.builds):
            if not self._may_act():
                return
            with suppress(NotFound, Conflict):
                await self._store.delete(type(document), document.name, document.meta.revision)

    async def _list_logs_of_gone_apps(self, spare_after: float) -> list[Path]:
        """Return the files of logs of apps that were destroyed a while ago."""
        folders = await asyncio.to_thread(lambda: [path for path in self._home.logs.iterdir() if path.is_dir()])
        apps = {app.name for app in (await self._store.list(App)).whole()}
        gone = [folder for folder in folders if folder.name not in apps]
        return [path for folder in gone for end in APP_LOGS for path in _list_old(folder, end, spare_after)]


async def list_needed_images(store: Store) -> Set[str]:
    """Return every image that documents may still need."""
    return frozenset({image async for history in read_histories(store) for image in list_images(history)})


async def read_histories(store: Store) -> AsyncIterator[History]:
    """Yield the documents of each app; raise Unreadable if one does not fit, as it might need anything."""
    built: dict[str, list[Build]] = defaultdict(list)
    for build in (await store.list(Build)).whole():
        built[build.spec.app].append(build)
    for app in (await store.list(App)).whole():
        rollouts = (await store.list(Rollout, {"app": app.name})).whole()
        releases = (await store.list(Release, {"app": app.name})).whole()
        yield History(app, releases, rollouts, tuple(built[app.name]))


def _list_in_use(history: History, observation: Observation) -> Set[int]:
    """Return the releases of which the engine has something, be it a task that is over."""
    name, part = history.app.name, observation.part(history.app.name)
    used = {workload.key.release for workload in part.workloads} | {instance.key.release for instance in part.instances}
    return used | {r.spec.number for r in history.releases if task_id(name, r.spec.number) in part.tasks}


def _list_old(folder: Path, suffix: str, spare_after: float) -> list[Path]:
    """Return the files with this ending that were last used before `spare_after` (Unix time)."""
    return [path for path in folder.glob(f"*{suffix}") if not path.is_dir() and path.lstat().st_mtime < spare_after]


def _delete(paths: list[Path], spare_after: float) -> int:
    """Delete the files, unless used meanwhile; return the bytes freed."""
    freed = 0
    for path in paths:
        stat = path.lstat()
        if stat.st_mtime < spare_after:
            path.unlink()
            freed += stat.st_size
    return freed

"""Pruner: deletes images, sources and logs that nothing can need any more, so that the disk stays free.

At the start, after each build, and every hour. Builds go on meanwhile: an image is not touched while any build adds
layers, nor within SPARE of its (re-)use, which is how a build's result stays until the build's document names it.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Set
from contextlib import suppress
from pathlib import Path

import structlog

from seaway.builder.base import Builder
from seaway.engine.base import Engine, EngineError
from seaway.home import Home
from seaway.model import App, Build, Release, Rollout
from seaway.rollout.keeping import list_built_images, list_kept_images, list_wanted_sources
from seaway.store.base import Store, StoreError

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
    ) -> None:
        """`is_short`: whether the disk is filling up."""
        self._store = store
        self._builder = builder
        self._engine = engine
        self._home = home
        self._clock = clock
        self._is_short = is_short
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
        running = {workload.image for workload in (await self._engine.observe()).workloads}
        needed = running | await list_needed_images(self._store)
        caches_after = spare_after if is_short else now - CACHE_SPARE
        of_images = await self._builder.prune(needed, spare_after, caches_after)
        if freed or of_images:
            log.info("pruned", images_bytes=of_images or 0, sources_bytes=freed, files=len(unwanted))
        return of_images is not None

    async def _list_logs_of_gone_apps(self, spare_after: float) -> list[Path]:
        """Return the files of logs of apps that were destroyed a while ago."""
        folders = await asyncio.to_thread(lambda: [path for path in self._home.logs.iterdir() if path.is_dir()])
        apps = {app.name for app in (await self._store.list(App)).whole()}
        gone = [folder for folder in folders if folder.name not in apps]
        return [path for folder in gone for end in APP_LOGS for path in _list_old(folder, end, spare_after)]


async def list_needed_images(store: Store) -> Set[str]:
    """Return every image that documents may still need."""
    built: dict[str, list[Build]] = defaultdict(list)
    for build in (await store.list(Build)).whole():
        built[build.spec.app].append(build)
    needed: set[str] = set().union(*(list_built_images(of_app) for of_app in built.values()))
    for app in (await store.list(App)).whole():
        rollouts = (await store.list(Rollout, {"app": app.name})).whole()
        releases = (await store.list(Release, {"app": app.name})).whole()
        needed |= list_kept_images(app, releases, rollouts)
    return needed


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

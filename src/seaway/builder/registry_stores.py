"""Sources and build logs in the registry, so that a replica can read what another one was sent or wrote."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable, Set
from pathlib import Path

from seaway.builder.stores import FolderSources
from seaway.home import Home
from seaway.registry.errors import Unsupported
from seaway.registry.images import Registries
from seaway.registry.shelf import Shelf

USED = "dev.seaway.used"  # a note: Unix time of the last use
WRITTEN = "dev.seaway.written"  # a note: Unix time when the log was last written to
RENEW = 600.0  # seconds; a use later than that after the last noted one is noted
SAME = 0.002  # seconds; times are noted in thousandths

_HEX = re.compile(r"[0-9a-f]{64}")


class RegistrySources:
    """SourceStore in the registry, with `home.sources` as a cache of what went through this replica."""

    def __init__(self, registries: Registries, home: Home, clock: Callable[[], float] = time.time) -> None:
        self._shelf = Shelf(registries.home, registries.own, "seaway.sources", "source")
        self._cache = FolderSources(home.sources)
        self._clock = clock

    async def put(self, archive: Path, digest: str) -> None:
        """See SourceStore."""
        await self._shelf.put_file(digest, archive, f"sha256:{digest}", self._note())
        await self._cache.put(archive, digest)

    async def use(self, digest: str) -> bool:
        """See SourceStore."""
        item = await self._shelf.find(digest)
        if item is None:
            return False
        if self._clock() - _time(item.notes.get(USED)) > RENEW:
            await self._shelf.renew(digest, item, self._note())
        return True

    async def fetch(self, digest: str, target: Path) -> bool:
        """See SourceStore."""
        if await self._cache.fetch(digest, target):
            return True
        item = await self._shelf.find(digest)
        if item is None or item.blob.digest != f"sha256:{digest}":
            return False
        await self._shelf.fetch(item, target)
        return True

    async def delete_old(self, keep: Set[str], spare_after: float) -> int:
        """See SourceStore. Nothing is deleted where the registry does not delete."""
        deleted = 0
        for tag in await self._shelf.list():
            item = await self._shelf.find(tag) if _HEX.fullmatch(tag) and tag not in keep else None
            if item is not None and _time(item.notes.get(USED)) < spare_after:
                try:
                    deleted += await self._shelf.delete(item)
                except Unsupported:
                    break
        return deleted

    def _note(self) -> dict[str, str]:
        return {USED: str(int(self._clock()))}


class RegistryLogs:
    """LogStore in the registry."""

    def __init__(self, registries: Registries) -> None:
        self._shelf = Shelf(registries.home, registries.own, "seaway.logs", "log")

    async def put(self, name: str, log: Path) -> None:
        """See LogStore."""
        written = log.stat().st_mtime
        content = await asyncio.to_thread(log.read_bytes)
        await self._shelf.put(name, content, {WRITTEN: f"{written:.3f}"})

    async def fetch(self, name: str, target: Path, newer_than: float = 0.0) -> bool:
        """See LogStore."""
        item = await self._shelf.find(name)
        written = _time(item.notes.get(WRITTEN)) if item else 0.0
        if item is None or written < newer_than - SAME:
            return False
        if written <= newer_than + SAME and (not target.exists() or target.stat().st_size == item.blob.size):
            return False  # a file system's clock may tick only every 10 ms: what was added since shows in the size
        await self._shelf.fetch(item, target)
        os.utime(target, (written, written))
        return True


def _time(note: str | None) -> float:
    try:
        return float(note or 0)
    except ValueError:
        return 0.0

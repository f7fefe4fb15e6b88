"""Reading a build's output while it is being written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

from seaway.builder.stores import LogStore
from seaway.home import Home
from seaway.model import Build
from seaway.registry.errors import RegistryError

REFRESH_EVERY = 1.0  # seconds between looks at what another replica writes
LOOK_EVERY = 0.2  # seconds between looks at a file that grows; files cannot be awaited
BLOCK = 64 * 1024  # bytes read at once
LONGEST_LINE = 64 * 1024  # bytes; a longer line is cut into several


class BuildLog:
    """The output of one build: the file that is written here, or a copy of what another replica writes."""

    def __init__(self, home: Home, build: Build, store: LogStore | None) -> None:
        self._here = home.build_log(build.name, build.meta.uid)
        self._name = self._here.stem
        self._copy = self._here.with_name(f".copy-{self._here.name}")
        self._store = store
        self.path = self._here

    async def refresh(self) -> None:
        """Look whether another replica's is newer; what is here is good as long as the store does not answer."""
        if self._store is None:
            return
        newest = max(_written(self._here), _written(self._copy) if self.path == self._copy else 0.0)
        with suppress(RegistryError):
            if await self._store.fetch(self._name, self._copy, newest):
                self.path = self._copy

    async def follow(self, ended: asyncio.Event) -> None:
        """Go on refreshing until `ended` is set, and once more."""
        while not ended.is_set():
            await self.refresh()
            with suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_EVERY):
                    await ended.wait()
        await self.refresh()


async def tail_build(log: BuildLog, ended: asyncio.Event | None) -> AsyncGenerator[str, None]:
    """Yield the log's lines, and new ones until `ended` is set and all is read (None: what is there now).

    It may appear late. Bytes that are not UTF-8 are replaced.
    """
    position, rest = 0, b""
    while True:
        final = ended is None or ended.is_set()
        while block := await asyncio.to_thread(_read, log.path, position):
            position += len(block)
            *complete, rest = (rest + block).split(b"\n")
            if len(rest) > LONGEST_LINE:
                complete, rest = [*complete, rest], b""
            for line in complete:
                yield _text(line)
        if final:
            break
        assert ended is not None
        try:
            async with asyncio.timeout(LOOK_EVERY):
                await ended.wait()
        except TimeoutError:
            continue
    if rest:
        yield _text(rest)


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _read(path: Path, position: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(position)
            return file.read(BLOCK)
    except FileNotFoundError:
        return b""


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").removesuffix("\r")

"""Reads the logs of apps: the last lines across segments, then new ones as they come."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from seaway.home import Home
from seaway.logs.base import LogLine, LogQuery
from seaway.logs.segments import list_segments, segment_path
from seaway.logs.shape import format_time

POLL = 0.15  # seconds between looks for new lines
BLOCK = 1 << 18
BATCH = 1 << 20  # bytes read at a time when going forward

Position = tuple[int, int]
"""Segment and offset; everything before it has been seen."""


class FileLogReader:
    """LogReader on the files that FileLogCollector writes; reads only what it must."""

    def __init__(self, home: Home) -> None:
        self._root = home.logs

    async def read(self, query: LogQuery) -> AsyncIterator[LogLine]:
        """Yield lines oldest first; with `follow` then new ones, for ever."""
        if not query.app or query.app.startswith(".") or "/" in query.app:
            return  # no app has such a name, and its folder would not be one of ours
        folder, match = self._root / query.app, _Filter(query)
        if query.tail is None:
            position = (0, 0)
        else:
            lines, position = await asyncio.to_thread(_read_tail, folder, match, query.tail)
            for line in lines:
                yield line
        while True:
            batch, position = await asyncio.to_thread(_read_on, folder, match, position)
            if batch is None:
                if not query.follow:
                    return
                await asyncio.sleep(POLL)
                continue
            for line in batch:
                yield line


class _Filter:
    """Tells lines that a query asks for; most others are dropped without parsing them."""

    def __init__(self, query: LogQuery) -> None:
        wanted = {
            "labels.process": query.process,
            "service.version": None if query.release is None else f"v{query.release}",
            "service.node.name": query.instance,
        }
        self._wanted = {name: value for name, value in wanted.items() if value is not None}
        self._needles = [f"{json.dumps(n)}:{json.dumps(v)}".encode() for n, v in self._wanted.items()]
        self._since = format_time(query.since) if query.since else ""

    def parse(self, raw: bytes) -> LogLine | None:
        """Return the line if it is asked for."""
        if not all(needle in raw for needle in self._needles):
            return None
        try:
            line: LogLine = json.loads(raw)
        except ValueError:
            return None
        if str(line.get("event.ingested") or line.get("@timestamp", "")) < self._since:
            return None
        return line if all(line.get(name) == value for name, value in self._wanted.items()) else None


def _read_tail(folder: Path, match: _Filter, count: int) -> tuple[list[LogLine], Position]:
    """Return the last `count` matching lines, oldest first, and the position behind the last whole line."""
    found: list[LogLine] = []
    end: Position | None = None
    for number in reversed(list_segments(folder)):
        try:
            with segment_path(folder, number).open("rb") as file:
                size = _find_end(file.fileno())
                end = end or (number, size)
                if len(found) >= count:
                    break
                for raw in _read_backwards(file.fileno(), size):
                    line = match.parse(raw)
                    if line is not None:
                        found.append(line)
                        if len(found) >= count:
                            break
        except FileNotFoundError:  # rotated away meanwhile: nothing older is left either
            break
    found.reverse()
    return found, end or (0, 0)


def _find_end(fd: int) -> int:
    """Return the offset behind the last whole line."""
    end = os.fstat(fd).st_size
    while end:
        start = max(0, end - BLOCK)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _read_backwards(fd: int, end: int) -> Iterator[bytes]:
    """Yield whole lines before `end`, last first."""
    rest = b""
    while end > 0:
        start = max(0, end - BLOCK)
        lines = (os.pread(fd, end - start, start) + rest).split(b"\n")
        rest, end = lines[0], start
        yield from (line for line in reversed(lines[1:]) if line)
    if rest:
        yield rest


def _read_on(folder: Path, match: _Filter, position: Position) -> tuple[list[LogLine] | None, Position]:
    """Return what matches in the next whole lines behind the position and where they end; None: nothing new."""
    number, offset = position
    segments = [n for n in list_segments(folder) if n >= number]
    for candidate in segments:
        start = offset if candidate == number else 0
        try:
            with segment_path(folder, candidate).open("rb") as file:
                data = os.pread(file.fileno(), BATCH, start)
        except FileNotFoundError:
            continue
        whole = data.rfind(b"\n") + 1
        if whole:
            lines = [line for raw in data[: whole - 1].split(b"\n") if (line := match.parse(raw)) is not None]
            return lines, (candidate, start + whole)
    return None, position

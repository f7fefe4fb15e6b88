"""Copies the raw output of instances into the logs of their apps, each line once."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import structlog

from seaway.home import Home
from seaway.logs.holes import find_data, free_front
from seaway.logs.segments import AppLog, Limits
from seaway.logs.shape import LONGEST, Labels, format_time, make_line, make_note, split_lines

log = structlog.get_logger(__name__)

STREAMS = ("stdout", "stderr")
POLL = 0.1  # seconds between looks at the raw files
CHUNK = 2 * LONGEST  # bytes copied before other work gets its turn: some 10 ms


@dataclass
class _Source:
    """One followed instance."""

    labels: Labels
    folder: Path
    freed: dict[str, int] = field(default_factory=dict)


class FileLogCollector:
    """The node agent's OutputCollector on files below SEAWAY_HOME/logs."""

    def __init__(self, home: Home, limits: Limits | None = None) -> None:
        self._root = home.logs
        self._limits = limits or Limits()
        self._sources: dict[str, _Source] = {}
        self._apps: dict[str, AppLog] = {}
        self._ends: dict[str, str] = {}  # finished instance -> app, until forgotten
        self._saved_at = time.monotonic()
        self._can_free = True

    def follow(
        self, instance: str, folder: Path, *, app: str, team: str, release: int, process: str, node: str
    ) -> None:
        """Copy what is written to `folder`/stdout and stderr from where an earlier collector stopped."""
        labels = Labels(app=app, team=team, release=release, process=process, instance=instance, node=node)
        self._sources[instance] = _Source(labels, folder)
        self._ends.pop(instance, None)
        self._open(app)

    async def run(self) -> None:
        """Copy until cancelled."""
        self._drop_unknown()
        while True:
            busy = False
            for instance in list(self._sources):
                source = self._sources.get(instance)
                if source is not None and self._pump(source, final=False):
                    busy = True
                    await asyncio.sleep(0)
            self._save_when_due()
            await asyncio.sleep(0 if busy else POLL)

    async def flush(self, instance: str) -> None:
        """Copy everything of a process that has ended, an unfinished last line too."""
        source = self._sources.get(instance)
        if source is not None:
            await self._catch_up(source)
            self._pump(source, final=True)

    async def finish(self, instance: str) -> None:
        """Copy all that is left and stop following; offsets stay known until `forget`."""
        await self.flush(instance)
        source = self._sources.pop(instance, None)
        if source is not None:
            self._ends[instance] = source.labels.app

    def forget(self, instance: str) -> None:
        """Drop the offsets of an instance whose folder is gone."""
        app = self._ends.pop(instance, None)
        if app is None:
            return
        for stream in STREAMS:
            self._apps[app].offsets.pop((instance, stream), None)
        if app not in self._ends.values() and all(source.labels.app != app for source in self._sources.values()):
            self._apps.pop(app).close()

    async def close(self) -> None:
        """Copy what there is, record how far it got, and close the files."""
        for source in list(self._sources.values()):
            await self._catch_up(source)
        self._save()
        for app in self._apps.values():
            app.close()
        self._apps.clear()

    def _open(self, app: str) -> AppLog:
        if app not in self._apps:
            self._apps[app] = AppLog(self._root / app, self._limits)
        return self._apps[app]

    def _drop_unknown(self) -> None:
        """Forget offsets of instances that went while no collector ran."""
        for name, app in self._apps.items():
            mine = {i for i, s in self._sources.items() if s.labels.app == name} | set(self._ends)
            app.offsets = {source: end for source, end in app.offsets.items() if source[0] in mine}

    async def _catch_up(self, source: _Source) -> None:
        """Copy all whole lines there are."""
        while self._pump(source, final=False):
            await asyncio.sleep(0)

    def _pump(self, source: _Source, *, final: bool) -> bool:
        """Copy one chunk of each stream; return whether more is waiting."""
        more = False
        for stream in STREAMS:
            more |= self._copy(source, stream, final=final)
        return more

    def _copy(self, source: _Source, stream: str, *, final: bool) -> bool:
        path, app = source.folder / stream, self._open(source.labels.app)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return False
        at = (source.labels.instance, stream)
        offset = app.offsets.get(at, 0)
        if size <= offset:
            return False
        if size - offset > self._limits.backlog_bytes:
            offset = self._skip(source, stream, offset, size)
        data = _read(path, offset, CHUNK)
        if offset == 0 and data.startswith(b"\0"):  # the logs were deleted by hand: go on with what is still there
            app.offsets[at] = max(find_data(path, 0), len(data) - len(data.lstrip(b"\0")))
            return True
        pieces = split_lines(data, final=final)
        now, lines, end = _now(), [], offset
        for piece in pieces:
            lines.append(make_line(piece, source.labels, stream, end, now))
            end += piece.length
        if lines:
            app.append("".join(lines).encode())
            app.offsets[at] = end
        return bool(lines) and end < size and len(data) == CHUNK

    def _skip(self, source: _Source, stream: str, offset: int, size: int) -> int:
        """Give up the older half of a backlog that is over its bound, and say in the stream how many lines that is."""
        path, app = source.folder / stream, self._open(source.labels.app)
        target = size - self._limits.backlog_bytes // 2
        lost, end = _count_lines(path, offset, target)
        message = (
            f"seaway: {lost} lines ({end - offset} bytes) of {stream} are missing here: the instance wrote faster "
            "than its output could be copied"
        )
        app.append(
            make_note(
                message, source.labels, stream, offset=offset, length=end - offset, now=_now(), lost=lost
            ).encode()
        )
        app.offsets[source.labels.instance, stream] = end
        log.warning("log lines lost", instance=source.labels.instance, stream=stream, lines=lost)
        return end

    def _save_when_due(self) -> None:
        late = time.monotonic() - self._saved_at > self._limits.checkpoint_seconds
        if late or any(app.unsaved > self._limits.checkpoint_bytes for app in self._apps.values()):
            self._save()

    def _save(self) -> None:
        """Write checkpoints, then free the raw bytes that no recovery will need again."""
        dirty = [name for name, app in self._apps.items() if app.unsaved]
        for name in dirty:
            self._apps[name].save()
        for source in self._sources.values():
            if source.labels.app in dirty and self._can_free:
                self._free(source)
        self._saved_at = time.monotonic()

    def _free(self, source: _Source) -> None:
        offsets = self._apps[source.labels.app].offsets
        for stream in STREAMS:
            end = offsets.get((source.labels.instance, stream), 0) - self._limits.keep_raw_bytes
            if end - source.freed.get(stream, 0) < self._limits.keep_raw_bytes:
                continue
            if not free_front(source.folder / stream, end):
                self._can_free = False
                log.warning(
                    "this file system cannot free consumed output before an instance ends", path=str(self._root)
                )
                return
            source.freed[stream] = end


def _now() -> str:
    return format_time(datetime.now(UTC))


def _read(path: Path, offset: int, count: int) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, count, offset)
    finally:
        os.close(fd)


def _blocks(path: Path, start: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(1 << 20):
            yield block


def _count_lines(path: Path, start: int, target: int) -> tuple[int, int]:
    """Return how many lines end between `start` and the first line end at or behind `target`, and where that is."""
    lines, position = 0, start
    for block in _blocks(path, start):
        if position + len(block) < target:
            lines += block.count(b"\n")
            position += len(block)
            continue
        newline = block.find(b"\n", max(0, target - position))
        if newline >= 0:
            return lines + block.count(b"\n", 0, newline + 1), position + newline + 1
        lines += block.count(b"\n")
        position += len(block)
    return lines, position

"""Takes the output of instances out of their pipes and copies it into the logs of their apps, in slices.

Each step takes a slice from every pipe that has something, then copies slices of raw files within two budgets: what one
instance may add to the log in the long run, and what all copying may use of a processor. What has to wait for them
waits in the raw file; beyond the bound of that, lines are given up (intake.py).
"""

from __future__ import annotations

import math
import os
import select
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import structlog

from seaway.home import Home
from seaway.logs.holes import find_data, free_front
from seaway.logs.intake import SLICES, STREAMS, Loss, Tap
from seaway.logs.segments import AppLog, Limits, drop_old
from seaway.logs.shape import LONGEST, Labels, format_time, make_line, make_note, split_lines

log = structlog.get_logger(__name__)

CHUNK = 2 * LONGEST  # bytes copied before other work gets its turn
MOST_LINES = 1000  # likewise; some 5 ms
ROUND = 0.02  # seconds of copying before pipes are looked at again
SHARE = 0.25  # of one processor for all copying
GATHER = 0.05  # seconds in which output gathers before it is taken, unless there is much of it
MUCH = 32 * 1024  # bytes taken in one step: half of the smallest pipe
TICK = 1.0  # seconds between steps if nothing comes
LOG_RETRY = 1.0  # seconds between tries to append to a log that cannot be written
FLUSH_LIMIT = 2.0  # seconds for the copy of what an ended process left; then all but its last words is given up
LAST_WORDS = 64 * 1024  # bytes
CLOSE_LIMIT = 1.0  # seconds for the copy of what there is when the node agent ends; the next one goes on
TOO_MUCH = "it was more than could be copied when the process ended"


@dataclass
class Source:
    """One followed instance."""

    labels: Labels
    credit: float  # bytes of log that it may add now; below 0 it waits
    credited_at: float
    flush: Flush | None = None
    streams: list[Stream] = field(default_factory=list)


@dataclass
class Flush:
    """The process of a source has ended: all of it is copied, whatever its credit."""

    deadline: float
    done: Future[None]


@dataclass
class Stream:
    """One stream of a source."""

    name: str
    source: Source
    tap: Tap
    ratio: float = 1.0  # bytes of log for one of output, lately
    freed: int = 0
    queued: bool = False  # in the copier's queue: there may be lines to copy

    @property
    def at(self) -> tuple[str, str]:
        """Its name in checkpoints."""
        return self.source.labels.instance, self.name


class Copier:
    """All of it without threads: whoever calls, one at a time, does the work."""

    def __init__(self, home: Home, limits: Limits) -> None:
        self._root = home.logs
        self._limits = limits
        self._sources: dict[str, Source] = {}
        self._by_pipe: dict[int, Stream] = {}
        self._apps: dict[str, AppLog] = {}
        self._stuck: dict[str, float] = {}  # app -> when its log is tried again
        self._ends: dict[str, str] = {}  # finished instance -> app, until forgotten
        self._queue: deque[Stream] = deque()
        self._paced: dict[int, Stream] = {}  # not looked at before they are due
        self._rest_until = 0.0  # copying has had its share until then
        self._copy_at = math.inf  # when there is something to copy that may be
        self._gathering = False
        self._saved_at = time.monotonic()
        self._can_free = True
        self._tight = False
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._ready = select.epoll()
        self._woken = select.poll()
        for poll in (self._ready, self._woken):
            poll.register(self._wakeup, select.POLLIN)

    def wake(self) -> None:
        """End the wait of a step; the one method that may be called beside others."""
        os.eventfd_write(self._wakeup, 1)

    def follow(self, labels: Labels, folder: Path, pipes: Mapping[str, int]) -> None:
        """Take and copy what comes from the pipes (by stream), from where an earlier copier stopped."""
        source = Source(labels, self._limits.burst_bytes, time.monotonic())
        self._sources[labels.instance] = source
        self._ends.pop(labels.instance, None)
        for name, pipe in pipes.items():
            stream = Stream(name, source, Tap(folder, name, pipe, self._find_offset(labels.app, labels.instance, name)))
            source.streams.append(stream)
            self._by_pipe[pipe] = stream
            self._ready.register(pipe, select.POLLIN)
            self._enqueue(stream)

    def drain(self, instance: str, done: Future[None]) -> None:
        """Take all that is in the pipes now."""
        if (source := self._sources.get(instance)) is not None:
            for stream in source.streams:
                for _ in range(SLICES):
                    if not self._take(stream):
                        break
        done.set_result(None)

    def flush(self, instance: str, done: Future[None]) -> None:
        """Copy everything of a process that has ended, an unfinished last line too."""
        source = self._sources.get(instance)
        if source is None:
            done.set_result(None)
            return
        source.flush = Flush(time.monotonic() + FLUSH_LIMIT, done)
        for stream in source.streams:
            stream.tap.finish(time.monotonic())
            self._enqueue(stream)

    def finish(self, instance: str, done: Future[None]) -> None:
        """Stop following an instance that was flushed; offsets stay known until `forget`."""
        source = self._sources.pop(instance, None)
        if source is not None:
            self._leave(source)
            self._ends[instance] = source.labels.app
        done.set_result(None)

    def forget(self, instance: str) -> None:
        """Drop the offsets of an instance whose folder is gone."""
        name = self._ends.pop(instance, "")
        app = self._apps.get(name)
        if app is None:
            return
        for stream in STREAMS:
            app.offsets.pop((instance, stream), None)
        if name not in self._ends.values() and all(source.labels.app != name for source in self._sources.values()):
            del self._apps[name]
            _close(app)

    def give_way(self, *, tight: bool) -> None:
        """Keep less of every app's log while the disk is almost full; of those that nobody writes to, too."""
        self._tight = tight
        for app in self._apps.values():
            app.keep = self._keep
        if tight:
            for folder in self._root.iterdir():
                if folder.is_dir():
                    drop_old(folder, self._keep)

    @property
    def _keep(self) -> int:
        return self._limits.tight_segments if self._tight else self._limits.segments

    def drop_unknown(self) -> None:
        """Forget offsets of instances that went while no copier ran."""
        for name, app in self._apps.items():
            mine = {i for i, s in self._sources.items() if s.labels.app == name} | set(self._ends)
            app.offsets = {source: end for source, end in app.offsets.items() if source[0] in mine}

    def step(self) -> None:
        """Wait for something to do, at most until the next tick, and do a slice of it."""
        taken = sum(self._take(stream) for stream in self._await_output())
        self._gathering = 0 < taken < MUCH
        self._copy_some()
        self._save_when_due()

    def close(self) -> None:
        """Copy what there is, record how far it got, and close everything; instances may go on writing."""
        deadline = time.monotonic() + CLOSE_LIMIT
        for stream in self._by_pipe.values():
            self._take(stream)
        while self._queue and time.monotonic() < deadline:
            self._work_on_next()
        for source in self._sources.values():
            self._leave(source)
        self._sources.clear()
        self._save()
        for app in self._apps.values():
            _close(app)
        self._apps.clear()
        self._ready.close()
        os.close(self._wakeup)

    def _await_output(self) -> list[Stream]:
        """Return the streams whose pipes are to be looked at."""
        if self._gathering and not self._queue:
            self._woken.poll(GATHER * 1000)
        now = time.monotonic()
        until = min([now + TICK, self._copy_at, *(stream.tap.due for stream in self._paced.values())])
        ready = [fd for fd, _ in self._ready.poll(max(0.0, until - now))]
        if self._wakeup in ready:
            os.eventfd_read(self._wakeup)
        now = time.monotonic()
        due = [stream for stream in self._paced.values() if stream.tap.due <= now]
        return due + [self._by_pipe[fd] for fd in ready if fd in self._by_pipe]

    def _take(self, stream: Stream) -> int:
        """Take a slice; do not look at the pipe again before its pace allows it."""
        tap, now = stream.tap, time.monotonic()
        app = self._apps.get(stream.source.labels.app)
        copied = app.offsets.get(stream.at, 0) if app is not None else 0
        taken = tap.take(copied, self._limits.backlog_bytes / stream.ratio, now)
        if tap.due > now and tap.pipe not in self._paced:
            self._paced[tap.pipe] = stream
            self._ready.modify(tap.pipe, 0)
        elif tap.due <= now and self._paced.pop(tap.pipe, None) is not None:
            self._ready.modify(tap.pipe, select.POLLIN)
        if taken or tap.next_loss:
            self._enqueue(stream)
        return taken

    def _leave(self, source: Source) -> None:
        for stream in source.streams:
            del self._by_pipe[stream.tap.pipe]
            self._paced.pop(stream.tap.pipe, None)
            self._ready.unregister(stream.tap.pipe)
            if stream.queued:
                self._queue.remove(stream)
            stream.tap.close()
        source.streams.clear()

    def _enqueue(self, stream: Stream) -> None:
        if not stream.queued:
            stream.queued = True
            self._queue.append(stream)
            self._copy_at = min(self._copy_at, self._rest_until)

    def _copy_some(self) -> None:
        """Copy for a round from those that may, each a chunk in turn; say when to go on."""
        now, began, earliest = time.monotonic(), time.thread_time(), math.inf
        if now < self._rest_until and self._queue:
            self._copy_at = self._rest_until
            return
        for _ in range(len(self._queue)):
            wait = self._find_wait(self._queue[0].source, now)
            if wait > 0:
                self._queue.rotate(-1)
                earliest = min(earliest, now + wait)
                continue
            earliest = 0.0
            if time.thread_time() - began > ROUND:
                break
            self._work_on_next()
        self._rest_until = time.monotonic() + (time.thread_time() - began) * (1 / SHARE - 1)
        self._copy_at = max(earliest, self._rest_until) if self._queue else math.inf

    def _find_wait(self, source: Source, now: float) -> float:
        """Return for how many seconds nothing may be copied from there."""
        if source.flush is not None and now > source.flush.deadline:
            return 0.0
        stuck = self._stuck.get(source.labels.app, 0.0) - now
        if stuck > 0 or source.flush is not None:
            return max(0.0, stuck)
        gained = (now - source.credited_at) * self._limits.rate_bytes
        source.credit, source.credited_at = min(self._limits.burst_bytes, source.credit + gained), now
        return 0.0 if source.credit >= 0 else -source.credit / self._limits.rate_bytes

    def _work_on_next(self) -> None:
        """Copy a chunk of the first in the queue; one that has more goes to its end."""
        stream = self._queue.popleft()
        stream.queued = False
        source, flush = stream.source, stream.source.flush
        late = flush is not None and time.monotonic() > flush.deadline
        try:
            if late:
                self._skip_to_last_words(stream)
            more = self._copy(stream, final=False)
            while late and more:
                more = self._copy(stream, final=False)
            if flush is not None and not more:
                self._copy(stream, final=True)
        except OSError as error:
            if self._stuck.get(source.labels.app, 0.0) == 0.0:
                log.warning("a log cannot be written", app=source.labels.app, error=error.strerror)
            self._stuck[source.labels.app] = time.monotonic() + LOG_RETRY
            more = not late
        else:
            self._stuck.pop(source.labels.app, None)
        if more:
            self._enqueue(stream)
        elif flush is not None and not any(other.queued for other in source.streams):
            source.flush = None
            flush.done.set_result(None)

    def _copy(self, stream: Stream, *, final: bool) -> bool:
        """Copy a chunk; return whether more may be waiting. Raises OSError with nothing of it done."""
        tap, labels = stream.tap, stream.source.labels
        app = self._open(labels.app)
        offset, loss = app.offsets.get(stream.at, 0), tap.next_loss
        if loss is not None and loss.offset <= offset:
            self._tell_loss(stream, app, loss)
            return True
        end = tap.size if loss is None else loss.offset
        if offset == 0 < end:  # if the logs were deleted by hand: go on with what is still there
            offset = find_data(tap.path, 0)
        if offset >= end:
            return False
        data = _read(tap.path, offset, min(CHUNK, end - offset))
        now, lines, at = _now(), [], offset
        last = final or (loss is not None and offset + len(data) == end)
        for piece in split_lines(data, final=last, most=MOST_LINES):
            lines.append(make_line(piece, labels, stream.name, at, now))
            at += piece.length
        if lines:
            added = "".join(lines).encode()
            app.append(added)
            app.offsets[stream.at] = at
            stream.source.credit -= len(added)
            stream.ratio = max(1.0, len(added) / (at - offset))
        return bool(lines) and (at < end or loss is not None)

    def _tell_loss(self, stream: Stream, app: AppLog, loss: Loss) -> None:
        offset = app.offsets.get(stream.at, 0)
        if loss.offset == offset:  # before that: it was told, and then the agent was killed
            self._note_lost(stream, app, loss, offset + 1)
        stream.tap.forget(loss)

    def _skip_to_last_words(self, stream: Stream) -> None:
        """Give up what would take too long, and say in the stream how many lines that is."""
        app = self._open(stream.source.labels.app)
        offset = app.offsets.get(stream.at, 0)
        target = stream.tap.size - LAST_WORDS
        if offset >= target:
            return
        lost, end = _count_lines(stream.tap.path, offset, target)
        size, why = end - offset, TOO_MUCH
        while (loss := stream.tap.next_loss) is not None and loss.offset < end:
            lost, size, why = lost + loss.lines, size + loss.bytes, loss.why
            stream.tap.forget(loss)
        self._note_lost(stream, app, Loss(offset, lost, size, why), end)

    def _note_lost(self, stream: Stream, app: AppLog, loss: Loss, end: int) -> None:
        """Put a line in the loss's place; it stands for the raw bytes up to `end`."""
        labels, lines = stream.source.labels, loss.lines
        message = f"seaway: {lines} lines ({loss.bytes} bytes) of {stream.name} are missing here: {loss.why}"
        length = end - loss.offset
        note = make_note(message, labels, stream.name, offset=loss.offset, length=length, now=_now(), lost=lines)
        app.append(note.encode())
        app.offsets[stream.at] = end
        log.warning("log lines lost", instance=labels.instance, stream=stream.name, lines=lines, why=loss.why)

    def _find_offset(self, app: str, instance: str, stream: str) -> int:
        with suppress(OSError):  # a log that cannot be opened is tried again when there is something for it
            return self._open(app).offsets.get((instance, stream), 0)
        return 0

    def _open(self, app: str) -> AppLog:
        if app not in self._apps:
            self._apps[app] = AppLog(self._root / app, self._limits)
            self._apps[app].keep = self._keep
        return self._apps[app]

    def _save_when_due(self) -> None:
        late = time.monotonic() - self._saved_at > self._limits.checkpoint_seconds
        if late or any(app.unsaved > self._limits.checkpoint_bytes for app in self._apps.values()):
            self._save()

    def _save(self) -> None:
        """Write checkpoints, then free the raw bytes that no recovery will need again."""
        for name in [name for name, app in self._apps.items() if app.unsaved]:
            with suppress(OSError):  # no room: what is not recorded is not freed either
                self._apps[name].save()
                for source in self._sources.values():
                    if source.labels.app == name and self._can_free:
                        self._free(source)
        self._saved_at = time.monotonic()

    def _free(self, source: Source) -> None:
        offsets = self._apps[source.labels.app].offsets
        for stream in source.streams:
            end = offsets.get(stream.at, 0) - self._limits.keep_raw_bytes
            if end - stream.freed < self._limits.keep_raw_bytes:
                continue
            if not free_front(stream.tap.path, end):
                self._can_free = False
                log.warning(
                    "this file system cannot free consumed output before an instance ends", path=str(self._root)
                )
                return
            stream.freed = end


def _now() -> str:
    return format_time(datetime.now(UTC))


def _close(app: AppLog) -> None:
    with suppress(OSError):  # no room for its checkpoint: the next one finds by the last lines where it ended
        app.close()


def _read(path: Path, offset: int, count: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
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

"""Takes what a process writes out of its pipe into a file of bounded size, however fast it writes.

    folder/stdout.pipe   named pipe; the process holds it open for reading too, so nobody's death ends or breaks it
    folder/stdout        what was kept (raw), its front freed as it is copied
    folder/stdout.lost   what was given up and not yet told: where in the raw file, how many lines and bytes, and why

The kernel moves the bytes (splice) to an offset of ours: a kill of the node agent in between neither loses nor doubles
one. While more than a bound waits to be copied, or nothing can be written, the pipe is still emptied, at no more than
a set pace, and what comes out is counted and gone: its writer waits no longer than that, and never gets an error.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

STREAMS = ("stdout", "stderr")
PIPE_SIZE = 1 << 20  # bytes that wait in a pipe while nobody reads; root's pipes only, others have 64 KiB
SLICE = 1 << 18  # bytes taken at once from one pipe before the others get their turn
SLICES = PIPE_SIZE // SLICE + 1  # as many empty any pipe to which nobody writes
GLUT = 1 << 20  # bytes given up at once
PACE = 0.02  # seconds between such: 50 MB/s
RETRY = 0.5  # seconds between tries to write where nothing could be written
NOTE_EVERY = 1.0  # seconds between notes of a loss that goes on
TOO_FAST = "the instance wrote faster than its output could be copied"


def pipe_path(folder: Path, stream: str) -> Path:
    """Return the named pipe that an instance's stream is."""
    return folder / f"{stream}.pipe"


@dataclass(frozen=True)
class Loss:
    """Output that was given up: it would have stood at `offset` of the raw file, where one zero byte stands for it."""

    offset: int
    lines: int
    bytes: int
    why: str


class Tap:
    """One stream of one process. Nothing of it blocks; `take` does one bounded slice of work."""

    def __init__(self, folder: Path, stream: str, pipe: int, copied: int) -> None:
        """`pipe`: as of `open_pipe`, closed by `close`; `copied`: up to where the raw file was done with before."""
        self.path = folder / stream
        self._notes = folder / f"{stream}.lost"
        self.pipe = pipe
        self.size = max(copied, self.path.stat().st_size if self.path.exists() else 0)
        self.losses = _read_losses(self._notes)  # oldest first, all at or behind what is copied
        self._losing = bool(self.losses) and self.losses[-1].offset >= self.size  # a killed agent was in the middle
        self._retry_at = 0.0
        self._noted_at = 0.0
        self.due = 0.0  # when `take` has something to do again, whatever the pipe holds

    @property
    def next_loss(self) -> Loss | None:
        """The first loss that has come to its end and has not been told."""
        ended = self.losses[:-1] if self._losing else self.losses
        return ended[0] if ended else None

    def take(self, copied: int, bound: float, now: float) -> int:
        """Empty the pipe by a slice; return how many bytes came.

        `copied`: up to where the raw file is done with; `bound`: bytes that may wait behind that.
        """
        waiting = self.size - copied
        if not self._losing and waiting < bound:
            try:
                return self._keep()
            except OSError as error:
                self._retry_at = now + RETRY
                self._begin_loss(f"it could not be written: {error.strerror}")
        elif not self._losing:
            return self._begin_loss_after_line()
        if waiting <= bound / 2 and now >= self._retry_at:
            return self._end_loss(now)
        taken = self._give_up(now)
        self.due = now + PACE
        return taken

    def finish(self, now: float) -> None:
        """Its process has ended: take what is in the pipe, whatever waits. Somebody who got away may write on."""
        for _ in range(SLICES):
            if self._losing:
                self._retry_at = now
                taken = self._end_loss(now)
            else:
                try:
                    taken = self._keep()
                except OSError as error:
                    self._begin_loss(f"it could not be written: {error.strerror}")
                    break
            if not taken:
                break
        if self._losing:
            for _ in range(SLICES):
                if not self._give_up(now):
                    break
            self._losing, self.due = False, 0.0
            self.size += 1
        self._write_notes()

    def forget(self, loss: Loss) -> None:
        """It has been told."""
        self.losses.remove(loss)
        self._write_notes()

    def close(self) -> None:
        """Stop; what is in the pipe stays there as long as its process lives."""
        os.close(self.pipe)
        self._write_notes()

    def _keep(self) -> int:
        """Move a slice into the raw file; 0: the pipe is empty. Raises OSError with nothing moved."""
        with _opened(self.path) as raw:
            try:
                moved = os.splice(self.pipe, raw, SLICE, offset_dst=self.size, flags=os.SPLICE_F_NONBLOCK)
            except BlockingIOError:
                return 0
        self.size += moved
        return moved

    def _begin_loss(self, why: str) -> None:
        self._losing = True
        self.losses.append(Loss(self.size, 0, 0, why))
        self._write_notes()

    def _begin_loss_after_line(self) -> int:
        """Keep the rest of the line that came last, if it ends soon."""
        data = self._read(SLICE)
        if not data:
            return 0
        cut = data.find(b"\n") + 1
        try:
            with _opened(self.path) as raw:
                self.size += _write(raw, data[:cut], self.size)
        except OSError:  # no room for it either
            cut = 0
        self._begin_loss(TOO_FAST)
        self._count(data[cut:])
        return len(data)

    def _give_up(self, now: float) -> int:
        data = self._read(GLUT)
        self._count(data)
        if data and now - self._noted_at > NOTE_EVERY:
            self._noted_at = now
            self._write_notes()
        return len(data)

    def _end_loss(self, now: float) -> int:
        """Keep what comes from the next line on (of a line without an end: from here on)."""
        data = self._read(SLICE)
        cut = data.find(b"\n") + 1
        self._count(data[:cut])
        self._write_notes()
        try:
            with _opened(self.path) as raw:
                os.ftruncate(raw, self.size + 1)
                written = _write(raw, data[cut:], self.size + 1)
        except OSError:  # as full as before
            self._count(data[cut:])
            self._retry_at = self.due = now + RETRY
            return len(data)
        self._losing, self.due = False, 0.0
        self.size += 1 + written
        return len(data)

    def _count(self, data: bytes) -> None:
        last = self.losses[-1]
        self.losses[-1] = Loss(last.offset, last.lines + data.count(b"\n"), last.bytes + len(data), last.why)

    def _read(self, count: int) -> bytes:
        try:
            return os.read(self.pipe, count)
        except BlockingIOError:
            return b""

    def _write_notes(self) -> None:
        """Put the losses beside the raw file, for the next agent. On a full disk they are kept in mind alone."""
        with suppress(OSError):
            if not self.losses:
                self._notes.unlink(missing_ok=True)
                return
            temporary = self._notes.with_name(f".{self._notes.name}.new")
            temporary.write_text(json.dumps([asdict(loss) for loss in self.losses]))
            temporary.replace(self._notes)


def open_pipe(folder: Path, stream: str) -> int:
    """Open a stream's named pipe (made if it is not there) without waiting for anybody, and never to see its end."""
    path = pipe_path(folder, stream)
    with suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    if os.geteuid() == 0:  # of an ordinary user's pipes the kernel allows 64 MiB in all
        with suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    return fd


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open for a moment: a node may have more instances than an agent may have files open."""
    raw = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield raw
    finally:
        os.close(raw)


def _write(fd: int, data: bytes, offset: int) -> int:
    """Write all of it at the offset or raise OSError; part of it may then be there."""
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], offset + done)
    return done


def _read_losses(path: Path) -> list[Loss]:
    try:
        return [Loss(**fields) for fields in json.loads(path.read_bytes())]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError):
        log.warning("what was given up is not known: the file is damaged", path=str(path))
        return []

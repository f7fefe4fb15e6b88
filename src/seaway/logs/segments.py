"""One app's log on disk: numbered segments of JSON lines, and how far each instance's output has been copied.

    logs/APP/00000001.jsonl ...   appended to the highest; the oldest go when there are too many
    logs/APP/current              link to the highest, for `tail -F`
    logs/APP/.checkpoint.json     offsets as of a position in a segment

Every line carries the offset it was copied from, so after a kill the lines behind the checkpoint tell the rest.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

SUFFIX = ".jsonl"
CHECKPOINT = ".checkpoint.json"
BLOCK = 1 << 16

Source = tuple[str, str]
"""Instance id and stream."""


@dataclass(frozen=True)
class Limits:
    """Bounds on disk use. An app's logs take at most segment_bytes * segments and one line more."""

    segment_bytes: int = 16 * 1024 * 1024
    segments: int = 8
    rate_bytes: int = 4 * 1024 * 1024  # that one instance may add in a second, in the long run
    burst_bytes: int = 64 * 1024 * 1024  # and that it may add at once after it was quiet
    backlog_bytes: int = 32 * 1024 * 1024  # that one stream's waiting output would add; beyond it lines are given up
    checkpoint_bytes: int = 4 * 1024 * 1024  # written since the last checkpoint
    checkpoint_seconds: float = 5.0
    keep_raw_bytes: int = 64 * 1024  # of a raw file stay readable for reasons
    tight_segments: int = 2  # that stay where the disk is almost full


def list_segments(folder: Path) -> list[int]:
    """Return the numbers of an app's segments, ascending."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - names are all that is wanted
    except FileNotFoundError:
        return []
    return sorted(
        int(name[: -len(SUFFIX)]) for name in names if name.endswith(SUFFIX) and name[: -len(SUFFIX)].isdigit()
    )


def drop_old(folder: Path, keep: int) -> None:
    """Delete all but the last `keep` (at least 1) segments of an app."""
    for number in list_segments(folder)[:-keep]:
        segment_path(folder, number).unlink(missing_ok=True)


def segment_path(folder: Path, number: int) -> Path:
    """Return the path of a segment."""
    return folder / f"{number:08d}{SUFFIX}"


class AppLog:
    """Appends to one app's log; there is one writer per app. What cannot be written (OSError) leaves it as it was."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder = folder
        self.limits = limits
        self.offsets: dict[Source, int] = {}
        self.keep = limits.segments  # when the next one is begun
        self.unsaved = 0  # bytes appended since the last checkpoint
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._number, self._fd, self._size = 0, -1, 0
        segments = list_segments(folder)
        self._open(segments[-1] if segments else 1)
        self._cut_torn_line()
        self._recover(segments)

    def append(self, lines: bytes) -> None:
        """Append whole lines; on to the next segment when this one is full."""
        if self._size and self._size + len(lines) > self.limits.segment_bytes:
            self._rotate()
        view, size = memoryview(lines), self._size
        try:
            while view:
                written = os.write(self._fd, view)
                size += written
                view = view[written:]
        except OSError:  # no room: half a line would be read as a whole one together with the next
            os.ftruncate(self._fd, self._size)
            raise
        self._size = size
        self.unsaved += len(lines)

    def save(self) -> None:
        """Write the checkpoint: everything up to here is in `offsets`."""
        content = {
            "segment": self._number,
            "position": self._size,
            "offsets": [[instance, stream, offset] for (instance, stream), offset in self.offsets.items()],
        }
        temporary = self.folder / f"{CHECKPOINT}.new"
        with suppress(FileNotFoundError):  # the folder was deleted with its app
            temporary.write_text(json.dumps(content))
            temporary.replace(self.folder / CHECKPOINT)
        self.unsaved = 0

    def close(self) -> None:
        """Save and close."""
        if self._fd >= 0:
            try:
                self.save()
            finally:
                os.close(self._fd)
                self._fd = -1

    def _open(self, number: int) -> None:
        path = segment_path(self.folder, number)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        if self._fd >= 0:
            os.close(self._fd)
        self._number, self._fd, self._size = number, fd, os.fstat(fd).st_size
        with suppress(OSError):  # no room for the link, but perhaps for lines; the next segment sets it right
            link = self.folder / "current.new"
            link.unlink(missing_ok=True)
            link.symlink_to(path.name)
            link.replace(self.folder / "current")

    def _rotate(self) -> None:
        self._open(self._number + 1)
        self.save()
        drop_old(self.folder, self.keep)

    def _cut_torn_line(self) -> None:
        """Remove a last line without its end: a killed writer left it, and its source still has it."""
        end = self._size
        while end:
            start = max(0, end - BLOCK)
            newline = os.pread(self._fd, end - start, start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end != self._size:
            os.ftruncate(self._fd, end)
            self._size = end

    def _recover(self, segments: list[int]) -> None:
        """Find how far each stream was copied: the checkpoint, then every line behind it."""
        first, position = 0, 0
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):  # none, or damaged: read every line
            content = json.loads((self.folder / CHECKPOINT).read_bytes())
            self.offsets = {(instance, stream): offset for instance, stream, offset in content["offsets"]}
            first, position = content["segment"], content["position"]
        for number in segments:
            if number >= first:
                self._scan(segment_path(self.folder, number), position if number == first else 0)

    def _scan(self, path: Path, position: int) -> None:
        with path.open("rb") as file:
            file.seek(position)
            for raw in file:
                try:
                    line = json.loads(raw)
                    source = (line["service.node.name"], line["stream"])
                    end = line["log.offset"] + line["log.length"]
                except (ValueError, KeyError, TypeError):
                    log.warning("log line unreadable", path=str(path))
                    continue
                self.offsets[source] = max(end, self.offsets.get(source, 0))

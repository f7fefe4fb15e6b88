"""Log lines as people read them: time, app[process.release.instance], message."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

from rich.text import Text

from seaway.cli.client import Doc

COLOURS = ("cyan", "green", "magenta", "blue", "yellow", "bright_cyan", "bright_green", "bright_magenta", "bright_blue")


def field(line: Doc, name: str) -> Any:
    """Return an ECS field, whether written dotted ("service.name": ...) or nested ("service": {"name": ...})."""
    if name in line:
        return line[name]
    head, dot, rest = name.partition(".")
    inner = line.get(head)
    return field(inner, rest) if dot and isinstance(inner, dict) else None


def first(line: Doc, *names: str) -> str:
    """Return the first of these fields that is there, as text."""
    return next((str(value) for name in names if (value := field(line, name)) is not None), "")


def source(line: Doc) -> tuple[str, str, str, str]:
    """Return app, process, release ("v3") and short instance of a line."""
    app = first(line, "labels.app", "seaway.app", "service.name")
    process = first(line, "labels.process", "seaway.process", "process.name")
    release = first(line, "labels.release", "seaway.release", "service.version")
    instance = first(line, "labels.instance", "seaway.instance", "service.node.name")
    release = f"v{release.removeprefix('v')}" if release else ""
    return app, process, release, instance.rpartition("-")[2]


def format_line(line: Doc) -> Text:
    """Return a line in the colour of its process."""
    app, process, release, instance = source(line)
    where = ".".join(part for part in (process, release, instance) if part)
    stamp = first(line, "@timestamp")
    label = f"{app}[{where}]" if where else app
    colour = COLOURS[zlib.crc32(process.encode()) % len(COLOURS)]
    message = Text.from_ansi(first(line, "message"))
    return Text.assemble((f"{stamp} ", "dim"), (label, colour), " ", message)


class Resume:
    """Drops what was seen before, when a stream is taken up again after an outage.

    Lines come oldest first and carry their time; those before the last time seen, and those of that very time
    that were seen, are dropped.
    """

    def __init__(self, time_field: str) -> None:
        self._field = time_field
        self._last = ""
        self._seen: set[str] = set()

    def is_new(self, line: Doc, raw: str) -> bool:
        """Return whether the line was not seen yet, and remember it."""
        stamp = str(field(line, self._field) or "")
        if stamp < self._last or (stamp == self._last and raw in self._seen):
            return False
        if stamp > self._last:
            self._last, self._seen = stamp, set()
        self._seen.add(raw)
        return True


def split_documents(items: Any) -> Iterator[Doc]:
    """Yield the documents of an answer that is a list."""
    yield from (item for item in items or [] if isinstance(item, dict))

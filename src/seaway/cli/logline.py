"""Log lines as people read them: time, app[process.release.instance], message."""

from __future__ import annotations

import json
import zlib
from collections import Counter, deque
from typing import Any

from rich.text import Text

from seaway.cli.client import Doc
from seaway.cli.words import show_lines

COLOURS = ("cyan", "green", "magenta", "blue", "yellow", "bright_cyan", "bright_green", "bright_magenta", "bright_blue")

CUT = " [cut: goes on in the next line]"
"""Stands behind a line that was too long for one."""

PLATFORM_FIELDS = frozenset(
    {"@timestamp", "message", "ecs.version", "event.ingested", "log.level", "service.name", "service.version",
     "service.node.name", "host.name", "labels.process", "labels.team", "stream", "log.offset", "log.length",
     "log.flags", "event.lost"}
)  # fmt: skip


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


def own_text(line: Doc) -> str:
    """Return what the program wrote: text as it was; a JSON object without what the platform added to it."""
    own = {key: value for key, value in line.items() if key not in PLATFORM_FIELDS}
    if not own:
        return first(line, "message")
    message = first(line, "message")
    return json.dumps(({"message": message} if message else {}) | own, ensure_ascii=False)


def is_partial(line: Doc) -> bool:
    """Whether the line goes on in the next one (it was too long for one)."""
    return "partial" in (field(line, "log.flags") or ())


def source(line: Doc) -> tuple[str, str, str, str]:
    """Return app, process, release ("v3") and short instance of a line."""
    app, process = first(line, "service.name"), first(line, "labels.process")
    release, instance = first(line, "service.version"), first(line, "service.node.name")
    return app, process, release, instance.rpartition("-")[2]


def format_line(line: Doc) -> list[Text]:
    """Return a line in the colour of its process; every line of its message says whose it is."""
    app, process, release, instance = source(line)
    where = ".".join(part for part in (process, release, instance) if part)
    stamp = first(line, "@timestamp")
    label = f"{app}[{where}]" if where else app
    colour = COLOURS[zlib.crc32(process.encode()) % len(COLOURS)]
    lines = show_lines(first(line, "message"))
    if is_partial(line):
        lines[-1].append(CUT, "dim")
    return [Text.assemble((f"{stamp} ", "dim"), (label, colour), " ", shown) for shown in lines]


class Resume:
    """Drops what was printed before, when a stream is taken up again after an outage.

    It remembers the last lines of a stream. When the stream is taken up again with some overlap, each of them is
    dropped once, and so is what is older than all of them. Before the first outage nothing is ever dropped: an app
    may say the same thing twice in the same millisecond.
    """

    def __init__(self, time_field: str, most: int) -> None:
        self._field = time_field
        self._recent: deque[tuple[str, str]] = deque(maxlen=most)  # time, line
        self._known: Counter[str] = Counter()
        self._oldest = ""

    @property
    def empty(self) -> bool:
        """Whether nothing was printed yet."""
        return not self._recent

    def begin_again(self) -> None:
        """The stream broke off; what comes next may repeat what was printed."""
        self._known = Counter(raw for _, raw in self._recent)
        self._oldest = min((stamp for stamp, _ in self._recent), default="")

    def is_new(self, line: Doc, raw: str) -> bool:
        """Return whether the line was not printed yet, and remember it."""
        stamp = str(field(line, self._field) or "")
        if self._known[raw] > 0:
            self._known[raw] -= 1
            return False
        if stamp and stamp < self._oldest:
            return False
        self._recent.append((stamp, raw))
        return True

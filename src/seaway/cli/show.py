"""Output: tables, ages, states with colour for people; JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from seaway.cli.client import Doc
from seaway.cli.errors import CliError
from seaway.cli.words import HARMFUL, escape, escape_styled


class Output(StrEnum):
    """What `-o` takes."""

    TEXT = "text"
    JSON = "json"


GOOD = frozenset({"serving", "running", "succeeded", "keeping", "ready", "ok"})
BUSY = frozenset(
    {"queued", "preparing", "clearing", "starting", "verifying", "shifting", "deploying", "pending", "stopping",
     "restarting", "paused", "degraded", "backoff", "draining", "not ready"}
)  # fmt: skip
BAD = frozenset({"failed", "crashing", "lost", "down", "rolled-back", "returning", "restoring", "dead"})

WIDE = 100_000  # columns of anything that is not a terminal: nothing is wrapped or cut there
GAP = 2  # spaces between columns
INDENT = "    "  # before the further lines of a text; deeper than any line of Seaway's own

Cell = str | Text


class Screen(Console):
    """A console on which nothing that is printed can do harm, whoever wrote it (`words.py`).

    What stands at the margin is Seaway's own: the further lines of a text are indented.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; text is made harmless first."""
        super().print(*(_indent(_harmless(each)) if isinstance(each, (str, Text)) else each for each in objects),
                      **options)  # fmt: skip


def _harmless(text: Cell) -> Text:
    if isinstance(text, Text):
        return escape_styled(text, keep="\n\t")
    return Text(escape(text, keep="\n\t"))  # escaped first: rich drops some of them without a word


def _indent(text: Text) -> Text:
    return Text(f"\n{INDENT}").join(text.split("\n")) if "\n" in text.plain else text


def console(*, err: bool = False) -> Screen:
    """Return a console for stdout (or stderr) as it is now; nothing in texts is taken as markup."""
    stream = sys.stderr if err else sys.stdout
    width = None if stream.isatty() else WIDE
    return Screen(file=stream, width=width, markup=False, highlight=False, emoji=False, soft_wrap=False)


def print_json(value: Any) -> None:
    """Print one JSON value, indented."""
    sys.stdout.write(_dump(value, indent=2) + "\n")


def print_json_line(value: Any) -> None:
    """Print one JSON value on one line and flush, for streams."""
    sys.stdout.write(_dump(value) + "\n")
    sys.stdout.flush()


def _dump(value: Any, indent: int | None = None) -> str:
    """Return JSON in which every character that a terminal would obey is written as \\uXXXX; it means the same."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    return HARMFUL.sub(lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text)


def print_exactly(text: str) -> None:
    """Print text to stdout as it is; a terminal gets a newline behind it, and control characters as their escapes."""
    if sys.stdout.isatty():
        sys.stdout.write(escape(text, keep="\n\t") + "\n")
        return
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


def print_text(text: Cell = "") -> None:
    """Print a line to stdout."""
    console().print(text, soft_wrap=True)


def print_note(text: Cell) -> None:
    """Print a line to stderr, beside the result."""
    console(err=True).print(text, soft_wrap=True)


def print_error(error: CliError, *, as_json: bool) -> None:
    """Print an error to stderr: the sentence, then what to do next."""
    if as_json:
        sys.stderr.write(_dump(error.document()) + "\n")
        return
    err = console(err=True)
    err.print(Text.assemble(("seaway: ", "bold red"), error.message), soft_wrap=True)
    if error.hint:
        err.print(Text.assemble(("hint: ", "dim"), error.hint), soft_wrap=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, empty: str) -> None:
    """Print aligned columns under dim headings, or the sentence `empty` if there are no rows."""
    cells = [[_text(cell) for cell in row] for row in rows]
    if not cells:
        print_text(empty)
        return
    heading = [Text(column.upper(), style="dim") for column in columns]
    _print_aligned([heading, *cells])


def print_fields(fields: Iterable[tuple[str, Cell]]) -> None:
    """Print `name  value` lines, values aligned; empty values are left out."""
    rows = [[Text(name, style="dim"), _text(value)] for name, value in fields if len(_text(value))]
    _print_aligned(rows)


def _print_aligned(rows: Sequence[Sequence[Text]]) -> None:
    """The last column of each row is never padded, so nothing ends in spaces."""
    widths = [max(cell_len(row[i].plain) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    out = console()
    for row in rows:
        line = Text()
        for i, cell in enumerate(row):
            line.append_text(cell)
            if any(len(rest) for rest in row[i + 1 :]):
                line.append(" " * (widths[i] - cell_len(cell.plain) + GAP))
        out.print(line, soft_wrap=True)


def _text(cell: Cell) -> Text:
    """Return a cell on one line, as wide as it will be printed."""
    if isinstance(cell, str):
        return Text(escape(cell.replace("\n", " ").replace("\t", " ")))
    return escape_styled(cell)


def state(word: str) -> Text:
    """Colour a state, phase or verdict."""
    style = "green" if word in GOOD else "yellow" if word in BUSY else "red" if word in BAD else ""
    return Text(word, style=style)


def moment(value: Any) -> datetime | None:
    """Return the time in a document's field (ISO 8601), or None."""
    if not isinstance(value, str) or not value:
        return None
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def age(value: Any, now: datetime | None = None) -> str:
    """Return how long ago a time was: "just now", "12s ago", "3m ago", "5h ago", "2d ago"; "" for no time."""
    then = value if isinstance(value, datetime) else moment(value)
    if then is None:
        return ""
    seconds = ((now or datetime.now(UTC)) - then).total_seconds()
    return "just now" if seconds < 1 else f"{span(seconds)} ago"


def span(seconds: float) -> str:
    """Return a duration in its largest whole unit: 12s, 3m, 5h, 2d."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def seconds_text(seconds: float) -> str:
    """Return a duration of a policy as people write it: 30 s, 2 min, 1.5 s."""
    if seconds >= 120 and seconds % 60 == 0:
        return f"{seconds / 60:g} min"
    return f"{seconds:g} s"


def size(count: float) -> str:
    """Return bytes as 812 B, 34.1 kB, 12.0 MB, 1.5 GB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def plural(count: int, noun: str) -> str:
    """Return "1 file", "2 files"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def dig(doc: Any, path: str, default: Any = None) -> Any:
    """Return the field at a dotted path ("status.phase"), or the default where it is missing or null."""
    value = doc
    for part in path.split("."):
        if not isinstance(value, dict) or value.get(part) is None:
            return default
        value = value[part]
    return value


def version(number: Any) -> str:
    """Return "v3" for 3, "-" for none."""
    return "-" if number is None else f"v{number}"


def short_image(image: Any) -> str:
    """Return the first 12 digits of an image's digest."""
    return str(image or "-").rpartition("sha256:")[2][:12]


NO_REQUESTS = "none (no web)"
"""Where the requests of an app without a web process go."""


def traffic(app: Doc) -> str:
    """Return where an app's requests go: "v4", "v4 90%, v5 10%", or that it takes none."""
    if dig(app, "status.webless", False):
        return NO_REQUESTS
    weights = {int(release): weight for release, weight in dig(app, "status.traffic", {}).items() if weight}
    if len(weights) == 1:
        return version(next(iter(weights)))
    return ", ".join(f"{version(release)} {weight}%" for release, weight in sorted(weights.items())) or "-"

"""Progress of something that takes a while: live lines on a terminal, plain lines elsewhere, none for JSON."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
from rich.progress import Progress as Bars
from rich.status import Status
from rich.text import Text

from seaway.cli.quoted import Quotations
from seaway.cli.show import console, size, state
from seaway.cli.words import escape, show_line

CHUNK = 64 * 1024  # bytes read from a file at once

Opener = Callable[[], AsyncIterator[bytes]]
"""Starts reading a file from its beginning; called again for another try."""


class Progress(Protocol):
    """What the waiting code tells."""

    def say(self, text: str) -> None:
        """Say one sentence."""
        ...

    def output(self, line: str, whose: str = "") -> None:
        """Show a line of a build's output, or of that of the command `whose` it is."""
        ...

    def phase(self, name: str, reason: str) -> None:
        """Show where it is now, and why."""
        ...

    def settle(self) -> None:
        """Nothing goes on any more: stop whatever is live."""
        ...

    def upload(self, file: Path, what: str) -> AbstractContextManager[Opener]:
        """Show the upload of a file that holds `what`: a context manager that gives an Opener."""
        ...


async def read_chunks(file: Path, advance: Callable[[int], None]) -> AsyncIterator[bytes]:
    """Yield a file's bytes and tell how many were read so far."""
    done = 0
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            yield chunk
            done += len(chunk)
            advance(done)


class SilentProgress:
    """For `-o json`: the result is all that is printed."""

    def say(self, text: str) -> None:
        """Say nothing."""

    def output(self, line: str, whose: str = "") -> None:
        """Show nothing."""

    def phase(self, name: str, reason: str) -> None:
        """Show nothing."""

    def settle(self) -> None:
        """Nothing is live."""

    @contextmanager
    def upload(self, file: Path, what: str) -> Iterator[Opener]:  # noqa: ARG002 - nothing is shown
        """Read without a bar."""
        yield lambda: read_chunks(file, lambda _: None)


class PlainProgress:
    """One line for each thing that happens; for pipes, files and CI."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._last = ("", "")
        self._quoted = Quotations()

    def say(self, text: str) -> None:
        """Print the sentence."""
        self._print(text)

    def output(self, line: str, whose: str = "") -> None:
        """Print the line, indented."""
        self._print(Text.assemble(f"  {whose} | " if whose else "  | ", show_line(line)))

    def phase(self, name: str, reason: str) -> None:
        """Print phase and reason unless they are the last printed."""
        if (name, reason) != self._last:
            self._last = (name, reason)
            self._print(f"  {name:<11} {escape(self._quoted.shorten(reason))}")

    def settle(self) -> None:
        """Nothing is live."""

    @contextmanager
    def upload(self, file: Path, what: str) -> Iterator[Opener]:
        """Say how much is uploaded."""
        self._print(f"uploading {what}, {size(file.stat().st_size)}")
        yield lambda: read_chunks(file, lambda _: None)

    def _print(self, text: str | Text) -> None:
        self._out.print(text, soft_wrap=True)
        self._out.file.flush()


class LiveProgress:
    """A spinner with the present state below the lines of what is done."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._status: Status | None = None
        self._now = ("", "")
        self._quoted = Quotations()

    def say(self, text: str) -> None:
        """Print the sentence above the live line."""
        self._out.print(text, soft_wrap=True)

    def output(self, line: str, whose: str = "") -> None:
        """Print the line behind a dim bar, in its own colours."""
        self._out.print(Text.assemble((f"  {whose} │ " if whose else "  │ ", "dim"), show_line(line)), soft_wrap=True)

    def phase(self, name: str, reason: str) -> None:
        """Show the phase live; the one before it becomes a line."""
        reason = escape(reason)
        if self._now[0] not in {"", name}:
            self._keep_line()
        self._now = (name, reason)
        line = Text.assemble(state(name), "  ", reason)
        if self._status is None:
            self._status = self._out.status(line)
            self._status.start()
        else:
            self._status.update(line)

    def settle(self) -> None:
        """Turn the live line into a plain one."""
        if self._status is not None:
            self._status.stop()
            self._status = None
        if self._now[0]:
            self._keep_line()
        self._now = ("", "")

    @contextmanager
    def upload(self, file: Path, what: str) -> Iterator[Opener]:
        """Show a bar with bytes and speed."""
        columns = (TextColumn(f"uploading {what}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Bars(*columns, console=self._out, transient=True) as bars:
            task = bars.add_task("upload", total=file.stat().st_size)
            yield lambda: read_chunks(file, lambda done: bars.update(task, completed=done))

    def _keep_line(self) -> None:
        name, reason = self._now
        shown = self._quoted.shorten(reason)
        self._out.print(Text.assemble("  ", state(name), " " * max(1, 12 - len(name)), shown), soft_wrap=True)


@contextmanager
def show_progress(*, quiet: bool) -> Iterator[Progress]:
    """Give the progress that suits where stdout goes; whatever is live ends with the block."""
    out = console()
    progress: Progress = SilentProgress() if quiet else LiveProgress(out) if out.is_terminal else PlainProgress(out)
    try:
        yield progress
    finally:
        progress.settle()

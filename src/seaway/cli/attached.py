"""What goes between a command that somebody waits for and this process: its output, its input, its terminal."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import signal
import sys
import termios
import threading
import tty
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Protocol

from seaway.cli.client import Api, Doc, Patience, cancelling
from seaway.cli.errors import ApiError, CliError, ExitCode
from seaway.cli.logline import is_partial, own_text
from seaway.cli.show import Output, dig, print_json_line
from seaway.cli.streaming import CommandOutput
from seaway.model.quoting import MARK

MOST_AT_ONCE = 1 << 20  # bytes of input in one request; the API takes no more
PACE = 0.04  # seconds between such requests: what is typed or read meanwhile goes with the next
INTERRUPT = b"\x03"  # what Ctrl-C is on a terminal that passes everything on
TERM = re.compile(r"[A-Za-z0-9._+-]{1,64}")


class Link(Protocol):
    """How output comes and input goes."""

    @property
    def query(self) -> Doc:
        """What the stream of the command's states is asked for besides."""
        ...

    def take(self, item: Doc, /) -> None:
        """Take in what came on that stream and is no state."""
        ...

    async def work(self, begun: asyncio.Event, /) -> None:
        """Do what is to be done beside that stream, for as long as it lasts; `begun`: the command runs."""
        ...

    async def finish(self, state: Doc, /) -> None:
        """Print what is left of a command that is done. CliError: something of it is lost."""
        ...


class LogLink:
    """Output by way of the logs, a line at a time; no input."""

    def __init__(self, api: Api, app: str, task: str, output: Output, patience: Patience) -> None:
        self._output, self._patience = output, patience
        self._written = CommandOutput(api, app, {"instance": task}, self._print, patience)

    query: Doc = {}

    def take(self, _item: Doc, /) -> None:
        """See Link."""

    async def work(self, _begun: asyncio.Event, /) -> None:
        """See Link."""
        await self._written.follow()

    async def finish(self, _state: Doc, /) -> None:
        """See Link."""
        await self._patience.ask(self._written.show_rest)

    def _print(self, line: Doc) -> None:
        if self._output is Output.JSON:
            print_json_line(line)
            return
        stream = sys.stderr if line.get("stream") == "stderr" else sys.stdout
        stream.write(own_text(line) + ("" if is_partial(line) else "\n"))
        stream.flush()


class ByteLink:
    """Output and input byte by byte, over any number of broken connections."""

    def __init__(
        self, api: Api, path: str, patience: Patience, *, reads: bool = False, terminal: Doc | None = None
    ) -> None:
        """`terminal`: the size that was told at the start; None: there is no terminal."""
        self._api, self._path, self._patience = api, path, patience
        self._reads, self._terminal = reads, terminal
        self._printed = {"stdout": 0, "stderr": 0}
        self._lost = 0

    @property
    def query(self) -> Doc:
        """See Link."""
        return {"output": True, **self._printed}

    def take(self, item: Doc) -> None:
        """Print what was not printed yet. BrokenPipeError."""
        name, data = str(item["stream"]), b64decode(item["data"])
        begin, printed = int(item["offset"]), self._printed[name]
        self._lost += max(0, begin - printed)
        stream = (sys.stderr if name == "stderr" else sys.stdout).buffer
        try:
            stream.write(data[max(0, printed - begin) :])
            stream.flush()
        except OSError as error:
            if error.errno == errno.EIO:  # the terminal is gone
                raise BrokenPipeError from error
            raise
        self._printed[name] = max(printed, begin + len(data))

    async def work(self, begun: asyncio.Event) -> None:
        """See Link."""
        await begun.wait()
        async with cancelling(asyncio.create_task(self._follow_size())):
            if self._reads:
                await self._send_input()
            await asyncio.Event().wait()

    async def finish(self, state: Doc) -> None:
        """See Link."""
        ends = dig(state, "output_ends")
        if dig(state, "started_at") is None:
            return
        missing = self._lost + (sum(ends.values()) - sum(self._printed.values()) if ends else 0)
        if missing or not ends:
            lost = f"{missing} bytes" if missing else "some, nobody knows how much,"
            why = dig(state, "reason", "").partition(f"; {MARK}")[0]
            raise CliError(
                f"{lost} of what the command wrote did not arrive; how it ended: {why}",
                hint="run it again, or read what `seaway logs` has of it",
                code="output-lost",
            )

    async def _send_input(self) -> None:
        """Send all of standard input, as fast as the command reads."""
        source, sent, loop = Source(self._watch_for_interrupt), 0, asyncio.get_running_loop()
        async for data, end in source.read():
            began = loop.time()
            if not await self._send(sent, data, end=end):
                return
            sent += len(data)
            await asyncio.sleep(max(0.0, began + PACE - loop.time()))

    async def _send(self, offset: int, data: bytes, *, end: bool) -> bool:
        """Send a piece; False: the command takes none any more."""

        async def content() -> AsyncIterator[bytes]:
            yield data

        query = {"offset": offset, "end": end or None}
        kind = {"Content-Type": "application/octet-stream"}
        try:
            while True:
                answer = await self._patience.ask(
                    lambda: self._api.call("POST", f"{self._path}/input", params=query, content=content, headers=kind)
                )
                if dig(answer, "taken", False):
                    return True
        except ApiError as error:
            if error.code == "no-streams" or error.exit_code == ExitCode.NOT_FOUND:
                return False
            raise

    def _watch_for_interrupt(self, data: bytes) -> None:
        """End where nobody could be told to: the terminal passes Ctrl-C on, and the API does not answer."""
        if self._terminal is not None and self._patience.waits and INTERRUPT in data:
            os.kill(os.getpid(), signal.SIGINT)

    async def _follow_size(self) -> None:
        """Tell the command when its terminal is drawn in another size."""
        if self._terminal is None:
            return
        changed, loop, told = asyncio.Event(), asyncio.get_running_loop(), self._terminal
        loop.add_signal_handler(signal.SIGWINCH, changed.set)
        try:
            while True:
                if (size := describe_terminal()) != told:
                    put = partial(self._api.call, "PUT", f"{self._path}/terminal", body=size)
                    await self._patience.ask(put)
                    told = size
                await changed.wait()
                changed.clear()
        except ApiError:
            return  # the command has ended
        finally:
            loop.remove_signal_handler(signal.SIGWINCH)


class Source:
    """Standard input, read by a thread: it may be a file, and reading it cannot be broken off."""

    def __init__(self, look: Callable[[bytes], None]) -> None:
        """`look` sees each piece as soon as it was read, in the event loop."""
        self._look = look
        self._room = threading.Condition()
        self._data, self._over = b"", False
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def read(self) -> AsyncIterator[tuple[bytes, bool]]:
        """Yield what was read since the last time, and whether that is the end."""
        threading.Thread(target=self._work, daemon=True).start()
        over = False
        while not over:
            await self._news.wait()
            self._news.clear()
            with self._room:
                data, over, self._data = self._data, self._over, b""
                self._room.notify()
            yield data, over

    def _work(self) -> None:
        while True:
            try:
                data = os.read(0, MOST_AT_ONCE // 2)
            except OSError:  # the terminal is gone
                data = b""
            with self._room:
                self._room.wait_for(lambda: len(self._data) <= MOST_AT_ONCE // 2)
                self._data += data
                self._over = not data
            try:
                self._loop.call_soon_threadsafe(self._notice, data)
            except RuntimeError:  # nobody wants it any more
                return
            if not data:
                return

    def _notice(self, data: bytes) -> None:
        self._look(data)
        self._news.set()


def has_terminal() -> bool:
    """Whether somebody sits at a terminal: they type there, and see there what is written."""
    return all(os.isatty(fd) for fd in (0, 1))


def describe_terminal() -> Doc:
    """Return what a command is told of this process's terminal."""
    size, kind = os.get_terminal_size(0), os.environ.get("TERM", "")
    return {
        "rows": max(1, size.lines), "columns": max(1, size.columns), "kind": kind if TERM.fullmatch(kind) else "xterm",
    }  # fmt: skip


@contextmanager
def passing_all_on() -> Iterator[None]:
    """Have the terminal pass on every key and draw nothing itself; it is as before at the end."""
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        yield
    finally:
        with suppress(termios.error):  # it is gone: a window that was closed
            termios.tcsetattr(0, termios.TCSADRAIN, before)

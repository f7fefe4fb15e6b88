"""The streams of one one-off, held by the replica that leads: one connection to its pod, and what came on it lately.

It is made when somebody first asks for them. The command waits for that (`inits`), so nothing it writes is missed; and
when it has ended it waits until all of that has come, which marks in its streams say.
Where the connection breaks, or another replica leads, a new one goes on; what was written meanwhile is in the logs
alone, which tell at the end whether that was anything. A command whose input was cut short is killed: it can never be
told the rest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, suppress

import structlog

from seaway.engine.base import Output, StreamsGone
from seaway.engine.local.shim import AHEAD, Kept
from seaway.kube import attaching
from seaway.kube.attaching import LONGEST, AttachedPod, make_mark
from seaway.kube.errors import KubeError, Unavailable, parse_status
from seaway.model import Offsets, Streams, Terminal

log = structlog.get_logger()

OPENED, FED = "opened", "fed"
NOTHING_MORE = b"0\n"  # the end of input
OVER = b"over\n"  # lets the container end
GO, ECHO = b"\n", b"\r\n"  # what begins a terminal's command, and how the terminal shows that
RETRY = 0.5  # seconds between tries to connect
BEAT = 30.0  # seconds of silence after which nothing is sent, so that neither kubelet nor balancer takes it for idle

Connect = Callable[[], AbstractAsyncContextManager[AttachedPod]]
Note = Callable[[str], Awaitable[None]]
Count = Callable[[], Awaitable[int | None]]


class Attached:
    """The streams of one command; `run` it. Positions are those of StreamControl."""

    def __init__(
        self,
        streams: Streams,
        token: str,
        connect: Connect,
        note: Note,
        count: Count,
        *,
        opened: bool = False,
        fed: bool = False,
    ) -> None:
        """`note` writes down that the command is told to begin (OPENED), and that its input has ended (FED).

        `token`: that of its marks. `count` returns how many bytes its log holds that it wrote; None if nobody knows.
        `opened`, `fed`: that is written down, as another replica led when it happened.
        """
        self.streams = streams
        self.over = False  # no more of its output comes
        self.ended = False  # nor is there anybody to be told something
        self._connect, self._note, self._count = connect, note, count
        self._opened, self._fed = opened, fed
        self._whole = not opened  # nothing that it wrote was missed
        self._placed = not opened  # where in its output the first byte stands is known
        self._token = token
        mark = b"" if streams.terminal is not None else make_mark(token)
        self._outputs = {attaching.STDOUT: _Marked(mark), attaching.STDERR: _Marked(mark)}
        self._echo = ECHO if streams.terminal is not None and not opened else b""
        self._size = streams.terminal
        self._released = False  # the container may end
        self._taken = 0
        self._unsent: deque[bytes] = deque()
        self._ending = False
        self._readers = 0
        self._changed = asyncio.Event()

    @property
    def is_cut(self) -> bool:
        """Whether the rest of its input can never reach the command."""
        reads = self.streams.reads and self.streams.terminal is None
        return reads and self._opened and not self._fed and not self._whole and not self._all_came

    @property
    def ends(self) -> Offsets | None:
        """How much the command wrote; None if nobody knows. What a terminal did not draw is nobody's loss."""
        if not (self._placed if self.streams.terminal is not None else self._whole and self._all_came):
            return None
        out, err = (kept.end for kept in self._outputs.values())
        return Offsets(stdout=out, stderr=err)

    @property
    def _all_came(self) -> bool:
        """Whether the command has ended and all of its output is here, as the marks say."""
        return all(output.is_marked for output in self._outputs.values())

    async def run(self) -> None:
        """Hold the connection until the container has ended, or is cut off from its input."""
        try:
            while not self.ended and not self.is_cut:
                try:
                    async with self._connect() as pod:
                        await self._hold(pod)
                except KubeError as error:
                    log.info("the streams of a command are interrupted", error=str(error))
                    if self._released:
                        return
                    self._whole = self._whole and (self._all_came or not self._opened)
                    await asyncio.sleep(RETRY)
        except asyncio.CancelledError:
            self._whole = self._whole and self._all_came
            raise
        finally:
            self.over = self.ended = True
            self._tell()

    async def _hold(self, pod: AttachedPod) -> None:
        """Move bytes both ways. KubeError."""
        ways = [asyncio.create_task(self._send(pod)), asyncio.create_task(self._receive(pod))]
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        for way in done:
            way.result()

    async def _receive(self, pod: AttachedPod) -> None:
        """Take what comes, no faster than it is read, until the container has ended. KubeError."""
        while not self.ended:
            channel, data = await pod.receive()
            if channel == attaching.END:
                self.ended = is_good(data)
            if self._echo:
                common = min(len(self._echo), len(data))
                self._echo, data = self._echo[common:], data[common:]
            if data and (kept := self._outputs.get(channel)) is not None:
                kept.take(data)
                self.over = self._all_came
                self._tell()
                while kept.end - kept.sent >= AHEAD:
                    await self._changed.wait()

    async def _send(self, pod: AttachedPod) -> None:
        """Let the command begin, then give it what there is for it. KubeError."""
        drawn: Terminal | None = None
        first = f"{self._token}\n".encode() if self.streams.terminal is None else b"" if self._opened else GO
        while True:
            changed = self._changed
            if self._size is not None and self._size != drawn:
                drawn = self._size
                await pod.resize(drawn.rows, drawn.columns)
            if not self._opened:
                await self._note(OPENED)
                self._opened = True
            if first:
                await pod.send(attaching.STDIN, first)
                first = b""
            while self._unsent:
                await pod.send(attaching.STDIN, self._unsent[0])
                self._unsent.popleft()
                if not self._unsent:
                    self._tell()
            if self._ending and not self._fed:
                await pod.send(attaching.STDIN, NOTHING_MORE)
                await self._note_end()
                self._fed = True
                self._tell()
            if self._all_came and self._placed and not self._released:
                if not self._whole:
                    self._whole = await self._count() == sum(kept.end for kept in self._outputs.values())
                if self.streams.reads and not self._fed:
                    await pod.send(attaching.STDIN, NOTHING_MORE)
                await pod.send(attaching.STDIN, OVER)
                self._released = True
            with suppress(TimeoutError):
                async with asyncio.timeout(BEAT):
                    await changed.wait()
                continue
            await pod.send(attaching.STDIN, b"")

    async def _note_end(self) -> None:
        """If that cannot be written down, another replica that leads would end the command; this one goes on."""
        try:
            await self._note(FED)
        except KubeError as error:
            log.warning("that a command has all of its input was not written down", error=str(error))

    async def read(self, begin: Offsets) -> AsyncGenerator[Output, None]:
        """See StreamControl.read_output."""
        self._readers += 1
        mine = self._readers
        self._place(begin)
        named = tuple(zip(("stdout", "stderr"), self._outputs.values(), strict=True))
        while mine == self._readers:
            given = [Output(name, *found) for name, kept in named if (found := kept.give())[1]]
            if given:
                self._tell()
            elif self.over:
                return
            else:
                await self._changed.wait()
            for output in given:
                yield output

    def _place(self, begin: Offsets) -> None:
        """Go on where a reader has got to; what it says is also what is known of output that another replica read."""
        for kept, position in zip(self._outputs.values(), (begin.stdout, begin.stderr), strict=True):
            if not self._placed:
                kept.base += position
                kept.sent += position
                kept.end += position
            kept.move(position)
        self._placed = True
        self._tell()

    async def write(self, offset: int, data: bytes, *, end: bool) -> None:
        """See StreamControl.write_input."""
        if self.is_cut:
            raise StreamsGone("the connection with what it reads broke, and what it has of that nobody knows")
        if self.streams.terminal is not None and not self._whole:
            self._taken = max(self._taken, offset)  # what another replica was given
        if offset > self._taken:
            raise StreamsGone(f"its input goes on at {self._taken}, not at {offset}")
        new = data[self._taken - offset :]
        self._taken += len(new)
        if self.streams.terminal is not None:
            self._unsent.extend(new[at : at + LONGEST] for at in range(0, len(new), LONGEST))
        else:
            self._unsent.extend(frame(new))
            self._ending = self._ending or end
        self._tell()
        while not self.over and (self._unsent or (self._ending and not self._fed)):
            await self._changed.wait()

    def resize(self, terminal: Terminal) -> None:
        """See StreamControl.resize."""
        self._size = terminal
        self._tell()

    def forget(self) -> None:
        """Keep nothing of what it wrote any longer."""
        for kept in self._outputs.values():
            kept.base = kept.sent = kept.end
            kept.chunks.clear()

    def _tell(self) -> None:
        """Wake up everybody who waits for something here."""
        self._changed.set()
        self._changed = asyncio.Event()


class _Marked(Kept):
    """One stream, up to the mark after its last byte."""

    def __init__(self, mark: bytes) -> None:
        """`mark`: b"" if it has none."""
        super().__init__()
        self.is_marked = False
        self._mark = mark
        self._rest = b""  # may be the beginning of the mark

    def take(self, data: bytes) -> None:
        """Take in what comes next. What follows the mark is not the command's."""
        if not self._mark:
            self.add(data)
            return
        data, self._rest = self._rest + data, b""
        if self.is_marked:
            return
        before, found, _ = data.partition(self._mark)
        self.is_marked = bool(found)
        if not found and (at := data.rfind(self._mark[:1])) >= 0 and self._mark.startswith(data[at:]):
            before, self._rest = data[:at], data[at:]
        if before:
            self.add(before)


def frame(data: bytes) -> Iterator[bytes]:
    """Yield the messages of a piece of input, as the first process reads it."""
    if data:
        yield b"%d\n" % len(data)
    for at in range(0, len(data), LONGEST):
        yield data[at : at + LONGEST]


def is_good(status: bytes) -> bool:
    """Return whether the connection ended because the command did. Unavailable, with what is said instead."""
    said = parse_status(0, status)
    if said.message:
        raise Unavailable(f"the connection with a command ended: {said.message}")
    return True

"""The streams of a command in a cluster: what is kept of them, and what a broken connection means."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress

import pytest

from seaway.engine.base import StreamsGone
from seaway.engine.kubernetes.attached import FED, OPENED, Attached
from seaway.engine.local.shim import AHEAD
from seaway.kube.attaching import END, LONGEST, SIZE, STDERR, STDIN, STDOUT, make_mark, make_token
from seaway.kube.errors import Unavailable
from seaway.model import Offsets, Streams, Terminal

TOKEN = make_token("uid")
GO, MARK, NOTHING_MORE, OVER = f"{TOKEN}\n".encode(), make_mark(TOKEN), b"0\n", b"over\n"
SUCCESS = b'{"metadata":{},"status":"Success"}'
ALL = ((STDOUT, MARK), (STDERR, MARK))  # that was all of it
GOOD = (*ALL, (END, SUCCESS))
BEGIN = Offsets()
TERMINAL = Streams(reads=True, terminal=Terminal(rows=24, columns=80))


class Pod:
    """The other side: what it is given, and what it has yet to say on each connection."""

    def __init__(self) -> None:
        self.given: list[tuple[int, bytes]] = []
        self.said: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue()
        self.taken = 0
        self.open = asyncio.Event()
        self.open.set()
        self.connections = 0
        self.notes: list[str] = []
        self.logged: int | None = None
        self.refused = 0  # notes that are not written down

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Pod]:
        self.connections += 1
        yield self

    async def send(self, channel: int, data: bytes) -> None:
        await self.open.wait()
        assert len(data) <= LONGEST
        self.given.append((channel, data))

    async def resize(self, rows: int, columns: int) -> None:
        await self.send(SIZE, f"{rows} {columns}".encode())

    async def receive(self) -> tuple[int, bytes]:
        message = await self.said.get()
        if message is None:
            raise Unavailable("broken")
        self.taken += 1
        return message

    def say(self, *messages: tuple[int, bytes] | None) -> None:
        for message in messages:
            self.said.put_nowait(message)

    async def note(self, far: str) -> None:
        if self.refused:
            self.refused -= 1
            raise Unavailable("no leader")
        self.notes.append(far)

    async def count(self) -> int | None:
        return self.logged

    @property
    def input(self) -> bytes:
        return b"".join(data for channel, data in self.given if channel == STDIN)


@asynccontextmanager
async def attached(pod: Pod, streams: Streams, *, opened: bool = False, fed: bool = False) -> AsyncIterator[Attached]:
    held = Attached(streams, TOKEN, pod.connect, pod.note, pod.count, opened=opened, fed=fed)  # type: ignore[arg-type]
    work = asyncio.create_task(held.run())
    try:
        yield held
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def read(held: Attached, begin: Offsets = BEGIN) -> dict[str, bytes]:
    """Return all there is from some places on."""
    found = {"stdout": b"", "stderr": b""}
    ends = {"stdout": begin.stdout, "stderr": begin.stderr}
    async with aclosing(held.read(begin)) as outputs:
        async for output in outputs:
            assert output.offset == ends[output.stream]
            found[output.stream] += output.data
            ends[output.stream] += len(output.data)
    return found


async def settle() -> None:
    """Let everybody do what they can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_it_begins_when_it_is_read_and_all_of_it_comes() -> None:
    pod = Pod()
    async with attached(pod, Streams()) as held:
        pod.say((STDOUT, b"one "), (STDERR, b"oh"), (STDOUT, b"two"), *ALL)
        assert await read(held) == {"stdout": b"one two", "stderr": b"oh"}
        await settle()
        assert pod.given == [(STDIN, GO), (STDIN, OVER)]
        assert pod.notes == [OPENED]
        assert held.ends == Offsets(stdout=7, stderr=2)
        assert await read(held, Offsets(stdout=4, stderr=2)) == {"stdout": b"two", "stderr": b""}, "it did not arrive"


async def test_a_slow_reader_slows_it_down() -> None:
    """And another one who reads goes on where the first was; that ends."""
    pod = Pod()
    chunk = b"x" * (AHEAD // 4)
    async with attached(pod, Streams()) as held:
        pod.say(*[(STDOUT, chunk)] * 12, *GOOD)
        await settle()
        assert pod.taken == 4, "no more than what may be ahead"
        first = held.read(Offsets())
        assert (await anext(first)).data == chunk
        await settle()
        assert pod.taken == 5
        rest = await read(held, Offsets(stdout=len(chunk)))
        assert rest["stdout"] == chunk * 11
        assert [output async for output in first] == []


async def test_input_is_given_once_and_in_pieces() -> None:
    """Whatever is sent again; what is missing in between is none of it."""
    pod = Pod()
    async with attached(pod, Streams(reads=True)) as held:
        await held.write(0, b"hello ", end=False)
        await held.write(0, b"hello world", end=False)
        with pytest.raises(StreamsGone, match="goes on at 11, not at 12"):
            await held.write(12, b"x", end=False)
        pod.open.clear()  # the command has no room
        for _ in range(2):
            with suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    await held.write(11, b"!" * 40_000, end=True)
        pod.open.set()
        await held.write(11, b"!" * 40_000, end=True)
        assert pod.input == GO + b"6\nhello 5\nworld40000\n" + b"!" * 40_000 + b"0\n"
        assert pod.notes == [OPENED, FED]


async def test_a_broken_connection_before_the_end_of_input_cuts_it_off() -> None:
    """Nobody knows what of it came: the rest must not be given."""
    pod = Pod()
    async with attached(pod, Streams(reads=True)) as held:
        await held.write(0, b"hello", end=False)
        pod.say(None)
        assert await read(held) == {"stdout": b"", "stderr": b""}
        assert held.is_cut
        assert held.ends is None
        with pytest.raises(StreamsGone):
            await held.write(5, b"world", end=True)
    assert pod.connections == 1


@pytest.mark.parametrize("streams", [Streams(), Streams(reads=True)])
async def test_a_broken_connection_after_that_is_made_again(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its output goes on; how much of it there was, nobody knows."""
    monkeypatch.setattr("seaway.engine.kubernetes.attached.RETRY", 0)
    pod = Pod()
    async with attached(pod, streams) as held:
        await held.write(0, b"", end=True)
        before = list(pod.given)
        pod.say((STDOUT, b"one "), None, (STDOUT, b"three"), *ALL)
        assert (await read(held))["stdout"] == b"one three"
        assert held.ends is None
        await settle()
        assert pod.given == [*before, (STDIN, GO), (STDIN, OVER)], "the marks may have been sent before"
    assert pod.connections == 2


async def test_what_has_no_mark_may_not_be_all() -> None:
    """A container that was killed, or whose runtime did not wait for a slow reader, ends in the same good way."""
    pod = Pod()
    async with attached(pod, Streams()) as held:
        pod.say((STDOUT, b"one"), (STDOUT, MARK), (END, SUCCESS))
        assert (await read(held))["stdout"] == b"one"
        assert held.ends is None


async def test_marks_come_in_any_pieces() -> None:
    """What only begins like one is output; what follows one is not the command's."""
    pod = Pod()
    begun = MARK[:-1]
    async with attached(pod, Streams()) as held:
        whole = b"red \x1b[31m" + begun + b"!" + MARK[:1] + begun + MARK + b"late" + MARK
        pod.say(*[(STDOUT, whole[at : at + 1]) for at in range(len(whole))])
        pod.say((STDERR, b"\x1b"), (STDERR, b"oh" + MARK[:5]), (STDERR, MARK[5:] + b"late"))
        wanted = b"red \x1b[31m" + begun + b"!" + MARK[:1] + begun
        assert await read(held) == {"stdout": wanted, "stderr": b"\x1boh"}
        assert held.ends == Offsets(stdout=len(wanted), stderr=3)


async def test_a_command_that_ends_before_its_input() -> None:
    """The rest of the piece that was begun is sent, and an end of all, so that what comes next is understood."""
    pod = Pod()
    async with attached(pod, Streams(reads=True)) as held:
        await settle()
        pod.open.clear()
        writing = asyncio.create_task(held.write(0, b"x" * 40_000, end=False))
        await settle()
        pod.say(*ALL)
        assert await read(held) == {"stdout": b"", "stderr": b""}
        await writing
        pod.open.set()
        await settle()
        assert pod.input == GO + b"40000\n" + b"x" * 40_000 + NOTHING_MORE + OVER
        assert held.ends == Offsets()
        assert not held.is_cut


async def test_the_container_is_told_to_end_over_a_broken_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of its output is here; a second connection is for that alone, and nothing is lost."""
    monkeypatch.setattr("seaway.engine.kubernetes.attached.RETRY", 0)
    pod = Pod()
    async with attached(pod, Streams(reads=True)) as held:
        await settle()
        pod.open.clear()
        pod.say((STDOUT, b"one"), *ALL, None)
        assert (await read(held))["stdout"] == b"one"
        while pod.connections == 1:
            await asyncio.sleep(0)
        pod.open.set()
        await settle()
        assert pod.input == GO + GO + NOTHING_MORE + OVER
        assert held.ends == Offsets(stdout=3)
        pod.say(None)
        await settle()
        assert held.ended
        assert pod.connections == 2


async def test_a_command_begins_only_when_that_is_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise another replica that leads could not know that output was missed."""
    monkeypatch.setattr("seaway.engine.kubernetes.attached.RETRY", 0)
    pod = Pod()
    pod.refused = 1
    async with attached(pod, Streams()):
        while not pod.given:
            await asyncio.sleep(0)
        assert pod.connections == 2
        assert pod.notes == [OPENED]


async def test_a_connection_that_ends_for_another_reason_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seaway.engine.kubernetes.attached.RETRY", 0)
    pod = Pod()
    failure = b'{"metadata":{},"status":"Failure","message":"container not running","reason":"InternalError"}'
    async with attached(pod, Streams()) as held:
        pod.say((END, failure), (STDOUT, b"all"), *GOOD)
        assert (await read(held))["stdout"] == b"all"
    assert pod.connections == 2


@pytest.mark.parametrize("logged", [106 + 7, 106 + 8, None])
async def test_the_log_says_whether_something_was_missed(logged: int | None) -> None:
    """While no replica led; the container waits for the question."""
    pod = Pod()
    pod.logged = logged
    async with attached(pod, Streams(), opened=True) as held:
        pod.say((STDOUT, b"more"), (STDERR, b"!"), *ALL)
        await settle()
        assert pod.given == [(STDIN, GO)]
        assert (await read(held, Offsets(stdout=102, stderr=6))) == {"stdout": b"more", "stderr": b"!"}
        await settle()
        assert held.ends == (Offsets(stdout=106, stderr=7) if logged == 106 + 7 else None)
        assert pod.given == [(STDIN, GO), (STDIN, OVER)]


async def test_another_replica_goes_on_where_its_reader_is() -> None:
    """It does not let the command begin a second time."""
    pod = Pod()
    async with attached(pod, Streams(), opened=True) as held:
        pod.say((STDOUT, b"more"), *ALL)
        assert (await read(held, Offsets(stdout=100, stderr=7))) == {"stdout": b"more", "stderr": b""}
        assert held.ends is None
        await settle()
        assert pod.given == [(STDIN, GO), (STDIN, OVER)]


@pytest.mark.parametrize("fed", [True, False])
async def test_another_replica_can_know_that_all_input_came(fed: bool) -> None:
    pod = Pod()
    async with attached(pod, Streams(reads=True), opened=True, fed=fed) as held:
        pod.say((STDOUT, b"more"), *GOOD)
        assert (await read(held))["stdout"] == (b"more" if fed else b"")
        assert held.is_cut is not fed


async def test_a_terminal() -> None:
    """Its size comes first; what began the command is not shown, however it comes; nothing is framed."""
    pod = Pod()
    async with attached(pod, TERMINAL) as held:
        pod.say((STDOUT, b"\r"), (STDOUT, b"\n$ "))
        await held.write(0, b"ls\r", end=False)
        held.resize(Terminal(rows=50, columns=132))
        await settle()
        assert pod.given == [(SIZE, b"24 80"), (STDIN, b"\n"), (STDIN, b"ls\r"), (SIZE, b"50 132")]
        pod.say((STDOUT, b"a b\r\n"), (END, SUCCESS))
        assert (await read(held))["stdout"] == b"$ a b\r\n"
        assert held.ends == Offsets(stdout=7)


async def test_a_terminal_goes_on_with_another_replica() -> None:
    """What was typed and drawn there is known to whoever sits before it."""
    pod = Pod()
    async with attached(pod, TERMINAL, opened=True) as held:
        pod.say((STDOUT, b"$ "))
        reader = held.read(Offsets(stdout=1000))
        assert (await anext(reader)).offset == 1000
        await held.write(30, b"exit\r", end=False)
        pod.say((END, SUCCESS))
        assert [output async for output in reader] == []
        assert held.ends == Offsets(stdout=1002)
        assert pod.given == [(SIZE, b"24 80"), (STDIN, b"exit\r")]


async def test_a_silent_connection_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """By messages of nothing: a kubelet ends one that is idle for hours, a balancer much sooner."""
    monkeypatch.setattr("seaway.engine.kubernetes.attached.BEAT", 0.001)
    pod = Pod()
    async with attached(pod, Streams(reads=True)) as held:
        while pod.given.count((STDIN, b"")) < 2:
            await asyncio.sleep(0)
        await held.write(0, b"x", end=True)
        assert pod.input == GO + b"1\nx0\n"

"""The streams of one-offs on this machine: every byte, in order, whoever is killed, slow or away meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest

from seaway.engine.base import Output, StreamsGone
from seaway.engine.local import shim
from seaway.engine.local.client import LocalEngine
from seaway.model import Offsets, Streams, Task, TaskState, Terminal
from tests.contract.engine_kit import LocalKit, ProcessKit, eventually, make_task, running

NAME = "shop-run-1"
READS, PLAIN = Streams(reads=True), Streams()
TERMINAL = Streams(reads=True, terminal=Terminal(rows=33, columns=99, kind="vt220"))


@pytest.fixture(params=[False, True], ids=["as the agent can", "as an ordinary user"])
async def kit(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[LocalKit]:
    """An agent in this process."""
    async with running(LocalKit(tmp_path, as_ordinary_user=request.param)) as found:
        yield found


@pytest.fixture
async def killable(tmp_path: Path) -> AsyncIterator[ProcessKit]:
    """An agent that can be killed."""
    async with running(ProcessKit(tmp_path)) as found:
        yield found


def make(command: str, streams: Streams) -> Task:
    return make_task(NAME, command, streams=streams, attached=True)


async def start(kit: LocalKit, command: str, streams: Streams) -> None:
    """Start a one-off and return when it runs."""
    await kit.engine.start_task(make(command, streams))

    async def look() -> bool:
        return any(t.started_at is not None or t.done for t in (await kit.engine.observe()).tasks)

    await eventually(look)


class Reader:
    """What was read of the two streams; `follow` goes on where it was."""

    def __init__(self, engine: LocalEngine) -> None:
        self.engine = engine
        self.out = {"stdout": bytearray(), "stderr": bytearray()}
        self.looked = 0  # how much of stdout `await_text` is through with

    async def follow(self, most: int | None = None) -> None:
        """Read to the end, or `most` bytes."""
        begin = Offsets(**{name: len(data) for name, data in self.out.items()})
        async with aclosing(self.engine.read_output(NAME, begin)) as output:
            async for piece in output:
                self.add(piece)
                if most is not None and self.size >= most:
                    return

    def add(self, piece: Output) -> None:
        assert piece.offset == len(self.out[piece.stream])
        self.out[piece.stream] += piece.data

    @property
    def size(self) -> int:
        return sum(map(len, self.out.values()))

    async def await_text(self, text: str) -> None:
        """Read until stdout has the text, after what was awaited before."""
        async with aclosing(self.engine.read_output(NAME, Offsets(stdout=len(self.out["stdout"])))) as output:
            while (found := self.out["stdout"].find(text.encode(), self.looked)) < 0:
                self.add(await anext(output))
        self.looked = found + len(text)


BOTH = """python -c "
import os, sys, hashlib
data = os.urandom(1 << 20) * 12
os.write(2, hashlib.sha256(data).hexdigest().encode())
sys.stdout.buffer.write(data)
" """


async def test_every_byte_arrives(kit: LocalKit) -> None:
    """Also of what is no text, and much more than any buffer holds; the state says how much there was."""
    await start(kit, BOTH, PLAIN)
    reader = Reader(kit.engine)
    await reader.follow()
    assert hashlib.sha256(reader.out["stdout"]).hexdigest().encode() == bytes(reader.out["stderr"])
    state = await kit.await_task()
    assert (state.exit_code, state.output_ends) == (0, Offsets(stdout=12 << 20, stderr=64))


async def test_a_slow_reader_slows_the_command_down(kit: LocalKit) -> None:
    """What nobody reads is not taken, and so not lost: the command does not come to its end before."""
    await start(kit, "echo begun >&2; head -c 20000000 /dev/zero; echo done >&2", PLAIN)
    reader = Reader(kit.engine)
    await reader.follow(1)
    (holder,) = find_shims(kit)

    async def is_full() -> bool:
        before = holder.cpu_times().user + holder.cpu_times().system
        await asyncio.sleep(0.3)
        return holder.cpu_times().user + holder.cpu_times().system == before

    await eventually(is_full)
    assert not any(task.done for task in (await kit.engine.observe()).tasks)
    await reader.follow()
    assert len(reader.out["stdout"]) == 20_000_000
    assert bytes(reader.out["stderr"]) == b"begun\ndone\n"


async def test_who_comes_back_goes_on(kit: LocalKit) -> None:
    """A reader whose connection broke gets again what it does not have, and nothing twice."""
    await start(kit, BOTH, PLAIN)
    reader = Reader(kit.engine)
    for most in range(1 << 20, 11 << 20, 3 << 20):
        await reader.follow(most)
        for data in reader.out.values():
            del data[len(data) // 100 * 99 :]  # the last of it did not arrive
    await reader.follow()
    assert hashlib.sha256(reader.out["stdout"]).hexdigest().encode() == bytes(reader.out["stderr"])


async def test_input_is_read_to_its_end(kit: LocalKit) -> None:
    """In pieces, of which one comes twice; also by a program that opens /dev/stdin."""
    await start(kit, "cat /dev/stdin | sha256sum", READS)
    data = os.urandom(3 << 20)
    reader = asyncio.create_task((read := Reader(kit.engine)).follow())
    for begin in (0, 1 << 20, 1 << 20, 2 << 20):
        await kit.engine.write_input(NAME, begin, data[begin : begin + (1 << 20)])
    await kit.engine.write_input(NAME, len(data), b"", end=True)
    await reader
    assert read.out["stdout"].split()[0].decode() == hashlib.sha256(data).hexdigest()
    with pytest.raises(StreamsGone):
        await kit.engine.write_input(NAME, len(data) + 5, b"x")


async def test_input_that_nobody_reads_waits(kit: LocalKit) -> None:
    """The command decides how fast; when it ends, so does the wait."""
    await start(kit, "head -c 1; sleep 0.5", READS)
    reader = Reader(kit.engine)
    reading = asyncio.create_task(reader.follow())
    began = asyncio.get_running_loop().time()
    await kit.engine.write_input(NAME, 0, bytes(8 << 20))
    assert asyncio.get_running_loop().time() - began >= 0.4
    await reading
    assert bytes(reader.out["stdout"]) == b"\0"


async def test_without_input_there_is_none(kit: LocalKit) -> None:
    """A command that was not given any reads its end at once."""
    await start(kit, "cat; echo over", PLAIN)
    reader = Reader(kit.engine)
    await reader.follow()
    assert bytes(reader.out["stdout"]) == b"over\n"


async def test_a_terminal(kit: LocalKit) -> None:
    """It has the size and name that were said, hears of another size, and Ctrl-C interrupts what runs in front."""
    script = "trap 'stty size' WINCH; test -t 0 && test -t 2 && echo $TERM; stty size; while :; do sleep 0.1; done"
    await start(kit, script, TERMINAL)
    reader = Reader(kit.engine)
    await reader.await_text("vt220\r\n33 99\r\n")
    await kit.engine.resize(NAME, Terminal(rows=50, columns=132))
    await reader.await_text("50 132\r\n")
    await kit.engine.write_input(NAME, 0, b"\x03")
    await reader.follow()
    state = await kit.await_task()
    assert state.exit_code == -signal.SIGINT
    assert bytes(reader.out["stdout"]).endswith(b"^C")
    assert state.output_ends == Offsets(stdout=reader.size)


async def test_a_terminal_has_no_end_of_input(kit: LocalKit) -> None:
    """What is typed there may be over; the terminal stays until its command ends."""
    await start(kit, "read line; echo got $line", TERMINAL)
    await kit.engine.write_input(NAME, 0, b"", end=True)
    await kit.engine.write_input(NAME, 0, b"it\n")
    reader = Reader(kit.engine)
    await reader.follow()
    assert bytes(reader.out["stdout"]) == b"it\r\ngot it\r\n"


async def test_small_pieces_are_put_together(kit: LocalKit) -> None:
    """A progress bar of a million dots, each written by itself, takes no more memory than they do."""
    code = "import os; [os.write(1, b'.') for _ in range(300_000)]"
    await start(kit, f'python -c "{code}"; sleep 1000', PLAIN)
    reader = Reader(kit.engine)
    await reader.follow(300_000)
    (holder,) = find_shims(kit)
    assert holder.memory_info().rss < 16 << 20
    assert bytes(reader.out["stdout"]) == b"." * 300_000


async def test_a_shell_in_a_terminal_controls_its_jobs(kit: LocalKit) -> None:
    """What is typed is answered; Ctrl-C ends the job in front and not the shell, Ctrl-D the shell."""
    await start(kit, "INPUTRC=/dev/null PS1='> ' TERM=dumb bash --norc --noprofile -i", TERMINAL)
    reader = Reader(kit.engine)
    await reader.await_text("> ")
    sent = 0
    told = (
        ("echo $((6*7))\n", "42\r\n> "),
        ("sh -c 'echo rea\"\"dy; cat'\n", "ready\r\n"),
        ("purr\n", "purr\r\npurr\r\n"),
        ("\x03", "> "),
        ("echo $?\n", "130\r\n> "),
    )
    for typed, answer in told:
        await kit.engine.write_input(NAME, sent, typed.encode())
        sent += len(typed)
        await reader.await_text(answer)
    await kit.engine.write_input(NAME, sent, b"\x04")
    await reader.follow()
    assert b"no job control" not in reader.out["stdout"]
    assert (await kit.await_task()).exit_code == 0


async def test_output_is_in_the_logs_too_but_not_a_terminals(kit: LocalKit) -> None:
    """Whoever looks later finds what a command said; what somebody typed and saw is nobody else's."""
    await start(kit, "echo seen; echo wrong >&2", PLAIN)
    await Reader(kit.engine).follow()
    await kit.await_task()
    assert sorted((line["message"], line["stream"]) for line in await kit.read_logs()) == [
        ("seen", "stdout"), ("wrong", "stderr"),
    ]  # fmt: skip
    await kit.engine.remove_task(NAME)
    await start(kit, "echo private", TERMINAL)
    reader = Reader(kit.engine)
    await reader.follow()
    assert bytes(reader.out["stdout"]) == b"private\r\n"
    await kit.await_task()
    assert "private" not in str(await kit.read_logs())


async def test_the_rest_is_read_after_the_end(kit: LocalKit) -> None:
    """What a command wrote is there when it is done, and its holder goes once it was read."""
    await start(kit, "echo last words; exit 3", PLAIN)
    assert (await kit.await_task()).exit_code == 3
    reader = Reader(kit.engine)
    await reader.follow()
    assert bytes(reader.out["stdout"]) == b"last words\n"

    async def is_gone() -> bool:
        return not find_shims(kit)

    await eventually(is_gone)
    with pytest.raises(StreamsGone):
        await reader.follow()


async def test_a_killed_agent_is_not_noticed(killable: ProcessKit) -> None:
    """Neither by the command, which does not see an end of its input, nor by who reads and writes."""
    await start(killable, "sha256sum; echo over", READS)
    data, reader = os.urandom(2 << 20), Reader(killable.engine)
    reading = asyncio.create_task(reader.follow())
    await killable.engine.write_input(NAME, 0, data[: 1 << 20])
    killable.kill_agent()
    await killable.engine.write_input(NAME, 1 << 20, data[1 << 20 :], end=True)
    await reader_has(reader, b"-\nover\n")
    await killable.start()
    await reading
    state: TaskState = await killable.await_task()
    assert reader.out["stdout"].decode() == f"{hashlib.sha256(data).hexdigest()}  -\nover\n"
    assert (state.exit_code, state.output_ends) == (0, Offsets(stdout=reader.size))


async def reader_has(reader: Reader, text: bytes) -> None:
    async def look() -> bool:
        return bytes(reader.out["stdout"]).endswith(text)

    await eventually(look)


async def test_a_killed_holder_ends_the_command(kit: LocalKit) -> None:
    """Its command would take the end of its input for a real one: it is killed, and its state says why."""
    await start(kit, "sleep 0.2; cat; sleep 1000", READS)
    (holder,) = find_shims(kit)
    holder.kill()
    state = await kit.await_task()
    assert (state.exit_code, state.reason) == (-9, "killed: the process that holds its input and output is gone")


async def test_going_down_leaves_no_holder(kit: LocalKit) -> None:
    """Not even one that has something which nobody read. (The kit looks for what is left, too.)"""
    await start(kit, "echo unread", PLAIN)
    await kit.await_task()
    assert find_shims(kit)
    await kit.engine.stop_all()

    async def is_gone() -> bool:
        return not find_shims(kit)

    await eventually(is_gone, limit=shim.LINGER / 2)


def find_shims(kit: LocalKit) -> list[psutil.Process]:
    """Return the shims that run for this home."""
    words = (shim.__file__, str(kit.home.node))
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if words[0] in line and any(word.startswith(words[1]) for word in line):
            found.append(process)
    return found

"""The streams of commands that somebody waits for, on a real cluster: `pods/attach` through the API server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from seaway.engine.base import StreamsGone
from seaway.engine.kubernetes import KubernetesEngine
from seaway.kube.attaching import AttachedPod, attach
from seaway.model import Offsets, Streams, Task, TaskState, Terminal
from tests.contract.engine_kit import eventually
from tests.kube.engine_kit import KubernetesKit

pytestmark = pytest.mark.timeout(180)

ID = "shop-run-1"
BEGIN = Offsets()
PIPED = Streams(reads=True)
TYPED = Streams(reads=True, terminal=Terminal(rows=30, columns=100, kind="vt220"))


async def start(kit: KubernetesKit, command: str, streams: Streams, image: str = "") -> None:
    """Start a command and wait until it runs, or rather its first process, which waits."""
    task = kit.task(ID, 0, command).model_copy(update={"streams": streams, "attached": True})
    await kit.engine.start_task(task if not image else task.model_copy(update={"image": image}))
    await kit.await_task_reason("running")


async def await_end(engine: KubernetesEngine) -> TaskState:
    async def look() -> TaskState | None:
        return next((t for t in (await engine.observe()).tasks if t.done), None)

    return await eventually(look, 60)


async def read(engine: KubernetesEngine, begin: Offsets = BEGIN) -> tuple[bytes, bytes]:
    """Return all there is, to the end."""
    found = {"stdout": b"", "stderr": b""}
    async with aclosing(engine.read_output(ID, begin)) as outputs:
        async for output in outputs:
            found[output.stream] += output.data
    return found["stdout"], found["stderr"]


async def write(engine: KubernetesEngine, data: bytes) -> None:
    """Give it all of its input, as the API does."""
    for at in range(0, len(data), 1 << 20):
        await engine.write_input(ID, at, data[at : at + (1 << 20)])
    await engine.write_input(ID, len(data), b"", end=True)


class Screen:
    """What a terminal shows, as it comes."""

    def __init__(self, engine: KubernetesEngine, begin: int = 0) -> None:
        self._outputs = engine.read_output(ID, Offsets(stdout=begin))
        self.shown, self.end = b"", begin

    async def until(self, text: str) -> str:
        """Return what came up to a text."""
        async with asyncio.timeout(30):
            while text.encode() not in self.shown:
                output = await anext(self._outputs)
                assert (output.stream, output.offset) == ("stdout", self.end)
                self.shown += output.data
                self.end += len(output.data)
        before, _, self.shown = self.shown.partition(text.encode())
        return before.decode()

    async def rest(self) -> bytes:
        """Return what comes to the end."""
        return self.shown + b"".join([output.data async for output in self._outputs])


@asynccontextmanager
async def another(kit: KubernetesKit) -> AsyncIterator[KubernetesEngine]:
    """The engine of a replica that leads next; the one before is dead."""
    await kit.engine._streams.close()
    engine = KubernetesEngine(kit.client, kit.settings, tell=kit._tell)
    await engine.start()
    try:
        async with asyncio.timeout(30):
            await engine.wait_synced()
        yield engine
    finally:
        await engine.close()


async def test_every_byte_goes_through_a_command(engine_kit: KubernetesKit) -> None:
    """In and out at once, more than any buffer holds; errors apart, and the command's own exit code."""
    given = random.Random(7).randbytes(5_000_000) + b"\n0\n"
    await start(engine_kit, "cat; echo done >&2; exit 5", PIPED, engine_kit.cluster.base_image)
    (out, err), _ = await asyncio.gather(read(engine_kit.engine), write(engine_kit.engine, given))
    assert (out == given, err) == (True, b"done\n")
    done = await await_end(engine_kit.engine)
    assert (done.exit_code, done.output_ends) == (5, Offsets(stdout=len(given), stderr=5))
    assert await read(engine_kit.engine, Offsets(stdout=len(given) - 3)) == (b"\n0\n", b"done\n"), "read again"


async def test_a_command_that_ends_before_its_input(engine_kit: KubernetesKit) -> None:
    """In an image whose `head` cannot be had exactly; what is left is for nothing."""
    await start(engine_kit, "head -c 3; exit 4", PIPED)
    writing = asyncio.create_task(write(engine_kit.engine, b"one two" * 200_000))
    assert await read(engine_kit.engine) == (b"one", b"")
    assert (await await_end(engine_kit.engine)).exit_code == 4
    writing.cancel()
    with pytest.raises(StreamsGone):
        await engine_kit.engine.write_input("shop-run-none", 0, b"x")


async def test_a_slow_reader_slows_a_command_down(engine_kit: KubernetesKit) -> None:
    """Nothing of what it writes is lost, and nothing piles up."""
    await start(engine_kit, "yes 0123456789abcde | head -c 32000000", Streams())
    outputs, came = engine_kit.engine.read_output(ID, BEGIN), 0
    async for output in outputs:
        if came == 0:
            await asyncio.sleep(2)
            assert not (await engine_kit.engine.observe()).tasks[0].done
        came += len(output.data)
    assert came == 32_000_000
    assert (await await_end(engine_kit.engine)).output_ends == Offsets(stdout=came)


async def test_a_shell_on_a_terminal(engine_kit: KubernetesKit) -> None:
    """Typed and answered, in its size; Ctrl-C is for what runs in front; the exit code is the shell's."""
    await start(engine_kit, "PS1='> ' exec sh -i", TYPED)
    screen, typed = Screen(engine_kit.engine), b""

    async def type_in(text: str) -> None:
        nonlocal typed
        await engine_kit.engine.write_input(ID, len(typed), text.encode())
        typed += text.encode()

    await screen.until("> ")
    await type_in("echo $TERM; stty size\r")
    assert (await screen.until("> ")).split("\r\n")[1:] == ["vt220", "30 100", ""]
    await engine_kit.engine.resize(ID, Terminal(rows=50, columns=132))
    await type_in('until [ "$(stty size)" = "50 132" ]; do sleep 0.1; done; echo dra""wn\r')
    await screen.until("drawn\r\n")
    await type_in('echo st""arted; sleep 1000\r')
    await screen.until("started\r\n")
    await type_in("\x03")
    await screen.until("> ")
    await type_in("echo $((6*7)); exit 3\r")
    assert b"\r\n42\r\n" in await screen.rest()
    done = await await_end(engine_kit.engine)
    assert done.exit_code == 3
    assert done.output_ends is not None


async def test_a_terminal_goes_on_when_another_replica_leads(engine_kit: KubernetesKit) -> None:
    """It is not told to begin again, and what is drawn next goes on where the reader was."""
    await start(engine_kit, "PS1='> ' exec sh -i", TYPED)
    screen = Screen(engine_kit.engine)
    await screen.until("> ")
    async with another(engine_kit) as engine:
        after = Screen(engine, screen.end)
        await engine.resize(ID, Terminal(rows=30, columns=100))
        await engine.write_input(ID, 0, b"echo $((6*7))\r")
        assert (await after.until("> ")).split("\r\n")[1:] == ["42", ""]
        await engine.write_input(ID, 14, b"exit 3\r")
        await after.rest()
        assert (await await_end(engine)).exit_code == 3


@pytest.mark.parametrize("missed", [True, False])
async def test_whether_output_was_missed_while_nobody_led(
    engine_kit: KubernetesKit, monkeypatch: pytest.MonkeyPatch, missed: bool
) -> None:
    """The command's log says so, when it has ended; its exit code is given on if nothing was."""
    steps = "for step in 1 2; do until [ -e /tmp/$step ]; do sleep 0.1; done; echo $step; echo on >&2; done; exit 3"
    await start(engine_kit, f"echo 0; {steps}", Streams())
    (pod,) = await engine_kit.get("pods")
    name = pod["metadata"]["name"]

    connected = asyncio.Event()

    @asynccontextmanager
    async def noticed(*words: Any, **more: Any) -> AsyncIterator[AttachedPod]:
        async with attach(*words, **more) as attached:
            connected.set()
            yield attached

    async def go(step: int) -> None:
        await engine_kit.kubectl("exec", name, "--", "touch", f"/tmp/{step}")

    async def is_written() -> bool:
        return "1" in (await engine_kit.kubectl("logs", name)).split()

    await Screen(engine_kit.engine).until("0\n")
    async with another(engine_kit) as engine:
        if missed:
            await go(1)
            await eventually(is_written, 30)
        monkeypatch.setattr("seaway.engine.kubernetes.streams.attach", noticed)
        reading = asyncio.create_task(read(engine, Offsets(stdout=2)))
        async with asyncio.timeout(30):
            await connected.wait()
        if not missed:
            await go(1)
        await go(2)
        assert await reading == ((b"2\n", b"on\n") if missed else (b"1\n2\n", b"on\non\n"))
        done = await await_end(engine)
        assert done.exit_code == 3
        assert done.output_ends == (None if missed else Offsets(stdout=6, stderr=6))


@pytest.mark.parametrize("fed", [True, False])
async def test_input_that_another_replica_cannot_complete(engine_kit: KubernetesKit, fed: bool) -> None:
    """A command that has all of it goes on; another one is killed, and that is told."""
    await start(engine_kit, "cat; sleep 5; echo end", PIPED)
    engine_kit.told.clear()
    await engine_kit.engine.write_input(ID, 0, b"begin\n", end=fed)
    first = Screen(engine_kit.engine)
    await first.until("begin\n")
    async with another(engine_kit) as engine:
        out, _ = await read(engine, Offsets(stdout=6))
        if fed:
            assert out == b"end\n"
            assert (await await_end(engine)).output_ends == Offsets(stdout=10)
        else:
            assert out == b""
            told = await engine_kit.await_told("TaskKilled")
            assert "its connection with what it reads broke" in told.message
            assert not (await engine.observe()).tasks


async def test_a_terminal_is_closed(engine_kit: KubernetesKit) -> None:
    """Whoever sat there is gone: an interactive shell, which keeps SIGTERM from itself, ends at once."""
    await start(engine_kit, "PS1='> ' exec sh -i", TYPED)
    await Screen(engine_kit.engine).until("> ")
    await engine_kit.engine.remove_task(ID)

    async def has_ended() -> bool:
        states = [pod["status"]["containerStatuses"][0]["state"] for pod in await engine_kit.get("pods")]
        return all("terminated" in state for state in states)

    await eventually(has_ended, 8)  # its grace is 10 s; its pod goes some seconds later


async def test_output_without_input_and_a_task_without_streams(engine_kit: KubernetesKit) -> None:
    """What it reads is empty at once; one whose output is in the logs has nothing to be read here."""
    await start(engine_kit, "cat; echo hello; echo oh >&2", Streams())
    assert await read(engine_kit.engine) == (b"hello\n", b"oh\n")
    assert (await await_end(engine_kit.engine)).output_ends == Offsets(stdout=6, stderr=3)
    plain: Task = engine_kit.task("shop-run-2", 0, "sleep 60")
    await engine_kit.engine.start_task(plain)
    await engine_kit.await_task_reason("running")
    with pytest.raises(StreamsGone, match="no streams"):
        await engine_kit.engine.write_input("shop-run-2", 0, b"x")

"""Running a build in a process group of its own, so that it can be killed without a trace."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from seaway.builder.base import BuildError
from seaway.builder.quarters import Room
from seaway.home import Home
from seaway.model import BuildManifest, Source
from seaway.sandbox.procs import FILES
from seaway.sandbox.removing import remove_tree

LINE_LIMIT = 64 * 1024 * 1024  # bytes of one message of the worker; the manifest is the longest
SCRATCH_PREFIX = "scratch-"
REMOVE_ATTEMPTS = 100
REMOVE_PAUSE = 0.02  # seconds
TERM_LIMIT = 2.0  # seconds for a worker to kill what it has started
LOCK_NAME = ".lock"
NO_ROOM = Room()

Answer = Callable[[Mapping[str, Any]], Awaitable[Any]]
"""Answers what the worker asks in the middle of a build (see worker.Containers); may raise BuildError."""


@dataclass(frozen=True)
class Scratch:
    """A build's private folder, and the locked file in it that says the build lives."""

    folder: Path
    lock: int


@dataclass(frozen=True)
class Made:
    """What a worker made: the manifest, its layers (in the layout) or the whole image there, and its plan."""

    manifest: BuildManifest
    image: str | None
    layers: tuple[Mapping[str, Any], ...] = ()
    plan: Mapping[str, Any] | None = None


class Journal:
    """The build's log: steps and output, flushed line by line so that others can follow the file."""

    def __init__(self, output: IO[str], progress: Callable[[str], None]) -> None:
        self._output = output
        self._progress = progress

    def step(self, sentence: str) -> None:
        """Say what happens now."""
        self._write(f"-----> {sentence}")
        self._progress(sentence)

    def line(self, text: str) -> None:
        """Pass a line of output on."""
        self._write(f"       {text}")

    def fail(self, message: str) -> None:
        """Say why it ends."""
        for line in message.splitlines():
            self._write(f" !     {line}")

    def _write(self, text: str) -> None:
        self._output.write(text + "\n")
        self._output.flush()


async def run_worker(
    home: Home, app: str, source: Source, journal: Journal, answer: Answer | None = None, *, room: Room = NO_ROOM
) -> Made:
    """Build with `python -m seaway.builder.worker` below `home`. Raises BuildError.

    With `answer` layers for containers are made, else a whole image for this machine; `room` is the app's. Cancelling
    kills the process group and removes the scratch folder before it returns.
    """
    scratch = await asyncio.to_thread(make_scratch, home)
    process: asyncio.subprocess.Process | None = None
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "seaway.builder.worker",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            start_new_session=True, pass_fds=(scratch.lock,), cwd=scratch.folder, limit=LINE_LIMIT,
        )  # fmt: skip
        request = {
            "home": str(home.root),
            "app": app,
            "source": source.model_dump(mode="json"),
            "scratch": str(scratch.folder),
            "parent": os.getpid(),
            "lock": scratch.lock,
            "containers": answer is not None,
            "user": room.user,
            "word": room.word,
            "groups": room.groups,
            "files": FILES,
        }
        return await _converse(process, request, journal, answer)
    finally:
        await finish(_clean_up(process, scratch))


def make_scratch(home: Home) -> Scratch:
    """Make a private folder for one build."""
    home.builds.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=home.builds))
    lock = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return Scratch(folder, lock)


def clean_leftovers(home: Home) -> int:
    """Remove scratch folders of builds that died with the platform; return how many."""
    if not home.builds.is_dir():
        return 0
    removed = 0
    for folder in home.builds.glob(SCRATCH_PREFIX + "*"):
        lock = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            _remove(folder)
            removed += 1
        finally:
            os.close(lock)
    return removed


async def _converse(
    process: asyncio.subprocess.Process, request: Mapping[str, Any], journal: Journal, answer: Answer | None
) -> Made:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    errors = asyncio.create_task(process.stderr.read())
    try:
        await _tell(process.stdin, request)
        last: dict[str, Any] = {}
        async for raw in process.stdout:
            message = json.loads(raw)
            if "step" in message:
                journal.step(message["step"])
            elif "line" in message:
                journal.line(message["line"])
            elif "ask" in message and answer is not None:
                await _tell(process.stdin, {"answer": await answer(message)})
            else:
                last = message
        code = await process.wait()
        trouble = (await errors).decode(errors="replace")
    finally:
        process.stdin.close()
        errors.cancel()
        await asyncio.gather(errors, return_exceptions=True)
    if "error" in last:
        raise BuildError(last["error"])
    if "built" not in last:
        for line in trouble.splitlines():
            journal.line(line)
        reason = trouble.strip().splitlines()[-1] if trouble.strip() else "it said nothing"
        raise BuildError(f"the builder itself ended with {_describe_exit(code)} ({reason}): deploy again")
    built = last["built"]
    manifest = BuildManifest.model_validate(built["manifest"])
    return Made(manifest, built["image"], tuple(built["layers"]), built["plan"])


async def _tell(stdin: asyncio.StreamWriter, message: Mapping[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died: its exit code says so later
        stdin.write(json.dumps(message).encode() + b"\n")
        await stdin.drain()


def _describe_exit(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


async def _clean_up(process: asyncio.subprocess.Process | None, scratch: Scratch) -> None:
    if process is not None:
        with contextlib.suppress(ProcessLookupError, TimeoutError):
            process.terminate()  # it knows what it has started, also what has left its group
            async with asyncio.timeout(TERM_LIMIT):
                await process.wait()
        with contextlib.suppress(ProcessLookupError):  # nobody of the group is left
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    await asyncio.to_thread(_remove, scratch.folder)
    os.close(scratch.lock)


async def finish(work: Coroutine[Any, Any, None]) -> None:
    """Await the work to its end even if cancelled meanwhile; then pass the cancellation on."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


def _remove(folder: Path) -> None:
    """Remove a folder of a build that has ended; what was killed may still be writing for an instant."""
    for _ in range(REMOVE_ATTEMPTS):
        try:
            return remove_tree(folder)
        except OSError:
            time.sleep(REMOVE_PAUSE)
    return remove_tree(folder)

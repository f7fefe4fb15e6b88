"""SubprocessBuilder: every build runs in a process group of its own, so that it can be killed without a trace."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Set
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from seaway.builder.base import BuildError, Built
from seaway.builder.facts import this_platform
from seaway.builder.interpreter import this_version
from seaway.builder.layout import ImageError, ImageLayout
from seaway.builder.plan import PLAN_VERSION
from seaway.home import Home
from seaway.model import BuildManifest, Source

LINE_LIMIT = 64 * 1024 * 1024  # bytes of one message of the worker; the manifest is the longest
SCRATCH_PREFIX = "scratch-"
REMOVE_ATTEMPTS = 100
REMOVE_PAUSE = 0.02  # seconds
LOCK_NAME = ".lock"


@dataclass(frozen=True)
class _Scratch:
    """A build's private folder, and the locked file in it that says the build lives."""

    folder: Path
    lock: int


class SubprocessBuilder:
    """Builds with `python -m seaway.builder.worker` below `home`; implements builder.base.Builder."""

    def __init__(self, home: Home) -> None:
        self._home = Home(home.root.absolute())  # the worker starts in another folder
        self._layout = ImageLayout(self._home.images)

    async def build(self, app: str, source: Source, log: Path, progress: Callable[[str], None]) -> Built:
        """Build; append output lines to `log` as they come; call `progress` with each step's one sentence.

        Raises BuildError. Cancelling kills the process group and removes the scratch folder before it returns.
        """
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as output:
            journal = _Journal(output, progress)
            reused = await asyncio.to_thread(self._find_result, source)
            if reused is not None:
                journal.step("The source is unchanged since it was last built: its image is reused")
                journal.step(f"Image {reused.image}")
                return reused
            try:
                built = await self._run(app, source, journal)
            except BuildError as error:
                journal.fail(str(error))
                raise
            await asyncio.to_thread(self._remember, source, built)
            return built

    def clean_leftovers(self) -> int:
        """Remove scratch folders of builds that died with the platform; return how many. Call at start."""
        if not self._home.builds.is_dir():
            return 0
        removed = 0
        for folder in self._home.builds.glob(SCRATCH_PREFIX + "*"):
            lock = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            else:
                _remove_tree(folder)
                removed += 1
            finally:
                os.close(lock)
        return removed

    async def prune(self, images_in_use: Set[str], spare_after: float) -> int | None:
        """See builder.base.Builder."""
        return await asyncio.to_thread(self._layout.create().prune, images_in_use, spare_after)

    def _find_result(self, source: Source) -> Built | None:
        key = _result_key(source)
        found = self._layout.read_cache("results", key) if key else None
        try:
            if found is None or not self._layout.claim(found["image"]):
                return None
        except ImageError:
            return None
        return Built(image=found["image"], manifest=BuildManifest.model_validate(found["manifest"]))

    def _remember(self, source: Source, built: Built) -> None:
        key = _result_key(source)
        if key:
            manifest = built.manifest.model_dump(mode="json")
            self._layout.write_cache("results", key, {"image": built.image, "manifest": manifest})

    async def _run(self, app: str, source: Source, journal: _Journal) -> Built:
        scratch = await asyncio.to_thread(self._make_scratch)
        process: asyncio.subprocess.Process | None = None
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "seaway.builder.worker",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                start_new_session=True, pass_fds=(scratch.lock,), cwd=scratch.folder, limit=LINE_LIMIT,
            )  # fmt: skip
            request = {
                "home": str(self._home.root),
                "app": app,
                "source": source.model_dump(mode="json"),
                "scratch": str(scratch.folder),
                "parent": os.getpid(),
                "lock": scratch.lock,
            }
            return await _converse(process, json.dumps(request).encode(), journal)
        finally:
            await _finish(_clean_up(process, scratch))

    def _make_scratch(self) -> _Scratch:
        self._home.builds.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=self._home.builds))
        lock = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _Scratch(folder, lock)


class _Journal:
    """The build's log: steps and output, flushed line by line so that others can follow the file."""

    def __init__(self, output: IO[str], progress: Callable[[str], None]) -> None:
        self._output = output
        self._progress = progress

    def step(self, sentence: str) -> None:
        self._write(f"-----> {sentence}")
        self._progress(sentence)

    def line(self, text: str) -> None:
        self._write(f"       {text}")

    def fail(self, message: str) -> None:
        for line in message.splitlines():
            self._write(f" !     {line}")

    def _write(self, text: str) -> None:
        self._output.write(text + "\n")
        self._output.flush()


async def _converse(process: asyncio.subprocess.Process, request: bytes, journal: _Journal) -> Built:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    errors = asyncio.create_task(process.stderr.read())
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died: its exit code says so below
            process.stdin.write(request)
            await process.stdin.drain()
        process.stdin.close()
        answer: dict[str, Any] = {}
        async for raw in process.stdout:
            message = json.loads(raw)
            if "step" in message:
                journal.step(message["step"])
            elif "line" in message:
                journal.line(message["line"])
            else:
                answer = message
        code = await process.wait()
        trouble = (await errors).decode(errors="replace")
    finally:
        errors.cancel()
        await asyncio.gather(errors, return_exceptions=True)
    if "error" in answer:
        raise BuildError(answer["error"])
    if "built" not in answer:
        for line in trouble.splitlines():
            journal.line(line)
        reason = trouble.strip().splitlines()[-1] if trouble.strip() else "it said nothing"
        raise BuildError(f"the builder itself ended with {_describe_exit(code)} ({reason}): deploy again")
    built = answer["built"]
    return Built(image=built["image"], manifest=BuildManifest.model_validate(built["manifest"]))


def _describe_exit(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


async def _clean_up(process: asyncio.subprocess.Process | None, scratch: _Scratch) -> None:
    if process is not None:
        with contextlib.suppress(ProcessLookupError):  # nobody of the group is left
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    await asyncio.to_thread(_remove_tree, scratch.folder)
    os.close(scratch.lock)


async def _finish(work: Coroutine[Any, Any, None]) -> None:
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


def _remove_tree(folder: Path) -> None:
    """Remove a folder, also where a build took away its own rights, or still writes for an instant while it dies."""

    def grant(_function: Callable[..., Any], path: str, _error: object) -> None:
        if not os.path.lexists(path):
            return
        Path(path).parent.chmod(0o700)
        if Path(path).is_dir() and not Path(path).is_symlink():
            Path(path).chmod(0o700)
            shutil.rmtree(path)
        else:
            Path(path).unlink()

    for _ in range(REMOVE_ATTEMPTS):
        try:
            shutil.rmtree(folder, onerror=grant)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            time.sleep(REMOVE_PAUSE)  # a killed process of the group was still writing
        else:
            return
    raise OSError(errno.ENOTEMPTY, "a process of the build still writes to it", str(folder))


def _result_key(source: Source) -> str | None:
    """Key of a finished build of an uploaded archive; git refs move, so they have none."""
    if source.archive is None:
        return None
    parts = [str(PLAN_VERSION), source.archive.removeprefix("sha256:"), this_version(), this_platform()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()

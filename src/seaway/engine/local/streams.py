"""The streams of a one-off that somebody waits for: the node agent starts its shim, and who wants to talks to that."""

from __future__ import annotations

import asyncio
import os
import pty
import socket
import sys
import termios
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from fcntl import ioctl
from pathlib import Path

from seaway.engine.base import Output, StreamsGone
from seaway.engine.local import shim
from seaway.engine.local.process import Ends
from seaway.model import Offsets, Streams, Terminal

SOCKET = "streams"  # in the task's folder
STREAMS = {shim.STDOUT: "stdout", shim.STDERR: "stderr"}
ANSWER_LIMIT = 10.0  # seconds for a shim to do what is no matter of its command's
BACKLOG = 16


def start_shim(folder: Path, streams: Streams) -> Ends:
    """Start the shim of the task in this folder, a child; return what its command is to open. OSError.

    Its output is followed already: `stdout.pipe` and `stderr.pipe` are there (OutputCollector.follow).
    """
    opened: list[int] = []

    def keep(fd: int) -> int:
        opened.append(fd)
        return fd

    try:
        if streams.terminal is not None:
            master, slave = map(keep, pty.openpty())
            os.set_blocking(master, False)
            ioctl(slave, termios.TIOCSWINSZ, shim.pack_size(streams.terminal.rows, streams.terminal.columns))
            name = os.ttyname(slave)
            _spawn(folder, [master, slave, master, None])
            return Ends.of_terminal(name)
        given = keep(_open_pipe(folder / "stdin.own")) if streams.reads else None
        outputs = [keep(_open_pipe(folder / f"{name}.{kind}")) for name in STREAMS.values() for kind in ("own", "pipe")]
        _spawn(folder, [given, None, *outputs])
        stdin = str(folder / "stdin.own") if streams.reads else os.devnull
        return Ends.of_pipes(folder, "own", stdin)
    finally:
        for fd in opened:
            os.close(fd)


def _open_pipe(path: Path) -> int:
    """Open a named pipe, made if it is not there, for both sides: so it neither waits nor ends nor fails."""
    with suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def _spawn(folder: Path, fds: list[int | None]) -> None:
    """Start a shim with descriptors as `shim.main` takes them."""
    (folder / SOCKET).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        with _near(folder) as path:
            listener.bind(path)
        (folder / SOCKET).chmod(0o600)
        listener.listen(BACKLOG)
        passed = [listener.fileno(), *fds]
        for fd in passed:
            if fd is not None:
                os.set_inheritable(fd, True)
        words = ["-" if fd is None else str(fd) for fd in passed]
        pid = os.posix_spawn(
            sys.executable, [sys.executable, "-I", "-S", shim.__file__, str(folder / SOCKET), *words],
            {"TMPDIR": str(folder / "tmp")},
            file_actions=[(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1)],
            setsid=True, setsigmask=[], setsigdef=[],
        )  # fmt: skip
    _reap(pid)


def _reap(pid: int) -> None:
    """Let a child of ours go when it ends."""
    loop, fd = asyncio.get_running_loop(), os.pidfd_open(pid)

    def on_end() -> None:
        loop.remove_reader(fd)
        os.close(fd)
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)

    loop.add_reader(fd, on_end)


@contextmanager
def _near(folder: Path) -> Iterator[str]:
    """Give the socket's path in a form that is short enough for a socket, wherever the folder is."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET}"
    finally:
        os.close(fd)


class Line:
    """A connection to a shim."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, kind: bytes, offset: int = 0, data: bytes = b"") -> None:
        """Send a frame. OSError."""
        self._writer.write(shim.FRAME.pack(kind, offset, len(data)) + data)
        await self._writer.drain()

    async def receive(self) -> tuple[bytes, int, bytes]:
        """Return the next frame: its kind, offset and data. EOFError, OSError."""
        kind, offset, length = shim.FRAME.unpack(await self._reader.readexactly(shim.FRAME.size))
        return kind, offset, await self._reader.readexactly(length)

    async def receive_one(self, kind: bytes) -> bytes:
        """Return the data of the next frame of a kind. EOFError, OSError."""
        while True:
            found, _, data = await self.receive()
            if found == kind:
                return data


@asynccontextmanager
async def connect(folder: Path) -> AsyncIterator[Line]:
    """Connect with the shim of the task in this folder. StreamsGone, also when it goes meanwhile."""
    try:
        with _near(folder) as path:
            reader, writer = await asyncio.open_unix_connection(path)
    except OSError as error:
        raise StreamsGone("what it wrote and reads is nobody's any more: its shim is gone") from error
    try:
        yield Line(reader, writer)
    except (EOFError, OSError) as error:
        raise StreamsGone("its shim has gone, and what it held with it") from error
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def finish(folder: Path) -> Offsets | None:
    """Tell the shim that its command has ended; return how much that wrote, None if there is no shim (any more)."""
    with suppress(StreamsGone, TimeoutError):
        async with asyncio.timeout(ANSWER_LIMIT), connect(folder) as line:
            await line.send(shim.FINISH)
            return _read_ends(await line.receive_one(shim.ENDED))
    return None


async def quit_now(folder: Path) -> None:
    """Have the shim end, if there is one."""
    with suppress(StreamsGone, TimeoutError):
        async with asyncio.timeout(ANSWER_LIMIT), connect(folder) as line:
            await line.send(shim.QUIT)
            await line.receive_one(b"")  # it never comes: the connection ends


async def wait_gone(folder: Path) -> None:
    """Return when there is no shim any more."""
    with suppress(StreamsGone):
        async with connect(folder) as line:
            await line.receive_one(b"")


async def read_output(folder: Path, begin: Offsets) -> AsyncGenerator[Output, None]:
    """See StreamControl.read_output."""
    async with connect(folder) as line:
        await line.send(shim.READ, data=shim.POSITIONS.pack(begin.stdout, begin.stderr))
        while True:
            kind, offset, data = await line.receive()
            if kind == shim.ENDED:
                return
            if kind in STREAMS:
                yield Output(STREAMS[kind], offset, data)


async def write_input(folder: Path, offset: int, data: bytes, *, end: bool) -> None:
    """See StreamControl.write_input."""
    async with connect(folder) as line:
        for begin in range(0, len(data), shim.LONGEST):
            await line.send(shim.INPUT, offset + begin, data[begin : begin + shim.LONGEST])
            await line.receive_one(shim.TAKEN)
        if end:
            await line.send(shim.END_INPUT, offset + len(data))
            await line.receive_one(shim.TAKEN)


async def resize(folder: Path, terminal: Terminal) -> None:
    """See StreamControl.resize."""
    async with connect(folder) as line:
        await line.send(shim.RESIZE, data=shim.SIZE.pack(terminal.rows, terminal.columns))


def _read_ends(data: bytes) -> Offsets:
    stdout, stderr = shim.POSITIONS.unpack(data)
    return Offsets(stdout=stdout, stderr=stderr)

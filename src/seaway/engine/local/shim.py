"""Holds the streams of one command for whoever waits for it: `python -I -S shim.py ...`; a shim, as containers have.

It is a process of its own, so that a command's output and input outlast the node agent, and imports nothing of Seaway,
so that it starts in a moment. On a socket the control plane reads output and writes input in frames. Each frame has its
offset in the stream: whoever loses the connection goes on where they were. A reader that is slow or away slows the
command down, and nothing is given up. What the reader was sent is kept for a while (`KEPT`), in case it never arrived.

A command without a terminal has three named pipes; what it writes goes on to the logs. One with a terminal has a
pseudo-terminal, and what is written there is nobody else's. Sources: pty(7), pipe(7), ioctl_tty(2).
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
import sys
import termios
import time
from collections import deque

FRAME = struct.Struct("!cQI")  # kind, offset, how many bytes follow
READ, INPUT, END_INPUT, RESIZE, FINISH, QUIT = b"r", b"i", b"e", b"w", b"f", b"q"  # to the shim
STDOUT, STDERR, TAKEN, ENDED = b"1", b"2", b"t", b"d"  # from it
SIZE = struct.Struct("!HH")  # rows and columns: what follows RESIZE
POSITIONS = struct.Struct("!QQ")  # of stdout and stderr: what follows READ
LONGEST = 64 * 1024  # bytes that follow a frame

AHEAD = 1 << 20  # bytes taken from the command before the reader was sent them; then it waits
SMALL = 4096  # bytes up to which pieces are put together: each has a price
KEPT = 8 << 20  # bytes that the reader was sent last
LINGER = 60.0  # seconds that what nobody has read yet stays after the command's end
MOMENT = 2.0  # the same for what was sent: it may not have arrived
LATE = 1.0  # seconds after the command's end for which a terminal that somebody still has open is waited for
LOOK = 5.0  # seconds between looks whether the socket is still there


def read_some(fd: int) -> bytes | None:
    """Return what there is to read; b"" at the end, None if there is nothing now."""
    try:
        return os.read(fd, LONGEST)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno == errno.EIO:  # nobody has the terminal open any more
            return b""
        raise


def write_some(fd: int, data: bytes) -> bytes:
    """Write what there is room for; return the rest."""
    try:
        return data[os.write(fd, data) :]
    except BlockingIOError:
        return data


def pack_size(rows: int, columns: int) -> bytes:
    """Return a terminal's size as the kernel takes it (struct winsize)."""
    return struct.pack("HHHH", rows, columns, 0, 0)


class Kept:
    """Bytes `base` to `end` of a stream; those before `sent` were given to the reader."""

    def __init__(self) -> None:
        self.base = self.sent = self.end = 0
        self.chunks: deque[bytes] = deque()

    def add(self, data: bytes) -> None:
        """Take in what comes next; forget what the reader was given long ago."""
        self.end += len(data)
        if self.chunks and len(self.chunks[-1]) + len(data) <= SMALL:
            data = self.chunks.pop() + data
        self.chunks.append(data)
        while self.base + len(self.chunks[0]) <= self.sent - KEPT:
            self.base += len(self.chunks.popleft())

    def move(self, position: int) -> None:
        """Go on at a position, or at the first byte after it that is still here."""
        self.sent = min(max(position, self.base), self.end)

    def give(self) -> tuple[int, bytes]:
        """Return what comes next for the reader, and where that stands; b"" if there is nothing."""
        at = self.end
        for chunk in reversed(self.chunks):  # what was not sent is at the end
            at -= len(chunk)
            if at <= self.sent < at + len(chunk):
                data, offset = chunk[self.sent - at :], self.sent
                self.sent += len(data)
                return offset, data
        return self.sent, b""


class Output(Kept):
    """One stream of the command, and whence it comes."""

    def __init__(self, kind: bytes, fd: int, tap: int | None, *, is_terminal: bool) -> None:
        super().__init__()
        self.kind, self.fd, self.tap, self.is_terminal = kind, fd, tap, is_terminal
        self.owed = b""  # to the logs
        self.over = False

    def wants(self, *, ended: bool) -> bool:
        """Whether more of it is to be taken; `ended`: its command has."""
        return not self.over and not self.owed and (ended or self.end - self.sent < AHEAD)

    def take(self, *, ended: bool, late: bool) -> bool:
        """Take what there is; whether that was something.

        A pipe with nothing in it is over once its command has ended. What was written to a terminal may still be on its
        way: that is over when nobody has it open any more, or when it is `late`.
        """
        data = read_some(self.fd)
        if data and self.tap is not None:
            self.owed = write_some(self.tap, data)
        if not data:
            self.over = data == b"" or late or (ended and not self.is_terminal)
            return False
        self.add(data)
        return True

    def pay(self) -> None:
        """Give the logs what they are owed, as far as they have room."""
        if self.owed and self.tap is not None:
            self.owed = write_some(self.tap, self.owed)

    def next_frame(self) -> bytes:
        """Return what comes next for the reader as a frame; b"" if that is nothing."""
        offset, data = self.give()
        return FRAME.pack(self.kind, offset, len(data)) + data if data else b""


class Input:
    """What the command reads. `taken` bytes were accepted, `rest` is what of them had no room yet."""

    def __init__(self, fd: int | None) -> None:
        self.fd = fd
        self.taken = 0
        self.rest = b""
        self.ending = False

    def add(self, offset: int, data: bytes) -> None:
        """Accept bytes, those before `taken` not again. ValueError if some are missing in between."""
        if offset > self.taken:
            raise ValueError(f"input goes on at {self.taken}, not at {offset}")
        new = data[self.taken - offset :]
        self.taken += len(new)
        if self.fd is not None:
            self.rest += new

    def drop(self) -> None:
        """Nobody reads any more: what came and what comes is for nothing."""
        self.fd, self.rest = None, b""

    def write(self) -> None:
        """Write what there is room for, and let the command see the end of it where that is due."""
        if self.fd is None:
            return
        if self.rest:
            self.rest = write_some(self.fd, self.rest)
        if self.ending and not self.rest:
            os.close(self.fd)
            self.fd = None


class Peer:
    """One connection, and what it is to be told when that is so: that its input, or all output, was taken."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.received = b""
        self.unsent = b""
        self.waits_for_input = self.waits_for_end = False

    def receive(self) -> bool:
        """Take what has come; whether the connection still stands."""
        try:
            data = self.sock.recv(2 * LONGEST)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.received += data
        return bool(data)

    def take_frame(self) -> tuple[bytes, int, bytes] | None:
        """Return the next whole frame; ValueError if it cannot be one."""
        if len(self.received) < FRAME.size:
            return None
        kind, offset, length = FRAME.unpack_from(self.received)
        if length > LONGEST:
            raise ValueError(f"a frame of {length} bytes")
        if len(self.received) < FRAME.size + length:
            return None
        data = self.received[FRAME.size : FRAME.size + length]
        self.received = self.received[FRAME.size + length :]
        return kind, offset, data

    def send(self) -> bool:
        """Send what there is room for; whether the connection still stands."""
        try:
            self.unsent = self.unsent[self.sock.send(self.unsent) :]
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True


class Shim:
    """Moves bytes between the command and those who are connected, until nobody needs it any more."""

    def __init__(
        self, path: str, listener: socket.socket, outputs: list[Output], given: Input, slave: int | None
    ) -> None:
        listener.setblocking(False)
        self.path = path
        self.listener = listener
        self.outputs = outputs
        self.input = given
        self.slave = slave  # keeps a terminal from ending before the command has opened it
        self.peers: list[Peer] = []
        self.reader: Peer | None = None
        self.ended_at: float | None = None  # when the command's end was told
        self.leaving = False
        self.alone_since = time.monotonic()

    @property
    def over(self) -> bool:
        """Whether all output was taken, and the logs have theirs."""
        return all(output.over and not output.owed for output in self.outputs)

    @property
    def unread(self) -> bool:
        """Whether there is something that the reader was not sent."""
        return any(output.sent < output.end for output in self.outputs)

    @property
    def ended(self) -> bool:
        """Whether the command has ended."""
        return self.ended_at is not None

    def run(self) -> None:
        """Work until told to leave, or until what is here is nobody's any more."""
        while not self.leaving and os.path.exists(self.path):
            self.wait()
            self.take()
            self.input.write()
            self.welcome()
            for peer in list(self.peers):
                if not self.serve(peer):
                    self.drop(peer)
            if self.over and not self.peers:
                patience = LINGER if self.unread else MOMENT
                self.leaving = time.monotonic() - self.alone_since > patience

    def wait(self) -> None:
        """Wait until there is something to do."""
        wanted = {self.listener.fileno(): select.POLLIN}
        for output in self.outputs:
            if output.owed and output.tap is not None:
                wanted[output.tap] = select.POLLOUT
            elif output.wants(ended=self.ended):
                wanted[output.fd] = select.POLLIN
        if self.input.rest and self.input.fd is not None:
            wanted[self.input.fd] = wanted.get(self.input.fd, 0) | select.POLLOUT
        for peer in self.peers:
            more = peer.unsent or (peer is self.reader and self.unread)
            wanted[peer.sock.fileno()] = select.POLLIN | (select.POLLOUT if more else 0)
        poll = select.poll()
        for fd, events in wanted.items():
            poll.register(fd, events)
        poll.poll((LATE if self.ended and not self.over else LOOK) * 1000)

    def take(self) -> None:
        """Take some of the command's output; all of it when the command has ended."""
        late = self.ended_at is not None and time.monotonic() - self.ended_at > LATE
        for output in self.outputs:
            output.pay()
            while output.wants(ended=self.ended) and output.take(ended=self.ended, late=late) and self.ended:
                pass

    def welcome(self) -> None:
        """Take in who wants to connect."""
        try:
            self.peers.append(Peer(self.listener.accept()[0]))
        except BlockingIOError:
            return

    def serve(self, peer: Peer) -> bool:
        """Do what it asks for; whether it stays."""
        try:
            stays = peer.receive()
            while stays and (frame := peer.take_frame()) is not None:
                self.obey(peer, *frame)
        except (ValueError, struct.error) as error:
            print(f"seaway: the streams of a command refuse a frame: {error}", file=sys.stderr)
            return False
        if peer.waits_for_input and not self.input.rest:
            peer.unsent += FRAME.pack(TAKEN, self.input.taken, 0)
            peer.waits_for_input = False
        while peer is self.reader and len(peer.unsent) < LONGEST and self.unread:
            peer.unsent += b"".join(output.next_frame() for output in self.outputs)
        if peer.waits_for_end and self.over and not (peer is self.reader and self.unread):
            ends = {output.kind: output.end for output in self.outputs}
            peer.unsent += FRAME.pack(ENDED, 0, POSITIONS.size)
            peer.unsent += POSITIONS.pack(ends[STDOUT], ends.get(STDERR, 0))
            peer.waits_for_end = False
        return stays and peer.send()

    def obey(self, peer: Peer, kind: bytes, offset: int, data: bytes) -> None:
        """Do what one frame says. ValueError if that cannot be."""
        if kind == READ:
            for output, position in zip(self.outputs, POSITIONS.unpack(data), strict=False):
                output.move(position)
            self.reader, peer.waits_for_end = peer, True  # the reader before has gone, or is about to be noticed
        elif kind in (INPUT, END_INPUT):
            self.input.add(offset, data)
            self.input.ending = self.input.ending or (kind == END_INPUT and not self.outputs[0].is_terminal)
            self.input.write()
            peer.waits_for_input = True
        elif kind == RESIZE:
            rows, columns = SIZE.unpack(data)
            if self.outputs[0].is_terminal:
                fcntl.ioctl(self.outputs[0].fd, termios.TIOCSWINSZ, pack_size(rows, columns))
        elif kind == FINISH:
            self.finish()
            peer.waits_for_end = True
        elif kind == QUIT:
            self.leaving = True
        else:
            raise ValueError(f"a frame of kind {kind!r}")

    def finish(self) -> None:
        """The command has ended, and all that belongs to it."""
        if self.ended_at is None:
            self.ended_at = time.monotonic()
        if self.slave is not None:
            os.close(self.slave)
            self.slave = None
        self.input.drop()
        self.take()

    def drop(self, peer: Peer) -> None:
        """Forget a connection."""
        peer.sock.close()
        self.peers.remove(peer)
        self.alone_since = time.monotonic()
        if peer is self.reader:
            self.reader = None


def main() -> None:
    """Begin with what `start_shim` gives: the socket's path, and descriptors ("-": there is none).

    They are of the socket, of what the command reads, of the terminal's other side, and one pair for each output: where
    it comes from and where the logs take it.
    """
    path, listener, *rest = sys.argv[1:]
    given, slave, *pairs = (None if word == "-" else int(word) for word in rest)
    kinds = (STDOUT, STDERR)
    outputs = []
    for index in range(len(pairs) // 2):
        fd, tap = pairs[2 * index : 2 * index + 2]
        assert fd is not None
        outputs.append(Output(kinds[index], fd, tap, is_terminal=slave is not None))
    Shim(path, socket.socket(fileno=int(listener)), outputs, Input(given), slave).run()


if __name__ == "__main__":
    main()

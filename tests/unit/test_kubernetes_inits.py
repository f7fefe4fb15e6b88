"""The first process of a container, with the shells that images have."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import IO

import pytest

from seaway.engine.kubernetes import inits
from seaway.engine.kubernetes.attached import NOTHING_MORE, OVER, frame
from seaway.engine.local.process import exec_plain
from seaway.kube.attaching import make_mark, make_token

TOKEN = make_token("uid")
MARK = make_mark(TOKEN)
GO = f"{TOKEN}\n".encode()

SHELLS = {"dash": ["/bin/sh"], "bash": ["bash", "--posix"], "busybox": ["busybox", "sh"]}


def run_init(shell: list[str], command: str, *files: str, stop: bool = False) -> tuple[int, str]:
    """Run a command as the first process of a container does; with `stop` send SIGTERM once it says "on"."""
    words = ["unshare", "-fp", "--mount-proc", "--kill-child", *shell, "-c", inits.INIT, "i", exec_plain(command)]
    with subprocess.Popen(
        [*words, *files], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        said = ""
        if stop:
            said = process.stdout.readline()
            child = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]
            os.kill(int(child), 15)
        said += process.stdout.read()
        return process.wait(20), said


SLOW_END = """python3 -c '
import signal, sys, time
signal.signal(15, lambda *_: (time.sleep(0.3), print("finished"), sys.exit(0)))
print("on", flush=True)
time.sleep(60)'"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a process namespace")
@pytest.mark.parametrize("shell", SHELLS.values(), ids=SHELLS)
class TestInit:
    def test_exit_codes(self, shell: list[str]) -> None:
        """The command's code is the container's, a signal's too."""
        assert run_init(shell, "exit 3")[0] == 3
        assert run_init(shell, "kill -9 $$")[0] == 137
        assert run_init(shell, "nosuchprogram")[0] == 127

    def test_input_is_the_file_or_nothing(self, shell: list[str], tmp_path: Path) -> None:
        """Bytes as they are, to a plain command and to one that a shell runs; without a file the end at once."""
        (given := tmp_path / "with space").write_bytes(content := bytes(range(256)) * 2048)
        wanted = (0, f"{sha256(content).hexdigest()}  -\n")
        assert run_init(shell, "sha256sum", str(given)) == wanted
        assert run_init(shell, "true; sha256sum | cat", str(given)) == wanted
        assert run_init(shell, "cat") == run_init(shell, "true; cat") == (0, "")

    def test_a_program_without_a_handler_is_stopped(self, shell: list[str]) -> None:
        """The kernel would keep SIGTERM from a first process."""
        assert run_init(shell, "echo on; sleep 60", stop=True) == (143, "on\n")

    def test_a_shell_between_keeps_nobody_from_ending_well(self, shell: list[str]) -> None:
        """The shell dies of the signal at once, the program still finishes."""
        code, said = run_init(shell, f"true; {SLOW_END}; true", stop=True)
        assert code == 143
        assert said.endswith("finished\n")


class Streamed:
    """A command that somebody waits for; it waits for them."""

    def __init__(self, shell: list[str], command: str, *, reads: bool) -> None:
        words = ["unshare", "-fp", "--mount-proc", "--kill-child", *shell, "-c", inits.STREAMED, "i"]
        self.process = subprocess.Popen(
            [*words, exec_plain(command), "reads" if reads else ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.stdin, self.stdout, self.stderr = self.process.stdin, self.process.stdout, self.process.stderr
        self._writer = ThreadPoolExecutor(1)

    def send(self, *messages: bytes) -> None:
        """Write beside what is read, one after another: the command may answer before it has all."""
        self._writer.submit(self._write, messages)

    def _write(self, messages: tuple[bytes, ...]) -> None:
        for message in messages:
            self.stdin.write(message)
            self.stdin.flush()

    def read_all(self, *last: bytes) -> tuple[int, bytes, bytes]:
        """Return exit code, output and errors; once they are here, up to the marks, send what is `last`."""
        out, err = read_to_mark(self.stdout), read_to_mark(self.stderr)
        self.send(*last)
        return self.process.wait(20), out, err

    def close(self) -> None:
        self.process.kill()
        self._writer.shutdown()
        for stream in (self.stdin, self.stdout, self.stderr):
            with suppress(BrokenPipeError):  # what it never read
                stream.close()
        self.process.wait()


@contextmanager
def streamed(shell: list[str], command: str, *, reads: bool = False) -> Iterator[Streamed]:
    with closing(Streamed(shell, command, reads=reads)) as init:
        yield init


def read_to_mark(stream: IO[bytes]) -> bytes:
    """Return what comes before the next mark, or all there is."""
    found = b""
    while not found.endswith(MARK) and (more := stream.read(1)):
        found += more
    return found.removesuffix(MARK)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a process namespace")
@pytest.mark.parametrize("shell", SHELLS.values(), ids=SHELLS)
class TestStreamed:
    def test_every_byte_of_the_input(self, shell: list[str]) -> None:
        """In pieces of any size, lines and numbers among them; errors apart, and the exit code."""
        given = bytes(range(256)) * 256 + b"\n7\n0\n\n"
        with streamed(shell, "cat; echo done >&2; exit 5", reads=True) as init:
            init.send(GO, *frame(given), *frame(b""), *frame(b"0\n"), NOTHING_MORE)
            assert init.read_all(OVER) == (5, given + b"0\n", b"done\n")

    def test_an_input_without_an_end_holds_up_nobody(self, shell: list[str]) -> None:
        """Who reads only some of it, or nothing, ends as ever; what is left is taken."""
        with streamed(shell, "head -c 2; exit 4", reads=True) as init:
            init.send(GO, *frame(b"hello"))
            assert init.read_all(NOTHING_MORE, OVER) == (4, b"he", b"")
        with streamed(shell, "kill -9 $$", reads=True) as init:
            init.send(GO, *frame(b"x" * 200_000), NOTHING_MORE)
            assert init.read_all(OVER)[0] == 137

    def test_an_input_that_does_not_come_is_waited_for(self, shell: list[str]) -> None:
        """The connection's end, whose other side may have died, is not seen as that of the input."""
        with streamed(shell, "timeout 0.3 cat; echo $?", reads=True) as init:
            init.send(GO, *frame(b"half "), b"10\n")
            assert init.read_all(b"0123456789", NOTHING_MORE, OVER) == (0, b"half 124\n", b"")
        with streamed(shell, "timeout 0.3 cat; echo $?", reads=True) as init:
            init.stdin.write(b"".join([GO, *frame(b"half "), b"10\n"]))
            init.stdin.close()
            assert read_to_mark(init.stdout) == b"half 124\n"

    def test_without_input(self, shell: list[str]) -> None:
        with streamed(shell, "cat; echo $?; exit 3") as init:
            init.send(GO)
            assert init.read_all(OVER) == (3, b"0\n", b"")

    @pytest.mark.parametrize("reads", [True, False])
    def test_it_waits_until_all_has_come(self, shell: list[str], reads: bool) -> None:
        """And tells those again who may have missed that it has ended; they may have asked before."""
        with streamed(shell, "echo hello; exit 3", reads=reads) as init:
            init.send(GO, GO, GO, *([NOTHING_MORE] if reads else []))
            assert read_to_mark(init.stdout) == b"hello\n"
            for _ in range(2 if not reads else 0):
                assert read_to_mark(init.stdout) == b""
            init.send(GO)
            assert read_to_mark(init.stdout) == b""
            assert init.process.poll() is None
            init.send(OVER)
            assert init.process.wait(20) == 3
            assert init.stdout.read() == b""

    def test_it_waits_to_be_told(self, shell: list[str]) -> None:
        """What it wrote before that would be missed; SIGTERM ends the wait."""
        with streamed(shell, "echo never", reads=True) as init:
            end_init(init.process)
            assert init.read_all() == (143, b"", b"")

    @pytest.mark.parametrize("reads", [True, False])
    def test_it_is_stopped(self, shell: list[str], reads: bool) -> None:
        """A program finishes what it does, whatever is still to be read."""
        with streamed(shell, SLOW_END, reads=reads) as init:
            init.send(GO, *frame(b"x"))
            assert init.stdout.read(3) == b"on\n"
            end_init(init.process)
            assert init.read_all() == (143, b"finished\n", b""), "the shell between died at once"

    @pytest.mark.parametrize("reads", [True, False])
    def test_it_is_stopped_after_its_end(self, shell: list[str], reads: bool) -> None:
        """Nobody has to come who takes what it wrote."""
        with streamed(shell, "echo hello; exit 3", reads=reads) as init:
            init.send(GO)
            assert read_to_mark(init.stdout) == b"hello\n"
            end_init(init.process)
            assert init.process.wait(20) in {3, 143}


def end_init(process: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM to the first process of the namespace, as a kubelet does, once it has a handler for it."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not (child := children.read_text().strip()) or not is_caught(child, signal.SIGTERM):
        time.sleep(0.005)
    os.kill(int(child), signal.SIGTERM)


def is_caught(pid: str, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    caught = Path(f"/proc/{pid}/status").read_text().split("SigCgt:")[1].split()[0]
    return bool(int(caught, 16) >> (number - 1) & 1)

"""`seaway` commands as a user types them, without the half second that Python takes to import what they need.

One process per test run has that imported and forks for each command: a process of its own, with its own arguments,
environment, folder and files, that ends as Python ends. What a test starts to be killed, or to be looked for in the
list of processes, it starts as the installed program (`tests.e2e.harness.SEAWAY`).
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import secrets
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from tests.pace import read_waited

PRELOADED = (
    "seaway.main", "seaway.cli.app", "httpx2", "httpcore2", "seaway.supervisor.running", "rich.console", "rich.table",
)  # fmt: skip
LONGEST = 1 << 17  # bytes of a request; Linux allows no longer argument or variable
ANSWER = struct.Struct("id")  # exit code, seconds waited for a processor


class Done(subprocess.CompletedProcess[str]):
    """A command that has ended. `waited`: the seconds for which it was ready and had no processor (tests/pace.py)."""

    waited = 0.0


class Commands:
    """The process that forks; started when it is first needed, ended with the process that started it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server: subprocess.Popen[bytes] | None = None
        self._name = f"\0seaway-commands-{os.getpid()}-{secrets.token_hex(8)}"  # abstract: no file is left behind

    def run(
        self,
        args: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        stdin: IO[bytes] | str | None = None,
        timeout: float = 150,
    ) -> Done:
        """Run a command that reads a file, a text or nothing; raise TimeoutExpired after `timeout` seconds."""
        self._start()
        request = json.dumps({"args": list(args), "env": dict(env), "cwd": str(cwd)}).encode()
        assert len(request) <= LONGEST
        with (
            tempfile.TemporaryFile() as given,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line,
        ):
            if isinstance(stdin, str):
                given.write(stdin.encode())
                given.seek(0)
            files = [given if stdin is None or isinstance(stdin, str) else stdin, out, err]
            line.settimeout(timeout)
            line.connect(self._name)
            socket.send_fds(line, [request], [file.fileno() for file in files])
            try:
                answer = line.recv(ANSWER.size)
            except TimeoutError:
                raise subprocess.TimeoutExpired(["seaway", *args], timeout) from None
            said = []
            for file in (out, err):
                file.seek(0)
                said.append(file.read().decode())
        code, waited = ANSWER.unpack(answer)
        done = Done(["seaway", *args], code, *said)
        done.waited = waited
        return done

    def _start(self) -> None:
        with self._lock:
            if self._server is not None:
                return
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            listening.bind(self._name)
            listening.listen(64)
            words = [sys.executable, "-c", f"from tests.command_line import main; main({listening.fileno()})"]
            root = Path(__file__).resolve().parent.parent
            # Its standard input ends when this process does, however it does.
            self._server = subprocess.Popen(
                words, pass_fds=[listening.fileno()], stdin=subprocess.PIPE, cwd=root, start_new_session=True
            )
            listening.close()


COMMANDS = Commands()


def serve(listening: socket.socket) -> None:
    """Fork for each request until standard input ends; return in a child only, which is to run its command."""
    for module in PRELOADED:
        importlib.import_module(module)
    gc.freeze()  # what is there is shared with every child
    with selectors.DefaultSelector() as waiting:
        running: dict[int, tuple[int, socket.socket]] = {}  # pid and line by the descriptor that tells of its end
        waiting.register(sys.stdin.fileno(), selectors.EVENT_READ)
        waiting.register(listening, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                if key.fileobj == sys.stdin.fileno():
                    for pid, _line in running.values():
                        os.kill(pid, signal.SIGKILL)
                    os._exit(0)
                elif key.fileobj is listening:
                    line, _ = listening.accept()
                    request, files, _, _ = socket.recv_fds(line, LONGEST, 3)
                    pid = os.fork()
                    if pid == 0:
                        for shared in (listening, line):
                            shared.close()
                        become(json.loads(request), files)
                        return
                    for file in files:
                        os.close(file)
                    ends = os.pidfd_open(pid)
                    running[ends] = (pid, line)
                    waiting.register(ends, selectors.EVENT_READ)
                    waiting.register(line, selectors.EVENT_READ, ends)
                elif key.data is not None:  # nobody waits for it any more
                    os.kill(running[key.data][0], signal.SIGKILL)
                    waiting.unregister(key.fileobj)
                else:
                    ends = key.fd
                    pid, line = running.pop(ends)
                    waited = read_waited(pid)  # it has ended, and is there until it is waited for
                    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    waiting.unregister(ends)
                    with suppress(KeyError):
                        waiting.unregister(line)
                    with suppress(BrokenPipeError):
                        line.send(ANSWER.pack(code, waited))
                    line.close()
                    os.close(ends)


def become(request: dict[str, object], files: Sequence[int]) -> None:
    """Be a process that was started with this: arguments, environment, folder, standard files."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["env"])  # type: ignore[call-overload]
    os.chdir(str(request["cwd"]))
    sys.argv = ["seaway", *request["args"]]  # type: ignore[misc]
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False, buffering=1, errors="backslashreplace")


def main(listening: int) -> None:
    """Serve at the socket with this descriptor, and be what is asked for."""
    from seaway.main import run

    serve(socket.socket(fileno=listening))
    run()

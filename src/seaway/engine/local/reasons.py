"""One sentence on why a process is where it is."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

from seaway.model.base import say_bytes
from seaway.model.quoting import MARK, quote_error, quote_text
from seaway.sandbox.controllers import Memory

LINES = 5
ERROR_LINES = 3  # of a command's error; its output is shown elsewhere in whole
SHELLS = ("Killed", "Terminated")  # what a shell writes of a command that a signal ended
TAIL = 8192  # bytes read from the end of a raw file

MEANINGS = {
    0: "it is meant to run on",
    126: "the command cannot be executed",
    127: "command not found",
    -signal.SIGKILL: "killed, perhaps for lack of memory",
    -signal.SIGSEGV: "memory fault",
    -signal.SIGABRT: "aborted",
    -signal.SIGTERM: "told to terminate",
}


def describe_exit(code: int | None) -> str:
    """Return for example "exited with code 127 (command not found)" or "ended by SIGKILL (killed, ...)"."""
    if code is None:
        return "ended while nobody was there to see its exit code"
    meaning = f" ({MEANINGS[code]})" if code in MEANINGS else ""
    if code >= 0:
        return f"exited with code {code}{meaning}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"ended by {name}{meaning}"


def describe_end(code: int | None, memory: Memory, limit: int | None, lived: float | None = None) -> str:
    """Return how a process ended (after so many seconds), and whether that was for lack of memory; `limit`: its own."""
    after = f" after {lived:.1f} s" if lived is not None else ""
    if not memory.killed:
        return describe_exit(code) + after
    if code == -signal.SIGKILL:
        return f"was killed{after}: {_name_lack(memory, limit)}"
    return f"{describe_exit(code)}{after}; {describe_kills(memory, limit)}"


def describe_kills(memory: Memory, limit: int | None) -> str:
    """Return how many processes of an instance were killed for lack of memory, and which limit that was."""
    many = "a process of it was" if memory.killed == 1 else f"{memory.killed} processes of it were"
    return f"{many} killed: {_name_lack(memory, limit)}"


def _name_lack(memory: Memory, limit: int | None) -> str:
    most = f"its limit of {say_bytes(limit)}" if memory.is_own and limit else "this machine has for apps"
    return f"it used more memory than {most}"


def describe_disk(most: int, process: str) -> str:
    """Say that an instance of the process wrote more bytes than it may."""
    return f"wrote more to its disk than the {say_bytes(most)} that it may (`disk` of [processes.{process}])"


def describe_shared_disk(most: int) -> str:
    """Say that all instances of an app on this machine together wrote more bytes to their /tmp than they may."""
    words = f"more to /tmp than the {say_bytes(most)} that they may (the largest `disk` of their processes)"
    return f"was ended with all of its app here: they wrote {words}"


def describe_unstarted(process: str, port: int | None, fault: str, limit: float, listening: list[str]) -> str:
    """Say why an instance of a process never became healthy, where it listens instead of PORT, and what helps."""
    if not _is_elsewhere(port, fault, listening):
        there = _name_port(port, fault, listening)
        return f"did not become healthy within {limit:g} s: {fault}{there}; {advise_time(process)}"
    if listening:
        return f"did not listen on PORT {port} within {limit:g} s (it listens on {', '.join(listening)}); {USE_PORT}"
    more = f"{USE_PORT}, or {advise_time(process)}"
    return f"did not listen on PORT {port} within {limit:g} s (it listens on no port); {more}"


def describe_starting(port: int | None, fault: str, listening: list[str]) -> str:
    """Say what an instance that starts has not done yet; one that listens elsewhere may open its PORT later."""
    if not _is_elsewhere(port, fault, listening):
        return f"starting: {fault}{_name_port(port, fault, listening)}"
    if listening:
        return f"starting: it listens on {', '.join(listening)} and not on PORT {port} so far; {USE_PORT}"
    return f"starting: it does not listen on PORT {port} yet"


USE_PORT = "let it listen on $PORT"


def advise_time(process: str) -> str:
    """Say how instances of a process may have longer to start."""
    return f"if it needs longer, raise `start_timeout` of [processes.{process}.health]"


def _is_elsewhere(port: int | None, fault: str, listening: list[str]) -> bool:
    """Whether a check failed because nothing of the instance listens on its port."""
    return port is not None and "refused" in fault and not _find_port(port, listening)


def _name_port(port: int | None, fault: str, listening: list[str]) -> str:
    """Return on which addresses it does listen on its port, if a check was refused all the same."""
    found = _find_port(port, listening) if "refused" in fault else []
    return f" (it listens on {', '.join(found)})" if found else ""


def _find_port(port: int | None, listening: list[str]) -> list[str]:
    return [address for address in listening if address.rsplit(":", 1)[1] == str(port)]


def read_last_lines(folder: Path, marks: Mapping[str, int], count: int = LINES) -> list[str]:
    """Return the last lines this run wrote: of stderr, filled up from stdout. `marks` are sizes at its start."""
    err = _tail(folder / "stderr", marks.get("stderr", 0), count)
    out = _tail(folder / "stdout", marks.get("stdout", 0), count - len(err))
    return out + err


def quote_output(folder: Path, marks: Mapping[str, int]) -> str:
    """Return "; last output: ..." with the last lines, or nothing if there was none."""
    lines = read_last_lines(folder, marks)
    return f"; {MARK}{' | '.join(lines)}" if lines else "; it wrote nothing"


def quote_failure(folder: Path) -> str:
    """Return "; last output: ..." with the error that a command ended with: of stderr, else of stdout."""
    said = [line for line in _read_end(folder / "stderr", 0) if line.strip() not in SHELLS]
    error = quote_error(said or _read_end(folder / "stdout", 0), ERROR_LINES)
    return f"; {MARK}{' | '.join(error)}" if error else "; it wrote nothing"


def _tail(path: Path, mark: int, count: int) -> list[str]:
    return [quote_text(line) for line in _read_end(path, mark)][-count:] if count > 0 else []


def _read_end(path: Path, mark: int) -> list[str]:
    """Return the lines at the end of a raw file, behind `mark`, that are not blank."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = file.seek(max(mark, size - TAIL))
            data = file.read(size - start)
    except FileNotFoundError:
        return []
    if start > mark:
        data = data.partition(b"\n")[2]
    lines = data.replace(b"\0", b"").decode(errors="replace").splitlines()
    return [line for line in lines if line.strip()]

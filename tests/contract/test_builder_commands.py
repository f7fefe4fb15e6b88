"""Commands of a build, whatever they write and leave behind."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from seaway.builder.base import BuildError
from seaway.builder.commands import LONGEST_LINE, CommandFailed, Commands, Lines


def run(tmp_path: Path, script: str, seconds: float = 60.0, room: int = 1 << 24) -> tuple[list[str], list[str]]:
    """Return what a shell script emitted and what was kept of it."""
    emitted: list[str] = []
    commands = Commands(emit=emitted.append, deadline=time.monotonic() + seconds, room=room)
    return emitted, commands.run(["/bin/sh", "-c", script], tmp_path)


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_lines_end_as_on_a_terminal(size: int) -> None:
    """However the output is cut: progress bars overwrite a line with a carriage return."""
    text, taken = b"one\r\ntwo\n\n10 %\r20 %\r\nl\xc3\xa4st\r", list[str]()
    lines = Lines(taken.append)
    for start in range(0, len(text), size):
        lines.feed(text[start : start + size])
    lines.end()
    assert taken == ["one", "two", "", "10 %", "20 %", "läst"]


def test_an_endless_line_is_cut(tmp_path: Path) -> None:
    """And takes no memory; what comes after its end is read again."""
    emitted, _ = run(tmp_path, "head -c 300000000 /dev/zero | tr '\\0' x; echo; echo after")
    assert [line[:5] for line in emitted] == ["xxxxx", "after"]
    assert len(emitted[0]) == LONGEST_LINE


def test_more_lines_than_there_is_room_for_are_counted(tmp_path: Path) -> None:
    """What explains a failure is kept all the same."""
    emitted: list[str] = []
    commands = Commands(emit=emitted.append, deadline=time.monotonic() + 60, room=100_000)
    with pytest.raises(CommandFailed) as failed:
        commands.run(["/bin/sh", "-c", "yes line | head -n 3000000; echo why; exit 3"], tmp_path)
    *lines, told = emitted
    assert set(lines) == {"line"}
    assert sum(map(len, lines)) <= 100_000 + len("line")
    assert told.startswith(f"... {3_000_001 - len(lines)} lines are left out")
    assert (failed.value.code, failed.value.output[-1]) == (3, "why")
    commands.run(["/bin/sh", "-c", "echo more"], tmp_path)
    assert emitted[-1].startswith("... 1 lines")


@pytest.mark.parametrize("does", ["sleep {}", "yes {}"])
def test_what_stays_in_the_background_is_not_waited_for(tmp_path: Path, does: str) -> None:
    """Though it holds the output open, or even writes there; what was written before the end is there."""
    began, nap = time.monotonic(), f"9474.{os.getpid()}"
    emitted, _ = run(tmp_path, f"{does.format(nap)} & echo done")
    assert "done" in emitted
    assert time.monotonic() - began < 20
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cmdline()[1:] == [nap]:
                process.kill()


def test_the_deadline_ends_it(tmp_path: Path) -> None:
    """Whether it is silent or writes without end."""
    for script in ("exec sleep 600", "exec yes"):
        began = time.monotonic()
        with pytest.raises(BuildError, match="took longer than its limit"):
            run(tmp_path, script, seconds=0.3)
        assert time.monotonic() - began < 20

"""The taking of output out of pipes: bounded, counted, and nothing lost or doubled by kills or a full disk."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seaway.logs.intake import PACE, RETRY, SLICE, SLICES, Tap, open_pipe, pipe_path

BOUND = 300_000.0
PART = 20_000  # bytes written at once: less than any pipe holds
STEPS = st.lists(st.sampled_from(("write take " * 3 + "copy kill full room").split()), max_size=60)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes: to a writer that is as a full disk is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Process:
    """One that writes numbered lines to its stdout, and the taps that take them, one after another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tap = self.open()
        self.stdout = os.open(pipe_path(folder, "stdout"), os.O_RDWR | os.O_NONBLOCK)
        self.copied = 0
        self.now = 1000.0
        self.full = False
        self.killed = False
        self.written: list[bytes] = []

    def open(self) -> Tap:
        return Tap(self.folder, "stdout", open_pipe(self.folder, "stdout"), 0)

    def write(self) -> None:
        """Write a part if there is room in the pipe."""
        lines = [b"line %d\n" % n for n in range(len(self.written), len(self.written) + PART // 12)]
        try:
            os.write(self.stdout, b"".join(lines))
        except BlockingIOError:
            return
        self.written += lines

    def take(self) -> int:
        self.now += max(PACE, RETRY / 5)
        with largest_file(self.tap.size if self.full else resource.RLIM_INFINITY):
            return self.tap.take(self.copied, BOUND, self.now)

    def do(self, step: str) -> None:
        if step == "write":
            self.write()
        elif step == "take":
            self.take()
        elif step == "copy":
            self.copied = self.tap.size
        elif step == "kill":
            os.close(self.tap.pipe)  # all that the kernel does for a killed agent
            self.tap = self.open()
            self.killed = True
        else:
            self.full = step == "full"

    def close(self) -> None:
        os.close(self.stdout)
        self.tap.close()

    @property
    def kept(self) -> list[bytes]:
        raw = self.tap.path.read_bytes() if self.tap.path.exists() else b""
        return raw.replace(b"\0", b"").splitlines(keepends=True)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    made = Process(tmp_path)
    yield made
    made.close()


@given(STEPS)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_line_is_kept_or_counted(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    """In order, once, whole; what kills may cost is the count of lines that were being given up just then.

    On a full disk even that they were: it cannot be written down.
    """
    process = Process(tmp_path_factory.mktemp("tap"))
    try:
        for step in steps:
            process.do(step)
            assert process.tap.size - process.copied < BOUND + 2 * SLICE
        process.tap.finish(process.now)
        known = set(process.written)
        whole = [line for line in process.kept if line in known]
        assert whole == sorted(set(whole), key=lambda line: int(line.split()[1]))
        lost = process.tap.losses
        assert process.killed or all(loss.bytes for loss in lost)
        if not lost and not (process.killed and "full" in steps):
            assert process.kept == process.written
        if not process.killed:
            assert process.tap.size - len(lost) + sum(loss.bytes for loss in lost) == sum(map(len, process.written))
            newlines = sum(line.endswith(b"\n") for line in process.kept)
            assert newlines + sum(loss.lines for loss in lost) == len(process.written)
    finally:
        process.close()


def test_a_process_writes_on_whoever_reads(process: Process) -> None:
    """The tap's end is neither an error nor an end to a process that has its pipe open."""
    process.write()
    os.close(process.tap.pipe)
    process.write()
    process.tap = process.open()
    while process.take():
        pass
    assert process.kept == process.written


def test_full_disk(process: Process) -> None:
    """What cannot be written is counted, its writer never waits, and the first whole line after it is kept."""
    process.write()
    process.take()
    process.full = True
    for _ in range(20):
        process.write()
        process.take()
    (loss,) = process.tap.losses
    assert loss.why == "it could not be written: File too large"
    assert loss.lines == len(process.written) - len(process.kept)
    process.full = False
    for _ in range(20):
        process.write()
        process.take()
        process.do("copy")
    (loss,) = process.tap.losses
    assert loss.lines + len(process.kept) == len(process.written)
    assert set(process.kept) <= set(process.written)


def test_zeros_are_output(process: Process) -> None:
    """A process may write them, at the beginning too."""
    os.write(process.stdout, b"\0\0\0 three\n")
    process.take()
    assert process.tap.path.read_bytes() == b"\0\0\0 three\n"


def test_the_end_does_not_wait_for_those_who_got_away(process: Process) -> None:
    """What an instance started may outlive it and write without end: its pipe is never empty."""
    blocking = os.open(pipe_path(process.folder, "stdout"), os.O_RDWR)
    flood = subprocess.Popen(["yes"], stdout=blocking)
    try:
        while not process.take():
            pass
        process.tap.finish(process.now)
        assert flood.poll() is None
    finally:
        flood.kill()
        flood.wait()
        os.close(blocking)
    assert process.tap.size <= SLICE * (SLICES + 1)

"""`seaway run`: a command ends with whoever waits for it, however they end, and with nobody else."""

from __future__ import annotations

import os
import signal
import subprocess
import termios
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from seaway.control.attachments import LONG_RETURN
from tests.e2e.harness import SEAWAY, Platform, wait_until
from tests.pace import Stopwatch
from tests.shared_place import find_shared
from tests.typist import Typist

SOON = 2.0  # seconds: the promise


@pytest.fixture
def shop(shared: Platform, shop: str) -> Platform:
    """The platform of all, with that app; a killed part is back when its test is done with it."""
    assert shop == "shop"
    return shared


def list_killed(platform: Platform) -> list[Any]:
    """Return the events of commands that were killed."""
    return [event for event in platform.read("events", "-a", "shop") if event["spec"]["reason"] == "TaskKilled"]


def runs(platform: Platform, word: str) -> bool:
    """Whether a command with this word runs; command lines of `seaway` itself do not count, nor what becomes one."""
    for process in platform.processes():
        with suppress(psutil.NoSuchProcess):  # it has just ended
            words = process.cmdline()
            if str(SEAWAY) not in words and word in " ".join(words):
                return True
    return False


def await_start(platform: Platform, word: str) -> None:
    wait_until(lambda: runs(platform, word), f"{word} runs")


def await_end(platform: Platform, word: str, within: float = SOON) -> None:
    """Wait until it has ended, and check that this took no longer than that, but for a busy machine."""
    parts = [pid for part in ("control", "node") if (pid := platform.find(part))]
    watch = Stopwatch(*parts)
    wait_until(lambda: not runs(platform, word), f"{word} has ended", timeout=within + 30)
    assert watch.took() < within


def test_a_command_ends_with_who_reads_its_output(shop: Platform) -> None:
    """`| head -1`, a closed terminal, a SIGTERM: within moments nothing of it runs any more."""
    env = os.environ | shop.env
    script = f'{SEAWAY} run -a shop -- "yes; : 4711" | head -1; echo "${{PIPESTATUS[0]}}"'
    watch = Stopwatch()
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("y\n141\n", "")
    await_end(shop, "4711")
    assert watch.took() < 10
    reader, writer = os.pipe()
    with shop.started("run", "-a", "shop", "--", "sleep 4712", stdout=writer) as silent:
        os.close(writer)
        await_start(shop, "sleep 4712")
        os.close(reader)  # it writes nothing, and would never be told
        assert silent.wait(10) == 141
    await_end(shop, "sleep 4712")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        with shop.started("run", "-a", "shop", "--", "sleep 4713", stdout=subprocess.DEVNULL) as told:
            await_start(shop, "sleep 4713")
            told.send_signal(number)
            assert told.wait(10) == 130
        await_end(shop, "sleep 4713")


def test_a_command_ends_with_a_command_line_that_is_killed(shop: Platform) -> None:
    """Which can say nothing any more; one that was detached goes on, and is stopped by its id."""
    before = list_killed(shop)
    detached = shop.run("run", "--detach", "-a", "shop", "--", "echo began; exec sleep 4714")
    name = detached.stdout.strip()
    assert name in detached.stderr
    with shop.started("run", "-a", "shop", "--", "sleep 4715", stdout=subprocess.DEVNULL) as killed:
        await_start(shop, "sleep 4714")
        await_start(shop, "sleep 4715")
        killed.kill()
        await_end(shop, "sleep 4715")
    (told,) = [event for event in list_killed(shop) if event not in before]
    assert "whoever ran it is gone" in told["spec"]["message"]
    assert runs(shop, "sleep 4714")
    lines = shop.run("ps", "-a", "shop").stdout.splitlines()
    assert [line.split()[:4] for line in lines if line.startswith("run")] == [["run", "-", name[-8:], "running"]]
    wait_until(lambda: shop.run("logs", "-a", "shop", "--instance", name).stdout.endswith("began\n"), "its output")
    assert shop.run("ps", "stop", name, "-a", "shop").stdout == f"killed {name}\n"
    await_end(shop, "sleep 4714")


def test_a_command_outlives_the_control_plane(shop: Platform) -> None:
    """Whoever waits for it is told, and gets all of its output and its exit code all the same."""
    seen, mark = (place / "go-on" for place in find_shared(shop.home, "shop"))
    command = f"i=0; until [ -e {seen} ]; do i=$((i+1)); echo $i; sleep 0.2; done; exit 7"
    with shop.started("run", "-a", "shop", "--", command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        first = run.stdout.readline()
        shop.kill("control")
        wait_until(lambda: shop.run("ps", "-a", "shop", check=False).returncode == 0, "the API answers")
        mark.touch()
        lines = (first + run.stdout.read()).split()
        said = run.stderr.read().decode()
        assert run.wait(30) == 7
    assert lines == [str(n + 1).encode() for n in range(len(lines))]
    assert "does not answer; waiting for it to come back" in said
    assert "answers again" in said


def test_a_command_ends_though_the_control_plane_was_killed_with_who_waits_for_it(shop: Platform) -> None:
    """The next one misses them; it cannot know how long they have been away, and gives them a while."""
    before = list_killed(shop)
    with shop.started("run", "-a", "shop", "--", "sleep 4716", stdout=subprocess.DEVNULL) as killed:
        await_start(shop, "sleep 4716")
        killed.send_signal(signal.SIGSTOP)  # it must not see that the control plane is gone
        shop.kill("control")
        killed.kill()
    assert runs(shop, "sleep 4716")
    await_end(shop, "sleep 4716", LONG_RETURN + 10)
    assert len(list_killed(shop)) == len(before) + 1


def test_every_byte_goes_through_a_command(shop: Platform, tmp_path: Path) -> None:
    """In and out, while control plane and node agent are killed; stderr apart, and the command's own exit code."""
    (given := tmp_path / "given").write_bytes(os.urandom(30_000_000))
    words = [str(SEAWAY), "run", "-i", "-a", "shop", "--", "cat; echo done >&2; exit 5"]
    came, err = tmp_path / "out", tmp_path / "err"
    with (
        given.open("rb") as stdin,
        came.open("wb") as stdout,
        err.open("wb") as stderr,
        subprocess.Popen(words, env=os.environ | shop.env, stdin=stdin, stdout=stdout, stderr=stderr) as run,
    ):
        for part, size in (("control", 2_000_000), ("node", 10_000_000)):
            wait_until(partial(has_come, came, size), f"{size} bytes")
            shop.kill(part)
        assert run.wait(60) == 5
    assert came.read_bytes() == given.read_bytes()
    said = err.read_text().splitlines()
    assert "done" in said
    assert "the API does not answer; waiting for it to come back" in said


def has_come(path: Path, size: int) -> bool:
    return path.stat().st_size >= size


def test_a_shell_on_a_terminal(shop: Platform) -> None:
    """Typed and answered; Ctrl-C is the job's, the size follows, the control plane may go, the code is the shell's."""
    with Typist(shop.env, "run", "-a", "shop", "PS1='> ' INPUTRC=/dev/null bash --norc --noprofile -i") as typist:
        typist.read("> ")
        typist.type("echo $TERM; stty size\r", "vt220\r\n30 100\r\n", "> ")
        typist.type("sh -c 'echo rea\"\"dy; sleep 1000'\r", "ready\r\n")
        typist.type("\x03", "> ")
        typist.type("echo $?\r", "130\r\n", "> ")
        typist.draw(50, 132)
        typist.type("until [ $(stty size | cut -c1-2) = 50 ]; do sleep 0.1; done; stty size\r", "50 132\r\n", "> ")
        shop.kill("control")
        typist.type("echo $((6*7))\r", "42\r\n", "> ")
        typist.type("exit 3\r")
        assert typist.process.wait(30) == 3
        assert termios.tcgetattr(typist.slave) == typist.before


def test_a_command_ends_with_its_terminal(shop: Platform) -> None:
    """Whose other side is gone: a window that was closed, a lost ssh."""
    with Typist(shop.env, "run", "-a", "shop", "--", "sleep 4717") as typist:
        await_start(shop, "sleep 4717")
        typist.close()
        assert typist.process.wait(10) == 130
    await_end(shop, "sleep 4717")

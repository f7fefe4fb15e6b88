"""Parts and instances that hang while traffic flows: told from dead ones, replaced, and commands say what is wrong."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from seaway.home import Home
from seaway.supervisor.locks import find_holder
from tests.e2e.harness import Platform, load_shop, serve_shop, wait_until
from tests.load.process import LoadProcess
from tests.pace import Stopwatch

COMMANDS = (("status",), ("ps", "list", "-a", "shop"), ("apps", "list"), ("events", "-a", "shop"))
LONGEST = 5.0  # seconds for a command to say what is wrong, or to do what it was asked for
RATE, PATIENCE = 40.0, 60.0  # requests a second; seconds that clients wait for an answer


def find_pid(platform: Platform, part: str) -> int:
    holder = find_holder(Home(platform.home), part)
    return holder.pid if holder else 0


@pytest.fixture
def load(platform: Platform) -> Iterator[LoadProcess]:
    """Requests to two instances, for as long as the test goes on."""
    serve_shop(platform)
    with load_shop(platform, rate=RATE, patience=PATIENCE) as load:
        yield load


@pytest.mark.timeout(300)
def test_stopped_parts_are_replaced(platform: Platform, load: LoadProcess) -> None:
    """Not one request fails: Envoys and instances need none of them. Every command says in time what is wrong."""
    for part in ("control", "node", "supervisor", "router-1"):
        old, said = find_pid(platform, part), set()
        os.kill(old, signal.SIGSTOP)
        while find_pid(platform, part) in (0, old):
            for words in COMMANDS:
                watch = Stopwatch()
                done = platform.run(*words, check=False)
                told = done.stdout + done.stderr
                assert watch.took() - done.waited < LONGEST, f"{part}, {words}: {told}"
                assert done.returncode == 0 or any(word in told for word in ("hangs", "stopped", "does not answer"))
                said.add("it is stopped, by SIGSTOP or a terminal" in told)
        assert True in said, f"`seaway status` says why {part} does nothing"
        wait_until(platform.is_whole, "whole")
    load.stop().assert_clean([], least=1)


def find_instances(platform: Platform) -> dict[str, list[psutil.Process]]:
    """Return the processes of the app's instances, leaders apart."""
    found: dict[str, list[psutil.Process]] = {}
    for process in platform.processes():
        with suppress(psutil.Error):
            if (name := process.environ().get("SEAWAY_INSTANCE")) and "seaway-instance" not in process.cmdline():
                found.setdefault(name, []).append(process)
    return found


@pytest.mark.timeout(300)
def test_a_stopped_instance_costs_the_requests_that_it_has(platform: Platform, load: LoadProcess) -> None:
    """It takes connections and answers nothing: out of rotation within seconds, and started again."""
    name, processes = next(iter(find_instances(platform).items()))
    began = time.time()
    for process in processes:
        process.suspend()

    def look() -> dict[str, object]:
        return next(i for i in platform.read("ps", "list", "-a", "shop") if i["id"] == name)

    wait_until(lambda: not look()["ready"], "out of rotation")
    out = time.time()
    wait_until(lambda: look()["ready"] and look()["restarts"], "started again")
    report = load.stop()
    print(report.describe())
    assert report.total.ok > 5 * RATE
    for failure in report.failures:  # what it had taken and nobody may send twice; all else was sent to the other
        assert (failure.kind, failure.reason) == ("post", "instance-failed"), failure
        assert began - 1 < failure.sent_at < out + 1, failure

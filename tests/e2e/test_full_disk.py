"""A full disk under traffic: parts are killed on it, commands say what is wrong, and all is back when it has room."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.depth import choose
from tests.disk import as_root, fill, filled, small_disk
from tests.e2e.conftest import described
from tests.e2e.harness import Platform, load_shop, serve_shop, wait_until
from tests.load.process import LoadProcess
from tests.pace import Stopwatch
from tests.told import LOGS

pytestmark = as_root
SIZE = "192m"
TOLD, LONGEST, BACK = 2.0, 5.0, 30.0  # seconds: until a state is said, for any command, until all is back
ROUNDS = choose(1, 5)


@pytest.fixture
def platform(request: pytest.FixtureRequest) -> Iterator[Platform]:
    """A platform whose home is a disk of its own."""
    platform = Platform(routers=2)
    with small_disk(platform.home, SIZE):
        try:
            with LOGS.shown(platform.home):
                platform.up()
                with described(platform, request):
                    yield platform
        finally:
            platform.stop()
    platform.home.rmdir()


@pytest.fixture
def source(platform: Platform) -> Path:
    """An app that prints a line for each request, with two instances, deployed as shop."""
    return serve_shop(platform, verbose=True)


@pytest.fixture
def load(platform: Platform, source: Path) -> Iterator[LoadProcess]:
    """Requests for as long as the test goes on."""
    del source
    with load_shop(platform) as load:
        yield load


def say(platform: Platform, *words: str, limit: float = LONGEST) -> str:
    """Run a command and return what it says; it answers in time, and knows of no fault in Seaway."""
    watch = Stopwatch()
    done = platform.run(*words, check=False)
    told = done.stdout + done.stderr
    assert watch.took() < limit, f"{words}: {told}"
    assert "fault in Seaway" not in told
    return told


def list_states(platform: Platform) -> list[str]:
    return [i["state"] for i in platform.read("ps", "list", "-a", "shop")]


def kill_instance(platform: Platform) -> None:
    """Kill -9 one instance's processes, its leader apart."""
    for process in platform.processes():
        with suppress(psutil.Error):
            if process.environ().get("SEAWAY_INSTANCE") and "seaway-instance" not in process.cmdline():
                process.kill()
                return
    raise AssertionError("an instance runs")


@pytest.mark.timeout(600)
def test_parts_are_killed_on_a_full_disk(platform: Platform, source: Path, load: LoadProcess) -> None:
    """They are back at once, on it; not one request fails, and the app's own prints do not; nothing is lost."""
    platform.run("config", "set", "-a", "shop", "KEPT=before")
    for _ in range(ROUNDS):
        with filled(platform.home):
            assert "is full" in say(platform, "status", limit=TOLD)
            for part in ("control", "node", "supervisor", "router-0", "router-1"):
                platform.kill(part)
                wait_until(platform.is_whole, f"whole without {part}", BACK)
            assert "the disk of" in say(platform, "status", limit=TOLD)
            assert "disk" in say(platform, "deploy", str(source), "-a", "shop")
            for words in (("ps", "list"), ("events",), ("config", "list"), ("logs", "-n", "5")):
                say(platform, *words, "-a", "shop")
        wait_until(platform.is_whole, "whole with room", BACK)
    platform.run("config", "set", "-a", "shop", "MORE=after")
    config = platform.read("config", "list", "--reveal", "-a", "shop")["config"]
    assert config == {"KEPT": "before", "MORE": "after"}
    reasons = [event["spec"]["reason"] for event in platform.read("events")]
    assert {"DiskFull", "DiskHasRoom"} <= set(reasons)
    load.stop().assert_clean([], least=1)


@pytest.mark.timeout(300)
def test_an_instance_that_ended_on_a_full_disk_is_back_when_it_has_room(platform: Platform, source: Path) -> None:
    """And says why it is away meanwhile. What is stopped on a full disk leaves nothing; it starts when it has room."""
    del source
    with filled(platform.home):
        kill_instance(platform)
        wait_until(lambda: "No space left" in say(platform, "ps", "list", "-a", "shop"), "it says why it is away")
        assert platform.get("shop.localhost", "/release")[0] == 200
    wait_until(lambda: list_states(platform) == ["running", "running"], "both run", BACK)
    with filled(platform.home):
        os.kill(platform.find("node") or 0, signal.SIGSTOP)  # nor needs that to be well
        assert "is down" in say(platform, "down", limit=60)
        assert platform.processes() == []
        told = say(platform, "up", "-d")
        assert "is full; free some space" in told
        assert platform.processes() == []
    platform.up()
    wait_until(lambda: list_states(platform) == ["running", "running"], "both run", BACK)


@pytest.mark.timeout(300)
def test_whatever_is_left_is_ended_by_down(platform: Platform, source: Path) -> None:
    """Envoys and instances of parts that were killed all at once, and cannot come back."""
    del source
    fill(platform.home)
    parts = [p for p in platform.processes() if "seaway" in p.cmdline() and "-m" in p.cmdline()]
    assert len(parts) == 5
    for process in parts:
        process.suspend()
    for process in parts:
        process.kill()
    wait_until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in parts), "they are dead")
    assert len(platform.processes()) >= 4  # two Envoys and two instances
    assert "is down" in say(platform, "down", limit=60)
    assert platform.processes() == []

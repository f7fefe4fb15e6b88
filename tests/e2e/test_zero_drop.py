"""The main job end to end, through the real command: nothing is dropped while everything changes or dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.load.mix import Mix
from tests.load.process import LoadProcess
from tests.load.report import Kill

SEAWAY = Path(sys.executable).parent / "seaway"
PLAIN = Path(__file__).parent / "apps" / "plain"


def wait_until(condition: Callable[[], Any], what: str, timeout: float = 30) -> Any:
    """Return the condition's first true value."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout} s")
        time.sleep(0.05)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Platform:
    """One platform of its own, driven by the real command."""

    def __init__(self, routers: int) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
        self.http_port, self.api_port, self.routers = free_port(), free_port(), routers

    def run(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [SEAWAY, *args],
            env=os.environ | {"SEAWAY_HOME": str(self.home)},
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        assert not check or done.returncode == 0, f"seaway {args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def up(self) -> None:
        ports = ("--http-port", str(self.http_port), "--api-port", str(self.api_port))
        self.run("up", "-d", *ports, "--routers", str(self.routers))

    def read(self, *args: str) -> Any:
        return json.loads(self.run(*args, "-o", "json").stdout)

    def find(self, part: str) -> int | None:
        found = json.loads(self.run("status", "-o", "json", check=False).stdout)["parts"]
        return next((p["pid"] for p in found if p["name"] == part), None)

    def kill(self, part: str) -> None:
        """Kill -9 one part; wait until it is back under another pid."""
        old = self.find(part)
        assert old
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: (new := self.find(part)) and new != old, f"{part} comes back")

    def is_whole(self) -> bool:
        return self.run("status", check=False).returncode == 0

    def processes(self) -> list[psutil.Process]:
        mark = str(self.home)
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("SEAWAY_HOME") == mark:
                    found.append(process)
            except psutil.Error:
                continue
        return found


@pytest.fixture
def platform() -> Iterator[Platform]:
    platform = Platform(routers=2)
    try:
        platform.up()
        yield platform
    finally:
        platform.run("down", check=False)
        left = platform.processes()
        for process in left:
            process.kill()
        shutil.rmtree(platform.home)
    assert not left, f"left behind: {left}"


@pytest.mark.timeout(400)
def test_nothing_is_dropped_while_all_changes_and_parts_die(platform: Platform) -> None:
    """One instance, two routers: deploy, config, scale, rollback, and each part killed in turn."""
    source = platform.home / "source"
    shutil.copytree(PLAIN, source)
    platform.run("apps", "create", "shop")
    platform.run("deploy", str(source), "-a", "shop")
    url = f"http://127.0.0.1:{platform.http_port}"
    with LoadProcess(url, host="shop.localhost", rate=50, mix=Mix(slow=1)) as load:
        load.mark("deploy")
        (source / "note.txt").write_text("a change\n")
        platform.run("deploy", str(source), "-a", "shop")
        load.mark("config")
        platform.run("config", "set", "COLOUR=blue", "-a", "shop")
        load.mark("scale up")
        platform.run("ps", "scale", "web=2", "-a", "shop")
        load.mark("scale down")
        platform.run("ps", "scale", "web=1", "-a", "shop")
        load.mark("rollback")
        platform.run("rollback", "-a", "shop")
        for part in ("control", "node", "supervisor"):
            load.mark(f"kill {part}")
            platform.kill(part)
            wait_until(platform.is_whole, f"whole after the kill of {part}")
        load.mark("kill router-1")
        began = time.time()
        platform.kill("router-1")
        kills = [Kill("router-1", began, time.time())]
        wait_until(platform.is_whole, "whole after the kill of router-1")
        load.mark("deploy after all that")
        platform.run("config", "set", "COLOUR=green", "-a", "shop")
        report = load.stop()
    report.assert_clean(kills, least=500)
    assert [r["spec"]["description"] for r in platform.read("releases", "-a", "shop")]


@pytest.mark.timeout(300)
def test_a_release_that_never_gets_ready_leaves_the_old_one_serving(platform: Platform) -> None:
    """A deploy that exits at once fails with exit code 1 and says why; down and up bring the old one back."""
    source = platform.home / "source"
    shutil.copytree(PLAIN, source)
    platform.run("apps", "create", "shop")
    platform.run("deploy", str(source), "-a", "shop")
    bad = platform.home / "bad"
    bad.mkdir()
    (bad / "Procfile").write_text("web: echo cannot go on >&2; exit 3\n")
    done = platform.run("deploy", str(bad), "-a", "shop", check=False)
    assert done.returncode == 1
    assert "cannot go on" in done.stdout + done.stderr
    assert platform.read("apps", "info", "shop")["status"]["current"] == 1
    platform.run("down")
    assert not platform.processes()
    platform.up()

    def answers() -> bool:
        command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Host: shop.localhost"]
        url = f"http://127.0.0.1:{platform.http_port}/"
        return subprocess.run([*command, url], capture_output=True, text=True, check=False).stdout == "200"

    wait_until(answers, "the app serves again")

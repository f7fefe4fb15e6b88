"""The main job end to end, through the real command: nothing is dropped while everything changes or dies."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from tests.e2e.harness import Platform, wait_until
from tests.load.mix import Mix
from tests.load.process import LoadProcess
from tests.load.report import Kill

PLAIN = Path(__file__).parent / "apps" / "plain"


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

    wait_until(lambda: platform.get("shop.localhost")[0] == 200, "the app serves again")

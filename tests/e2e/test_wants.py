"""Parts that lack file descriptors while traffic flows: told, replaced, and felt by nobody."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil
import pytest

from tests.e2e.harness import Platform, wait_until
from tests.load.mix import Mix
from tests.load.process import LoadProcess
from tests.load.traffic import Shape
from tests.pace import Stopwatch

PLAIN = Path(__file__).parent / "apps" / "plain"
PARTS = ("control", "node", "router-0")
TOLD, BACK = 5.0, 60.0  # seconds: until a state is said; until all is replaced, silence takes 15 of them
RATE, PATIENCE = 40.0, 30.0  # requests a second; seconds that clients wait for an answer


@pytest.mark.timeout(300)
def test_parts_without_descriptors_are_replaced(platform: Platform) -> None:
    """They go on and hear nobody. Not one request fails, and `seaway status` says so in time."""
    shutil.copytree(PLAIN, source := platform.home / "source")
    (source / "seaway.toml").write_text("[scale]\nweb = 2\n")
    platform.run("apps", "create", "shop")
    platform.run("deploy", str(source), "-a", "shop")
    url, mix = f"http://127.0.0.1:{platform.http_port}", Mix(get=8, post=2, new=2, slow=0, stream=0)
    with LoadProcess(url, host="shop.localhost", rate=RATE, mix=mix, shape=Shape(timeout=PATIENCE)) as load:
        old = {part: platform.find(part) for part in PARTS}
        for pid in old.values():
            assert pid
            psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE, (3, 3))
        told = set[str]()

        def are_replaced() -> bool:
            watch = Stopwatch()
            done = platform.run("status", check=False)
            assert watch.took() < TOLD
            told.update(word for word in ("does not answer", "hangs", "it has not gone on for") if word in done.stdout)
            return all(platform.find(part) not in (None, pid) for part, pid in old.items())

        wait_until(are_replaced, "all are replaced", BACK)
        wait_until(platform.is_whole, "whole", BACK)
        assert told == {"does not answer", "hangs", "it has not gone on for"}
        platform.run("config", "set", "-a", "shop", "A=b")
        load.stop().assert_clean([], least=1)

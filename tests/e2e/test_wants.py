"""Parts that lack file descriptors while traffic flows: told, replaced, and felt by nobody."""

from __future__ import annotations

import psutil
import pytest

from tests.e2e.harness import Platform, load_shop, serve_shop, wait_until
from tests.pace import Stopwatch

PARTS = ("control", "node", "router-0")
TOLD, BACK = 5.0, 60.0  # seconds: until a state is said; until all is replaced, silence takes 15 of them


@pytest.mark.timeout(300)
def test_parts_without_descriptors_are_replaced(platform: Platform) -> None:
    """They go on and hear nobody. Not one request fails, and `seaway status` says so in time."""
    serve_shop(platform)
    with load_shop(platform) as load:
        old = {part: platform.find(part) for part in PARTS}
        for pid in old.values():
            assert pid
            psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE, (3, 3))
        told = set[str]()

        def are_replaced() -> bool:
            watch = Stopwatch()
            done = platform.run("status", check=False)
            assert watch.took() - done.waited < TOLD, done.stdout
            told.update(word for word in ("does not answer", "hangs", "it has not gone on for") if word in done.stdout)
            return all(platform.find(part) not in (None, pid) for part, pid in old.items())

        wait_until(are_replaced, "all are replaced", BACK)
        wait_until(platform.is_whole, "whole", BACK)
        assert told == {"does not answer", "hangs", "it has not gone on for"}
        platform.run("config", "set", "-a", "shop", "A=b")
        load.stop().assert_clean([], least=1)

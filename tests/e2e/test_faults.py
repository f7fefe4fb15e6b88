"""Errors at whatever the parts write, while traffic flows: nobody ends of them, and what was wanted is done later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.conftest import described, running
from tests.e2e.harness import Platform, load_shop, serve_shop, wait_until

FAULTS = Path(__file__).parents[1] / "faults"
ERRORS = {
    "EIO": "Input/output error", "ENOMEM": "Cannot allocate memory", "ENOSPC": "No space left on device",
    "EMFILE": "Too many open files", "EROFS": "Read-only file system",
}  # fmt: skip
PARTS = ("supervisor", "node", "control", "router-0")
BACK = 30.0  # seconds until all is as wanted


class FaultyPlatform(Platform):
    """A platform whose parts fail at what they write, on demand."""

    @property
    def env(self) -> dict[str, str]:
        """Lead Python to tests/faults."""
        return {**super().env, "PYTHONPATH": str(FAULTS), "SEAWAY_TEST_FAULTS": str(self._told)}

    @property
    def _told(self) -> Path:
        return self.home.with_name(f"{self.home.name}.fault")

    @contextmanager
    def failing(self, error: str) -> Iterator[None]:
        """Have every part fail so."""
        self._told.symlink_to(error)
        try:
            yield
        finally:
            self._told.unlink()


@pytest.fixture
def platform(request: pytest.FixtureRequest) -> Iterator[FaultyPlatform]:
    with running(FaultyPlatform(routers=1)) as platform, described(platform, request):
        yield platform


@pytest.mark.timeout(300)
def test_parts_go_on_whatever_they_cannot_write(platform: FaultyPlatform) -> None:
    """One after another: each error is named, no part ends, no request fails, and what was asked for comes after it."""
    serve_shop(platform, web=1, verbose=True)
    parts = {part: platform.find(part) for part in PARTS}
    with load_shop(platform) as load:
        for count, (error, words) in enumerate(ERRORS.items(), 2):
            with platform.failing(error):
                platform.run("ps", "scale", f"web={count}", "-a", "shop", "--no-wait")
                wait_until(partial(is_told, platform, words), f"{error} is told of")
                assert platform.is_whole()
            wait_until(partial(are_ready, platform, count), f"{count} run", BACK)
        assert {part: platform.find(part) for part in PARTS} == parts
        load.stop().assert_clean([], least=1)


def is_told(platform: Platform, words: str) -> bool:
    return words in platform.run("ps", "list", "-a", "shop").stdout


def are_ready(platform: Platform, count: int) -> bool:
    return [instance["ready"] for instance in platform.read("ps", "list", "-a", "shop")].count(True) == count

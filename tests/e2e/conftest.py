"""The platform fixture: up before the test, down and gone after it; what it looked like is shown if the test fails."""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator

import pytest

from tests.e2e.harness import Platform
from tests.told import LOGS

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note whether the test itself failed, for the fixture that ends after it."""
    report = yield
    if call.when == "call":
        item.stash[FAILED] = report.failed
    return report


@pytest.fixture
def platform(request: pytest.FixtureRequest) -> Iterator[Platform]:
    platform = Platform(routers=2)
    try:
        with LOGS.shown(platform.home):
            platform.up()
            yield platform
    finally:
        try:
            if request.node.stash.get(FAILED, False):
                platform.describe()
        finally:
            platform.run("down", check=False)
        left = platform.processes()
        for process in left:
            process.kill()
        shutil.rmtree(platform.home)
    assert not left, f"left behind: {left}"

"""Platforms for tests: up before them, down and gone after them; what one looked like is shown if a test fails."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from tests.e2e.harness import PLAIN, Platform
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


P = TypeVar("P", bound=Platform)


@contextmanager
def running(platform: P) -> Iterator[P]:
    """Yield a platform when it runs, its logs shown at failures; nothing of it is left afterwards."""
    try:
        with LOGS.shown(platform.home):
            platform.up()
            yield platform
    finally:
        platform.close()


@contextmanager
def described(platform: Platform, request: pytest.FixtureRequest) -> Iterator[Platform]:
    """Have a user's first look at it printed if the test fails."""
    yield platform
    if request.node.stash.get(FAILED, False):
        platform.describe()


@pytest.fixture
def platform(request: pytest.FixtureRequest) -> Iterator[Platform]:
    """A platform of the test's own, to be killed and stopped."""
    with running(Platform(routers=2)) as platform, described(platform, request):
        yield platform


@pytest.fixture(scope="session")
def shared_by_all() -> Iterator[Platform]:
    """The platform behind `shared`."""
    with running(Platform(routers=1)) as platform:
        yield platform


@pytest.fixture
def shared(shared_by_all: Platform, request: pytest.FixtureRequest) -> Iterator[Platform]:
    """One platform for all tests that leave it as well as they found it; each has apps of its own."""
    with described(shared_by_all, request):
        yield shared_by_all


@pytest.fixture(scope="session")
def shop(shared_by_all: Platform) -> str:
    """An app on the shared platform that serves, before and after each test."""
    shared_by_all.run("apps", "create", "shop")
    shared_by_all.run("deploy", str(PLAIN), "-a", "shop")
    return "shop"

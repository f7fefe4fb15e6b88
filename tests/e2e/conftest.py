"""The platform fixture: up before the test, down and gone after it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.e2e.harness import Platform


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

"""The local engine for tests that need no other: whoever wants it otherwise has a `kit` of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.engine_kit import LocalKit, running


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[LocalKit]:
    """The local engine with its agent in this process."""
    async with running(LocalKit(tmp_path)) as made:
        yield made

"""Whatever the OpenAPI allows, and what it does not: never a 5xx.

Left out: endless streams (watch, events, logs) and the upload, whose body is no JSON.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from tests.e2e.harness import Platform

SPEC = Path(__file__).parents[2] / "docs" / "openapi.json"
schema = schemathesis.openapi.from_path(SPEC)


@pytest.fixture(scope="module")
def running() -> Iterator[Platform]:
    platform = Platform(routers=1)
    try:
        platform.up()
        platform.run("apps", "create", "shop")
        yield platform
    finally:
        platform.run("down", check=False)
        shutil.rmtree(platform.home)


@schema.exclude(path_regex="watch|events|/log|sources").parametrize()
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_request_makes_the_api_fail(case: Any, running: Platform) -> None:
    """No answer is a 5xx."""
    token = (running.home / "admin.token").read_text().strip()
    answer = case.call(base_url=f"http://127.0.0.1:{running.api_port}", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code < 500, f"{case.method} {case.path}: {answer.status_code} {answer.text[:300]}"

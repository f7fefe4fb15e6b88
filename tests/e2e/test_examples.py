"""Every example deploys and answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.harness import Platform, wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.timeout(300)
def test_every_example_deploys_and_answers(platform: Platform) -> None:
    for name in ("python-web", "web-worker", "websocket"):
        platform.run("apps", "create", name)
        platform.run("deploy", str(EXAMPLES / name), "-a", name)
        status, _ = platform.get(f"{name}.localhost")
        assert status == 200, name
    workers = [i for i in platform.read("ps", "-a", "web-worker") if "-worker-" in i["id"]]
    assert workers, "the worker runs beside the web process"
    assert platform.get("nobody.localhost")[0] == 404
    platform.run("apps", "destroy", "websocket", "--confirm", "websocket")
    wait_until(lambda: platform.get("websocket.localhost")[0] == 404, "its routes go")

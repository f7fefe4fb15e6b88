"""The steps of examples/ci, word for word, up to the app that serves on a real cluster what the CI built."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builder_kit import write_app
from tests.ci_kit import PIPELINES, Secrets, make_runner, read_pipeline, run_all
from tests.e2e.harness import wait_until
from tests.image_kit import can_enter
from tests.kube.fixture import Cluster
from tests.kube.platform import KubePlatform
from tests.packages import ensure_packages

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0 or not can_enter(), reason="buildah needs root and namespaces here"),
]
DOCKERFILE = """\
FROM {registry}/busybox:1
RUN echo {word} > /www/index.html
ENTRYPOINT []
CMD ["httpd", "-f", "-p", "8080", "-h", "/www"]
"""


@pytest.fixture(scope="module")
def platform(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubePlatform]:
    if not cluster.registry:
        pytest.skip("no registry is known for this cluster: set SEAWAY_TEST_REGISTRY")
    ensure_packages("images")
    platform = KubePlatform(cluster, tmp_path_factory.mktemp("ci"), controls=1, routers=1)
    try:
        platform.up()
        platform.run("apps", "create", "shop", "--team", platform.team)
        yield platform
    finally:
        platform.down()


def make_secrets(platform: KubePlatform, name: str) -> Secrets:
    """Return what an administrator would give the CI; the lab's registry asks for no login, and takes any."""
    words = ("tokens", "create", name, "--role", "developer", "--team", platform.team, "-o", "json")
    token = json.loads(platform.run(*words).stdout)["secret"]
    return Secrets(platform.cluster.registry, "ci", "nobody-asks", platform.url, token)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_pipeline(platform: KubePlatform, tmp_path: Path, pipeline: str) -> None:
    """Built, pushed, deployed by digest, served."""
    word = f"built-by-{pipeline.partition('.')[0]}"
    dockerfile = DOCKERFILE.format(registry=platform.cluster.registry, word=word)
    app = write_app(tmp_path / "checkout", {"Dockerfile": dockerfile})
    runner = make_runner(tmp_path, platform.authority) | {"SEAWAY_CA": str(platform.authority)}
    trusted = tmp_path / ".config" / "containers" / "registries.conf"  # the lab's registry speaks plain HTTP
    trusted.parent.mkdir(parents=True)
    trusted.write_text(f'[[registry]]\nlocation = "{platform.cluster.registry}"\ninsecure = true\n')
    run_all(read_pipeline(pipeline, make_secrets(platform, word.lower())), runner, app)
    wait_until(lambda: platform.get("shop.localhost") == (200, f"{word}\n"), "the app serves what the CI built")
    digest = (app / "image-digest").read_text().strip()
    newest = platform.read("releases", "list", "-a", "shop")[0]
    assert newest["spec"]["image"] == f"{platform.cluster.registry}/ci/shop@{digest}"

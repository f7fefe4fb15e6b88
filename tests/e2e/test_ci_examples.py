"""The steps of examples/ci, word for word: the real buildah, a real registry with a login, the real `seaway`.

On one machine the last step is refused, since an image of others needs containers; tests/kube has the whole run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from seaway.registry.transport import Access
from tests.builder_kit import write_app
from tests.ci_kit import PIPELINES, Secrets, make_runner, read_pipeline, run_all, run_step
from tests.e2e.harness import Platform
from tests.image_kit import can_enter
from tests.packages import ensure_packages
from tests.registry_kit import (
    PASSWORD,
    USER,
    Registry,
    make_certificates,
    make_htpasswd,
    push_busybox,
    run_registry,
    write_credentials,
)

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0 or not can_enter(), reason="buildah needs root and namespaces here"),
]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    ensure_packages("images")
    root = tmp_path_factory.mktemp("registry")
    ca, certificate, key = make_certificates(root)
    auth = make_htpasswd(root / "htpasswd")
    with run_registry(root, auth=auth, tls=(certificate, key), access=Access(ca=ca)) as running:
        running.access = Access(ca=ca, credentials=write_credentials(root / "config.json", running.host))
        push_busybox(running, root, "small", Entrypoint=[])
        yield running


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_pipeline(shared: Platform, shop: str, registry: Registry, tmp_path: Path, pipeline: str) -> None:
    """Each step succeeds and shows no secret; the deploy names the image by the digest that the registry has."""
    dockerfile = f'FROM {registry.host}/small:1\nCMD ["httpd", "-f", "-p", "8080"]\n'
    app = write_app(tmp_path / "checkout", {"Dockerfile": dockerfile})
    name = "ci-" + Path(pipeline).stem.lower()
    token = json.loads(shared.run("tokens", "create", name, "--role", "developer", "-o", "json").stdout)["secret"]
    secrets = Secrets(registry.host, USER, PASSWORD, f"http://127.0.0.1:{shared.api_port}", token)
    assert registry.access.ca is not None
    runner = make_runner(tmp_path, registry.access.ca)
    *building, deploying = read_pipeline(pipeline, secrets)
    run_all(building, runner, app)
    digest = (app / "image-digest").read_text().strip()
    assert registry.find_blob(digest).exists()
    refused = run_step(deploying, runner, app)
    assert refused.returncode != 0
    assert f"{registry.host}/ci/{shop}@{digest} is in a registry: such an image needs containers" in refused.stderr
    assert token not in refused.stdout + refused.stderr

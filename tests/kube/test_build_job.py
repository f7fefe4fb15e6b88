"""Dockerfiles built in the cluster: real Jobs, Seaway's own image that fetches the source, a Debian with buildah."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from seaway.builder.base import BuildError
from seaway.builder.cluster import RegistryBuilder
from seaway.builder.job_manifest import JobSettings
from seaway.builder.jobs import BuildahJobs
from seaway.builder.own import build_own_image
from seaway.builder.registry_stores import RegistryLogs, RegistrySources
from seaway.kube.client import KubeClient
from seaway.kube.config import load_config
from seaway.registry.images import connect
from tests.builder_kit import make_dock, write_app
from tests.contract.test_registry_builder import Replica
from tests.kube.build_images import push_build_images
from tests.kube.fixture import Cluster

pytestmark = pytest.mark.timeout(600)

DOCKERFILE = """
FROM small:1
RUN echo "made $(id -u)" > /made
COPY app.sh /srv/
EXPOSE 8000
ENTRYPOINT ["sh"]
CMD ["/srv/app.sh"]
"""
APP = {"Dockerfile": DOCKERFILE, "app.sh": "cat /made\n"}


@dataclass(frozen=True)
class Images:
    own: str
    build: str


@pytest.fixture(scope="module")
def images(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Seaway's own image and one with buildah, in the cluster's registry."""

    async def make() -> str:
        registries = connect(f"{cluster.registry}/builds", insecure=True)
        try:
            return await build_own_image(registries, cluster.base_image)
        finally:
            await registries.close()

    build = push_build_images(cluster, tmp_path_factory.mktemp("small"))
    return Images(asyncio.run(make()), build)


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    name = f"builds-{secrets.token_hex(3)}"
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest_asyncio.fixture
async def replica(cluster: Cluster, images: Images, namespace: str, tmp_path: Path) -> AsyncIterator[Replica]:
    client = KubeClient(load_config(cluster.kubeconfig))
    registries = connect(f"{cluster.registry}/builds", insecure=True)
    dock = make_dock(tmp_path / "home")
    sources = RegistrySources(registries, dock.home)
    settings = JobSettings(namespace, images.build, images.own, f"{cluster.registry}/builds", insecure=True)
    jobs = BuildahJobs(client, settings, sources)
    builder = RegistryBuilder(dock.home, registries, sources, RegistryLogs(registries), dockerfiles=jobs)
    yield Replica(dock, builder, sources, registries)
    await registries.close()
    await client.close()


async def test_a_dockerfile_is_built_by_a_job(
    replica: Replica, cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    """The output is in the log as it comes, the image runs in the cluster by its digest, the Job is gone."""
    built = await replica.build(write_app(tmp_path / "app", APP))
    assert built.image.startswith(f"{cluster.registry}/builds/shop@sha256:")
    assert (built.manifest.processes["web"].command, built.manifest.processes["web"].port) == ("sh /srv/app.sh", 8000)
    assert "STEP 2/6: RUN echo" in replica.dock.log.read_text()
    rights = {"runAsNonRoot": True, "runAsUser": 10001, "readOnlyRootFilesystem": True}
    container = {"name": "web", "image": built.image, "command": ["sh", "/srv/app.sh"], "securityContext": rights}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "made", "namespace": namespace},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
    async with asyncio.timeout(60):
        while cluster.get("pod", "made", "-n", namespace)["status"]["phase"] not in {"Succeeded", "Failed"}:
            await asyncio.sleep(0.5)
    assert cluster.kubectl("logs", "made", "-n", namespace) == "made 0\n"
    assert cluster.get("jobs", "-n", namespace) == []


async def test_what_fails_is_said(replica: Replica, cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    """A step that fails is the reason; so is an image that cannot be pulled."""
    with pytest.raises(BuildError, match=r"the Dockerfile cannot be built: .*false"):
        await replica.build(write_app(tmp_path / "app", {"Dockerfile": 'FROM small:1\nRUN false\nCMD ["x"]\n'}))
    assert cluster.get("jobs", "-n", namespace) == []


async def test_cancel_deletes_the_job(replica: Replica, cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    """The pod ends with the build."""
    hanging = {"Dockerfile": 'FROM small:1\nRUN sleep 1000\nCMD ["x"]\n'}
    task = asyncio.create_task(replica.build(write_app(tmp_path / "app", hanging)))
    async with asyncio.timeout(120):
        while "RUN sleep" not in (replica.dock.log.read_text() if replica.dock.log.exists() else ""):
            assert not task.done()
            await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(60):
        while await asyncio.to_thread(cluster.get, "jobs,pods", "-n", namespace):
            await asyncio.sleep(0.5)

"""Fixtures: the test cluster, an API server of its own for the session, a namespace for each test."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator

import pytest

from seaway.kube.client import KubeClient
from seaway.kube.config import load_config
from seaway.kube.installing import install_crds
from tests.kube.api_server import ApiServer, run_api_server
from tests.kube.engine_kit import KubernetesKit
from tests.kube.fixture import Cluster, given_cluster, own_cluster, why_not


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster of SEAWAY_TEST_KUBECONFIG, or one that is started here and removed afterwards.

    Skips, saying why, where neither is possible.
    """
    given = given_cluster()
    if given is not None:
        yield given
        return
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with own_cluster() as made:
        yield made


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server that the whole session shares; tests that stop it bring it back."""
    with run_api_server(tmp_path_factory.mktemp("api-server")) as server:
        yield server


@pytest.fixture(scope="session")
def fragile_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server for tests that stop and kill it, and bring it back."""
    with run_api_server(tmp_path_factory.mktemp("fragile")) as server:
        yield server


@pytest.fixture
async def kube(api_server: ApiServer) -> AsyncIterator[KubeClient]:
    """A client of an administrator, in a cluster with Seaway's CRDs."""
    client = KubeClient(load_config(api_server.kubeconfig))
    await install_crds(client)
    yield client
    await client.close()


@pytest.fixture
async def namespace(kube: KubeClient) -> str:
    """A namespace of this test alone (nothing finishes its removal without a controller manager)."""
    name = f"t{secrets.token_hex(4)}"
    await kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return name


@pytest.fixture
async def engine_kit(cluster: Cluster) -> AsyncIterator[KubernetesKit]:
    """The Kubernetes engine on the cluster, with namespaces of its own."""
    kit = KubernetesKit(cluster)
    await kit.start()
    yield kit
    await kit.close()

"""The store contract over Kubernetes custom resources, on a real API server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from seaway.kube.client import KubeClient
from seaway.store.kubernetes import KubernetesStore
from tests.contract.test_store import *  # noqa: F403 - the whole suite
from tests.contract.test_store import Stores


@pytest.fixture  # type: ignore[no-redef] # not SQLite
async def stores(kube: KubeClient, namespace: str) -> AsyncIterator[Stores]:
    opened = Stores(lambda: KubernetesStore(kube, namespace))
    yield opened
    await opened.store.close()

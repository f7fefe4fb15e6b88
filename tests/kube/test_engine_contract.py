"""The engine contract's own suite (tests/contract/test_engine.py), unchanged, against the real cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.contract import engine_kit, test_engine
from tests.kube.engine_kit import KubernetesKit
from tests.kube.fixture import Cluster

PATIENCE = 6.0  # a pod takes some 2 s to start, the third try of one that crashes comes after some 14 s

globals().update({name: test for name, test in vars(test_engine).items() if name.startswith("test_")})


@pytest.fixture
async def kit(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KubernetesKit]:
    monkeypatch.setattr(engine_kit, "patience", PATIENCE)
    made = KubernetesKit(cluster)
    await made.start()
    yield made
    await made.close()

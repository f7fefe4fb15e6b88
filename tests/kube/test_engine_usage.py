"""CPU and memory of instances: a cluster without the metrics API, and one whose API server serves its shape."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from structlog.testing import capture_logs

from seaway.engine.kubernetes.measuring import INTERVAL, PATH, RARELY
from seaway.kube.errors import KubeError, NotFound
from seaway.model import Instance
from tests.contract.engine_kit import eventually
from tests.kube.api_server import ApiServer
from tests.kube.engine_desk import Desk, grant, make_node, web
from tests.kube.engine_kit import KubernetesKit
from tests.kube.fixture import Cluster

pytestmark = pytest.mark.timeout(180)

KIND = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
NAME = "pods.metrics.k8s.io"


async def test_without_a_metrics_api_nothing_is_known_and_nothing_said(cluster: Cluster) -> None:
    """404 is no trouble: it is asked for once, instances serve, and what they use is unknown."""
    kit = KubernetesKit(cluster)
    asked: list[str] = []

    async def note(request: Any) -> None:
        if request.url.path == PATH:
            asked.append(str(request.url))

    async def look() -> bool:
        return bool(asked)

    kit.client.http.event_hooks = {"request": [note], "response": []}
    try:
        if "metrics.k8s.io/v1beta1" in await kit.client.groups():
            pytest.skip("this cluster has a metrics API")
        with capture_logs() as logs:
            await kit.start()
            await eventually(look, 20)
            await kit.engine.apply(kit.workload("serve"))
            (seen,) = await kit.await_serving()
            assert await kit.engine.meter.look() == RARELY
        assert (seen.cpu, seen.memory) == (None, None)
        assert len(asked) == 2, "the engine's own question, and this test's"
        assert [entry for entry in logs if entry["log_level"] != "debug"] == []
    finally:
        await kit.close()


@pytest.fixture
async def desk(api_server: ApiServer) -> AsyncIterator[Desk]:
    """An engine with the rights of access.py alone, on an API server that serves pods.metrics.k8s.io from a CRD."""
    admin, made = Desk(api_server), Desk(api_server)
    await make_node(admin, "node1")
    user = f"engine-{secrets.token_hex(3)}"
    await grant(admin.client, user)
    made.client.http.headers["Impersonate-User"] = user
    await made.start()
    try:
        yield made
    finally:
        with suppress(NotFound):
            await admin.client.delete(f"{KIND}/{NAME}")
        await made.close()
        await admin.client.close()


async def serve_metrics(admin: Desk) -> None:
    """Let the API server take PodMetrics and list them as an aggregated metrics-server would."""
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    kind = {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME, "annotations": {"api-approved.kubernetes.io": "unapproved, a test"}},
        "spec": {
            "group": "metrics.k8s.io", "scope": "Namespaced",
            "names": {"plural": "pods", "singular": "podmetrics", "kind": "PodMetrics"},
            "versions": [{"name": "v1beta1", "served": True, "storage": True, "schema": schema}],
        },
    }  # fmt: skip
    await admin.client.request("POST", KIND, body=kind)

    async def served() -> bool:
        with suppress(KubeError):
            await admin.client.request("GET", PATH)
            return True
        return False

    await eventually(served, 20)


async def test_usage_is_what_the_metrics_api_says(desk: Desk) -> None:
    """Of Seaway's pods by their label; a pod that is not measured is unknown, and so is everything after an error."""
    admin = Desk(desk.server)
    await desk.engine.apply(web())
    admin.namespace = desk.namespace
    for name in ("shop-v1-web-aaaaa", "shop-v1-web-bbbbb"):
        await admin.make_pod(name)
    assert await desk.engine.meter.look() == RARELY
    await serve_metrics(admin)
    assert await desk.engine.meter.look() == INTERVAL
    metadata = {
        "name": "shop-v1-web-aaaaa", "namespace": desk.namespace, "labels": {"app.kubernetes.io/managed-by": "seaway"},
    }  # fmt: skip
    usage = {"cpu": "1234567n", "memory": "345Ki"}
    body = {
        "apiVersion": "metrics.k8s.io/v1beta1", "kind": "PodMetrics", "metadata": metadata,
        "timestamp": "2026-01-01T00:00:15Z", "window": "15s", "containers": [{"name": "app", "usage": usage}],
    }  # fmt: skip
    path = f"/apis/metrics.k8s.io/v1beta1/namespaces/{desk.namespace}/pods"
    await admin.client.request("POST", path, body=body)
    assert await desk.engine.meter.look() == INTERVAL

    async def look() -> list[Instance] | None:
        found = sorted((await desk.engine.observe()).instances, key=lambda i: i.id)
        return found if len(found) == 2 else None

    seen = await eventually(look, 20)
    assert [(i.cpu, i.memory) for i in seen] == [(0.001, 353_280), (None, None)]
    await admin.client.delete(f"{KIND}/{NAME}")

    async def forgotten() -> bool:
        return await desk.engine.meter.look() == RARELY

    await eventually(forgotten, 20)
    assert {(i.cpu, i.memory) for i in (await desk.engine.observe()).instances} == {(None, None)}
    await admin.client.close()

"""An engine on a real API server without nodes, and the tools of whoever meddles with its objects."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from seaway.engine.base import EngineUnavailable
from seaway.engine.kubernetes import KubernetesEngine, KubernetesEngineSettings
from seaway.engine.kubernetes.access import RULES
from seaway.kube.client import KubeClient
from seaway.kube.config import load_config
from seaway.kube.errors import AlreadyExists
from seaway.model import Process, Workload, WorkloadKey
from tests.contract.engine_kit import eventually
from tests.kube.api_server import ApiServer
from tests.kube.engine_kit import Told

KEY = WorkloadKey(app="shop", release=1, process="web")


class Desk:
    """An engine and the tools of whoever meddles with its objects."""

    def __init__(self, server: ApiServer, settings: KubernetesEngineSettings | None = None) -> None:
        prefix = f"t{secrets.token_hex(3)}-"
        self.server = server
        self.settings = replace(settings or KubernetesEngineSettings(), namespace_prefix=prefix)
        self.namespace = f"{prefix}red"
        self.client = KubeClient(load_config(server.kubeconfig))
        self.told: list[Told] = []
        self.while_told: Callable[[], Awaitable[None]] | None = None
        self.engine = self.make_engine()

    def make_engine(self) -> KubernetesEngine:
        async def tell(*words: str) -> None:
            self.told.append(Told(*words))
            if self.while_told:
                await self.while_told()

        return KubernetesEngine(self.client, self.settings, tell=tell)

    async def start(self) -> None:
        await self.engine.start()
        async with asyncio.timeout(20):
            await self.engine.wait_synced()

    async def restart(self) -> None:
        await self.engine.close()
        self.engine = self.make_engine()
        await self.start()

    async def close(self) -> None:
        await self.engine.close()
        await self.client.close()

    async def kubectl(self, *words: str) -> str:
        done = await asyncio.to_thread(self.server.kubectl, "-n", self.namespace, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    async def get(self, path: str) -> Any:
        return await self.client.fetch(dict[str, Any], f"{path.replace('NS', f'namespaces/{self.namespace}')}")

    async def get_set(self) -> Any:
        return await self.get("/apis/apps/v1/NS/replicasets/shop-v1-web")

    async def make_pod(self, name: str, **status: Any) -> None:
        """Make a pod as the ReplicaSet's controller would, running and ready."""
        found = await self.get_set()
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "shop-v1-web", "uid": found["metadata"]["uid"]}
        metadata = {
            "name": name,
            "namespace": self.namespace,
            "labels": found["spec"]["template"]["metadata"]["labels"],
        }
        spec = found["spec"]["template"]["spec"] | {"nodeName": "node1"}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata | {"ownerReferences": [owner]}, "spec": spec}
        await self.client.create(body)
        container = {"name": "app", "image": "", "imageID": "", "restartCount": 0, "ready": True, "started": True,
                     "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}  # fmt: skip
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:01Z"}
        said = {"phase": "Running", "podIP": "10.0.0.7", "conditions": [ready], "containerStatuses": [container]}
        await self.client.request(
            "PATCH", f"/api/v1/namespaces/{self.namespace}/pods/{name}/status", body={"status": said | status},
            content_type="application/merge-patch+json",
        )  # fmt: skip

    async def await_told(self, reason: str) -> Told:
        async def look() -> Told | None:
            return next((told for told in self.told if told.reason == reason), None)

        return await eventually(look, 20)

    async def await_workloads(self, *wanted: Workload) -> None:
        async def look() -> bool:
            return (await self.engine.observe()).workloads == wanted

        await eventually(look, 20)


async def make_node(desk: Desk, name: str) -> None:
    with suppress(AlreadyExists):
        await desk.client.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    status = {
        "conditions": [ready],
        "addresses": [{"type": "InternalIP", "address": "10.1.1.1"}],
        "allocatable": {"cpu": "1900m", "memory": "1Gi"},
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
    }
    await desk.client.request(
        "PATCH", f"/api/v1/nodes/{name}/status", body={"status": status},
        content_type="application/strategic-merge-patch+json",
    )  # fmt: skip


def web(count: int = 2, **more: Any) -> Workload:
    env = {"DATABASE_URL": "mysql://db"}
    return Workload(key=KEY, team="red", count=count, image="r/shop@sha256:" + "0" * 64, env=env, routed=True,
                    process=Process(command="python app.py"), **more)  # fmt: skip


async def grant(client: KubeClient, user: str) -> None:
    rules = [{"apiGroups": [g], "resources": list(r), "verbs": list(v)} for g, r, v in RULES]
    version = "rbac.authorization.k8s.io/v1"
    await client.create({"apiVersion": version, "kind": "ClusterRole", "metadata": {"name": user}, "rules": rules})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}
    await client.create(
        {"apiVersion": version, "kind": "ClusterRoleBinding", "metadata": {"name": user}, "roleRef": role,
         "subjects": [subject]}
    )  # fmt: skip


async def make_node_as_admin(desk: Desk) -> None:
    admin = Desk(desk.server)
    await make_node(admin, "node1")
    await admin.client.close()


async def find_trouble(desk: Desk) -> str:
    """Return why there is no observation, "" if there is one."""
    try:
        await desk.engine.observe()
    except EngineUnavailable as error:
        return str(error)
    return ""

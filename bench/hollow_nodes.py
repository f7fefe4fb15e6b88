"""Plays kubelet for nodes that are not there: a stand-in for kubemark, started by bench/kube_scale.py.

    .venv/bin/python bench/hollow_nodes.py --kubeconfig FILE --nodes 50

Each node object says that it is ready, and its Lease is renewed every 10 s, as a kubelet does. Each pod that the
scheduler puts there is reported Running and Ready with an address of its own (in 127.0.0.0/8, so that nothing leaves
this machine); a pod that is deleted is gone at once. No container runs and no probe is sent.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop

from seaway.engine.kubernetes.objects import Pod
from seaway.kube.cache import Cache
from seaway.kube.client import KubeClient
from seaway.kube.config import load_config
from seaway.kube.errors import AlreadyExists, Conflict, KubeError, NotFound
from seaway.kube.listing import Resource

RENEW = 10.0
AGAIN = 0.5  # seconds after a write that failed
WRITERS = 16
CORES, MEMORY, PODS = "64", "256Gi", "250"
MERGE = "application/merge-patch+json"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


def now() -> str:
    """Return the time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def make_node(number: int) -> dict[str, Any]:
    """Return a node; its address is this machine's, where a connection is refused at once: that is life."""
    name = f"hollow-{number}"
    amounts = {"cpu": CORES, "memory": MEMORY, "pods": PODS, "ephemeral-storage": "500Gi"}
    conditions = [
        {"type": kind, "status": status, "reason": "Hollow", "lastHeartbeatTime": now(), "lastTransitionTime": now()}
        for kind, status in (("Ready", "True"), ("MemoryPressure", "False"), ("DiskPressure", "False"))
    ]
    status = {
        "capacity": amounts, "allocatable": amounts, "conditions": conditions,
        "addresses": [{"type": "InternalIP", "address": f"127.0.1.{number + 1}"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
    }  # fmt: skip
    labels = {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": f"zone-{number % 3}"}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "status": status}


def make_status(number: int) -> dict[str, Any]:
    """Return the status of a pod that runs and is ready."""
    at, ip = now(), f"127.{10 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}"
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": at}
        for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
    ]
    container = {
        "name": "app", "ready": True, "restartCount": 0, "started": True, "image": "hollow", "imageID": "hollow",
        "containerID": f"hollow://{number}", "state": {"running": {"startedAt": at}},
    }  # fmt: skip
    return {"phase": "Running", "conditions": conditions, "hostIP": "127.0.1.1", "podIP": ip, "podIPs": [{"ip": ip}],
            "startTime": at, "containerStatuses": [container]}  # fmt: skip


class Hollow:
    """All nodes, in one process."""

    def __init__(self, client: KubeClient, nodes: int) -> None:
        self._client, self._nodes, self._count = client, nodes, 0
        self._queue: asyncio.Queue[Pod] = asyncio.Queue()
        self._started: set[str] = set()

    async def run(self) -> None:
        """Make the nodes and play kubelet until ended."""
        for number in range(self._nodes):
            await self._create("/api/v1/nodes", make_node(number))
        print("ready", flush=True)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew())
            for _ in range(WRITERS):
                group.create_task(self._write())
            await self._follow()

    async def _create(self, path: str, manifest: dict[str, Any]) -> None:
        with contextlib.suppress(AlreadyExists):
            await self._client.request("POST", path, body=manifest)
        if status := manifest.get("status"):
            where = f"{path}/{manifest['metadata']['name']}/status"
            await self._client.request("PATCH", where, body={"status": status}, content_type=MERGE)

    async def _renew(self) -> None:
        """Renew each node's Lease in turn, evenly spread."""
        held = set()
        while True:
            for number in range(self._nodes):
                name = f"hollow-{number}"
                spec = {"holderIdentity": name, "leaseDurationSeconds": 40}
                spec["renewTime"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                        "metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": spec}  # fmt: skip
                if name not in held:
                    await self._create(LEASES, body)
                    held.add(name)
                else:
                    with contextlib.suppress(KubeError):
                        await self._client.request("PATCH", f"{LEASES}/{name}", body={"spec": spec}, content_type=MERGE)
                await asyncio.sleep(RENEW / self._nodes)

    async def _follow(self) -> None:
        cache = Cache(self._client, Resource("/api/v1/pods", Pod))
        async for delta in cache.run():
            for pod in delta.put:
                if pod.spec.node_name.startswith("hollow-"):
                    self._queue.put_nowait(pod)
            for pod in delta.gone:
                self._started.discard(pod.metadata.uid)

    async def _write(self) -> None:
        while True:
            pod = await self._queue.get()
            try:
                await self._answer(pod)
            except (NotFound, Conflict):
                continue  # it is gone, or another one by now
            except KubeError:  # the API server is busy
                self._started.discard(pod.metadata.uid)
                self._queue.put_nowait(pod)
                await asyncio.sleep(AGAIN)

    async def _answer(self, pod: Pod) -> None:
        """Do with a pod what its kubelet would."""
        path = f"/api/v1/namespaces/{pod.metadata.namespace}/pods/{pod.metadata.name}"
        if pod.metadata.deletion_timestamp is not None:
            await self._client.delete(path, uid=pod.metadata.uid, grace=0)
        elif pod.metadata.uid not in self._started:
            self._started.add(pod.metadata.uid)
            self._count += 1
            status = make_status(self._count)
            await self._client.request("PATCH", f"{path}/status", body={"status": status}, content_type=MERGE)


async def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--nodes", type=int, default=50)
    options = parser.parse_args()
    await Hollow(KubeClient(load_config(options.kubeconfig)), options.nodes).run()
    return 0


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))

"""List and resync of 10,000 pods: CPU and the longest block of the event loop, beside the official clients.

    .venv/bin/uv pip install --python .venv/bin/python --group bench    # the official clients, once
    .venv/bin/python bench/kube_cache.py [--pods 10000] [--kubeconfig FILE]

Without --kubeconfig it starts an API server of its own (tests/kube/api_server.py) and fills it. The pods are written
through the API, status and all, with the fields that a Deployment's pods have. CPU is of this process alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import hashlib
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import msgspec
import uvloop
from tests.kube.api_server import ApiServer

from seaway.kube.cache import Cache
from seaway.kube.client import KubeClient
from seaway.kube.config import load_config
from seaway.kube.listing import Resource, list_objects
from seaway.kube.structs import Metadata, Object

NAMESPACE = "bench"
CPU_LIMIT, BLOCK_LIMIT = 0.2, 0.02  # seconds
TIMES = 5


# The fields that an engine reads of a pod.


class Condition(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """One of the pod's conditions."""

    type: str
    status: str = ""
    reason: str = ""
    last_transition_time: str = ""


class Reason(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """Why a container waits or ended."""

    reason: str = ""
    exit_code: int = 0
    started_at: str = ""


class ContainerState(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """One of three."""

    running: Reason | None = None
    waiting: Reason | None = None
    terminated: Reason | None = None


class ContainerStatus(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """How a container is."""

    name: str
    ready: bool = False
    restart_count: int = 0
    state: ContainerState = ContainerState()


class PodSpec(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """Where the pod is."""

    node_name: str = ""


class PodStatus(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """How the pod is."""

    phase: str = ""
    reason: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    conditions: tuple[Condition, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(Object, frozen=True, gc=False, rename="camel"):
    """A pod."""

    metadata: Metadata
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


PODS = Resource("/api/v1/pods", Pod)


def digest(number: int) -> str:
    """Return what looks like an image's digest."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def make_pod(number: int) -> dict[str, Any]:
    """Return a pod as an engine would make it."""
    probe = {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 2, "timeoutSeconds": 2}
    app = f"app{number % 1000}"
    labels = {
        "app.kubernetes.io/name": app, "app.kubernetes.io/managed-by": "seaway", "seaway.dev/app": app,
        "seaway.dev/release": "3", "seaway.dev/process": "web", "pod-template-hash": digest(number % 1000)[:10],
    }  # fmt: skip
    env = [{"name": f"VARIABLE_{n}", "value": f"value-{n}"} for n in range(4)]
    container = {
        "name": "web", "image": f"registry.example.com/{app}@sha256:{digest(number % 1000)}",
        "command": ["/bin/sh", "-c", "exec web"],
        "env": env, "envFrom": [{"secretRef": {"name": f"{app}-v3"}}], "ports": [{"containerPort": 8080}],
        "readinessProbe": probe, "livenessProbe": probe, "startupProbe": probe,
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }  # fmt: skip
    spec = {"nodeName": f"node{number % 50}", "containers": [container], "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True}, "terminationGracePeriodSeconds": 30}  # fmt: skip
    return {"apiVersion": "v1", "kind": "Pod", "spec": spec,
            "metadata": {"name": f"{app}-v3-web-{number:05d}", "namespace": NAMESPACE, "labels": labels}}  # fmt: skip


def make_status(number: int) -> dict[str, Any]:
    """Return the status that a kubelet would report of it."""
    at = "2026-11-24T03:00:00Z"
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": at}
        for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
    ]
    container = {
        "name": "web", "ready": True, "restartCount": 0, "started": True, "image": "registry.example.com/app",
        "imageID": f"registry.example.com/app@sha256:{digest(number % 1000)}", "containerID": f"containerd://{digest(number)}",
        "state": {"running": {"startedAt": at}},
    }  # fmt: skip
    ip = f"10.244.{number // 250 % 250}.{number % 250 + 1}"
    return {"phase": "Running", "conditions": conditions, "hostIP": "10.0.0.1", "podIP": ip, "podIPs": [{"ip": ip}],
            "startTime": at, "qosClass": "Burstable", "containerStatuses": [container]}  # fmt: skip


async def fill(client: KubeClient, count: int) -> None:
    """Make pods until there are `count`."""
    with contextlib.suppress(Exception):
        await client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    there = len((await list_objects(client, PODS)).items)
    numbers = iter(range(there, count))

    async def work() -> None:
        for number in numbers:
            pod = await client.create(make_pod(number))
            path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod['metadata']['name']}/status"
            await client.request("PUT", path, body=pod | {"status": make_status(number)})

    await asyncio.gather(*(work() for _ in range(16)))


async def longest_block(work: Callable[[], Awaitable[object]]) -> tuple[float, float, float]:
    """Run `work` beside a ticker; return (CPU seconds, wall seconds, longest CPU time between two ticks)."""
    gaps: list[float] = []

    async def tick() -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            gaps.append(time.thread_time() - before)

    gc.collect()
    began, wall = time.process_time(), time.perf_counter()
    await work()
    cpu, passed = time.process_time() - began, time.perf_counter() - wall
    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0)
    await work()
    ticking.cancel()
    return cpu, passed, max(gaps)


async def measure_seaway(client: KubeClient) -> dict[str, tuple[float, float, float]]:
    """Measure a list, and a resync of a cache that holds the same already."""
    cache = Cache(client, PODS)

    async def listing() -> None:
        assert len((await list_objects(client, PODS)).items) > 0

    async def resync() -> None:
        changes = cache.run()
        await anext(changes)
        await changes.aclose()

    await resync()
    return {"Seaway, list": await best(listing), "Seaway, resync of a cache": await best(resync)}


async def best(work: Callable[[], Awaitable[object]]) -> tuple[float, float, float]:
    """Return the medians of TIMES runs."""
    runs = [await longest_block(work) for _ in range(TIMES)]
    return tuple(statistics.median(run[n] for run in runs) for n in range(3))  # type: ignore[return-value]


async def measure_lightkube(kubeconfig: Path) -> dict[str, tuple[float, float, float]]:
    """Measure lightkube's own list, once."""
    from lightkube import AsyncClient, KubeConfig  # noqa: PLC0415
    from lightkube.resources.core_v1 import Pod as LightPod  # noqa: PLC0415

    client = AsyncClient(KubeConfig.from_file(kubeconfig))

    async def listing() -> None:
        assert [pod async for pod in client.list(LightPod, namespace="*", chunk_size=500)]

    measured = await longest_block(listing)
    await client.close()
    return {"lightkube, list": measured}


async def measure_official(kubeconfig: Path) -> dict[str, tuple[float, float, float]]:
    """Measure the official clients, each once: they are slow enough to tell."""
    found: dict[str, tuple[float, float, float]] = {}
    try:
        import kubernetes  # noqa: PLC0415
        import kubernetes_asyncio  # noqa: PLC0415
    except ImportError as error:
        print(f"without the official clients ({error}): install the group bench")
        return found
    kubernetes.config.load_kube_config(str(kubeconfig))
    api = kubernetes.client.CoreV1Api()

    async def blocking() -> None:
        token: str | None = ""
        while token is not None:
            page = api.list_pod_for_all_namespaces(limit=500, **({"_continue": token} if token else {}))
            token = page.metadata._continue or None
            await asyncio.sleep(0)

    found["kubernetes, list"] = await longest_block(blocking)
    await kubernetes_asyncio.config.load_kube_config(str(kubeconfig))
    async with kubernetes_asyncio.client.ApiClient() as session:
        core = kubernetes_asyncio.client.CoreV1Api(session)

        async def listing() -> None:
            token: str | None = ""
            while token is not None:
                page = await core.list_pod_for_all_namespaces(limit=500, **({"_continue": token} if token else {}))
                token = page.metadata._continue or None

        found["kubernetes_asyncio, list"] = await longest_block(listing)
    return found


async def run(kubeconfig: Path, count: int) -> int:
    """Measure everything, print the table, return the exit code."""
    client = KubeClient(load_config(kubeconfig))
    began = time.perf_counter()
    await fill(client, count)
    pods = (await list_objects(client, PODS)).items
    size = len(await client.request("GET", "/api/v1/pods", params={"limit": "1"}))
    print(f"{len(pods)} pods of {size / 1000:.1f} kB, made in {time.perf_counter() - began:.0f} s")
    print(f"Python {platform.python_version()}, uvloop {version('uvloop')}; one small pod parsed in {json_only()}")
    results = await measure_seaway(client) | await measure_lightkube(kubeconfig) | await measure_official(kubeconfig)
    await client.close()
    print(f"{'':28} {'CPU':>8} {'wall':>8} {'longest block of the event loop':>34}")
    for name, (cpu, wall, block) in results.items():
        print(f"{name:28} {cpu:6.3f} s {wall:6.2f} s {block * 1000:30.1f} ms")
    over = [
        name
        for name, (cpu, _, block) in results.items()
        if name.startswith("Seaway") and (cpu > CPU_LIMIT or block > BLOCK_LIMIT)
    ]
    verdict = f"missed by {', '.join(over)}" if over else "kept"
    print(f"limits: {CPU_LIMIT} s of CPU for 10,000 pods, {BLOCK_LIMIT * 1000:.0f} ms: {verdict}")
    return 1 if over else 0


def json_only() -> str:
    """Return what parsing alone costs, without HTTP and TLS."""
    text = msgspec.json.encode(make_pod(1) | {"status": make_status(1)})
    decoder = msgspec.json.Decoder(Pod)
    began = time.process_time()
    for _ in range(1000):
        decoder.decode(text)
    return f"{(time.process_time() - began) * 1000:.1f} µs"


def main() -> int:
    """Find or start a cluster and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, default=10_000)
    parser.add_argument("--kubeconfig", type=Path)
    args = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if args.kubeconfig:
            return runner.run(run(args.kubeconfig, args.pods))
        server = ApiServer(Path(tempfile.mkdtemp(prefix="seaway-bench-")))
        try:
            server.start()
            return runner.run(run(server.kubeconfig, args.pods))
        finally:
            server.stop()


if __name__ == "__main__":
    sys.exit(main())

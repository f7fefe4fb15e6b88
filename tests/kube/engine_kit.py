"""The Kubernetes engine on a real cluster, as the engine contract's kit; every kit has namespaces of its own."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, replace
from typing import Any

from seaway.engine.kubernetes import KubernetesEngine, KubernetesEngineSettings
from seaway.kube.client import KubeClient
from seaway.kube.config import load_config
from seaway.model import Health, Instance, InstanceState, Task, Workload
from tests.contract.engine_kit import IMAGES, eventually, make_task, make_workload
from tests.kube.fixture import Cluster

TEAM = "crew"
PROGRAM = (IMAGES / "image" / "app.py").read_text()
KILL_ALL = """
import os
for name in os.listdir("/proc"):
    if name.isdigit() and int(name) not in (1, os.getpid(), os.getppid()):
        os.kill(int(name), 9)
"""
SMALL = KubernetesEngineSettings(cpu_request="10m", memory_request="16Mi")


@dataclass(frozen=True)
class Told:
    """Something the engine told."""

    app: str
    about: str
    reason: str
    message: str


POD_GONE = 120.0  # seconds; a kubelet that has missed an end clears it away once a minute, and only then goes the pod


class KubernetesKit:
    """An engine with its own prefix of namespaces."""

    def __init__(self, cluster: Cluster, settings: KubernetesEngineSettings = SMALL) -> None:
        self.cluster = cluster
        self.settings = replace(settings, namespace_prefix=f"t{secrets.token_hex(3)}-")
        self.namespace = f"{self.settings.namespace_prefix}{TEAM}"
        self.told: list[Told] = []
        self.client = KubeClient(load_config(cluster.kubeconfig))
        self.engine = KubernetesEngine(self.client, self.settings, tell=self._tell)

    async def _tell(self, app: str, about: str, reason: str, message: str) -> None:
        self.told.append(Told(app, about, reason, message))

    async def await_counted(self, quota: str) -> None:
        """Wait until the cluster counts what a quota limits: before that the API server may let anything through."""

        async def is_counted() -> bool:
            return "used" in (await self.get("resourcequota", quota)).get("status", {})

        await eventually(is_counted, 30, every=0.3)

    async def start(self) -> None:
        """Start the engine and wait until it knows the cluster."""
        await self.engine.start()
        async with asyncio.timeout(30):
            await self.engine.wait_synced()

    async def close(self) -> None:
        """Close the engine, and let the namespace go with all it holds."""
        await self.engine.close()
        await self.client.close()
        await self.kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--wait=false", namespace="")

    async def kubectl(self, *words: str, namespace: str | None = None, **more: Any) -> str:
        """Run kubectl in the namespace of the tests' team."""
        place = self.namespace if namespace is None else namespace
        where = ["-n", place] if place else []
        return await asyncio.to_thread(self.cluster.kubectl, *where, *words, **more)

    async def get(self, *words: str) -> Any:
        """Return an object, or a list's items."""
        return await asyncio.to_thread(self.cluster.get, "-n", self.namespace, *words)

    def workload(self, behaviour: str, count: int = 1, release: int = 1, **process: Any) -> Workload:
        """Run the test app so, from the config: images have no place for it."""
        process.setdefault("health", Health(start_timeout=0.5 if behaviour == "silent" else 20.0))
        process.setdefault("stop_grace", 1.0)
        env = process.pop("env", {}) | {"PROGRAM": PROGRAM}
        made = make_workload(f'python3 -c "$PROGRAM" {behaviour}', count, release, env=env, **process)
        return made.model_copy(update={"image": self.cluster.base_image, "team": TEAM})

    def shell(self, command: str, **more: Any) -> Workload:
        """Return a workload that is not routed and runs a shell command in the small image."""
        made = make_workload(command, more.pop("count", 1), process=more.pop("process", "worker"), **more)
        return made.model_copy(update={"image": self.cluster.busybox_image, "team": TEAM})

    def task(self, task_id: str, code: int, command: str = "") -> Task:
        """Return a one-off that ends with the code."""
        made = make_task(task_id, command or f"exit {code}")
        return made.model_copy(update={"image": self.cluster.busybox_image, "team": TEAM})

    async def kill(self, instance: Instance) -> None:
        """kill -9 what the instance runs, all but the container's first process."""
        await self.kubectl("exec", instance.id, "--", "python3", "-c", KILL_ALL, check=False)  # it dies as well

    async def check_exit_code(self, instance: Instance, code: int) -> None:
        """A busy kubelet may say that it does not know; then the engine does not either."""

        async def is_told() -> bool:
            now = next(i for i in (await self.engine.observe()).instances if i.id == instance.id)
            assert now.exit_code in (None, code)
            if now.exit_code == code:
                return True
            last = (await self.get("pod", instance.id))["status"]["containerStatuses"][0]["lastState"]
            return bool(last.get("terminated", {}).get("reason") == "ContainerStatusUnknown")

        await eventually(is_told)

    async def list_living(self) -> list[Instance]:
        """Return the instances that neither stop nor have stopped."""
        gone = (InstanceState.STOPPING, InstanceState.STOPPED)
        return [i for i in (await self.engine.observe()).instances if i.state not in gone]

    async def await_serving(self, count: int = 1, limit: float = 60) -> list[Instance]:
        """Return the living instances once there are `count` and all serve."""

        async def look() -> list[Instance] | None:
            found = await self.list_living()
            return found if len(found) == count and all(i.serving for i in found) else None

        return await eventually(look, limit)

    async def await_instance(self, state: InstanceState, text: str = "", limit: float = 60) -> Instance:
        """Return the first instance that is in the state and whose reason contains the text."""

        async def look() -> Instance | None:
            found = (await self.engine.observe()).instances
            return next((i for i in found if i.state is state and text in i.reason), None)

        try:
            return await eventually(look, limit)
        except TimeoutError:
            seen = [(i.id, i.state, i.reason) for i in (await self.engine.observe()).instances]
            raise AssertionError(f"no {state} with {text!r}: {seen}") from None

    async def await_task_reason(self, reason: str, limit: float = 60) -> None:
        """Wait until a one-off is where the reason says."""

        async def look() -> bool:
            return any(task.reason == reason for task in (await self.engine.observe()).tasks)

        try:
            await eventually(look, limit)
        except TimeoutError:
            seen = await self.kubectl("get", "jobs,pods", "-o", "wide")
            raise AssertionError(f"not {reason!r}: {(await self.engine.observe()).tasks}\n{seen}") from None

    async def await_told(self, reason: str, limit: float = 30) -> Told:
        """Return the first thing that was told for the reason."""

        async def look() -> Told | None:
            return next((told for told in self.told if told.reason == reason), None)

        return await eventually(look, limit)

"""The Kubernetes engine: implements seaway.engine.base.Engine, with streams; judges teams, and holds nodes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any

import msgspec

from seaway.engine.base import Output
from seaway.engine.kubernetes import names
from seaway.engine.kubernetes.applying import AS_SEAWAY, MERGE, Applier, Tell
from seaway.engine.kubernetes.errors import engine_errors
from seaway.engine.kubernetes.guarding import CONNECTING, Guard
from seaway.engine.kubernetes.measuring import Meter
from seaway.engine.kubernetes.objects import NodeObject
from seaway.engine.kubernetes.picture import Picture
from seaway.engine.kubernetes.preparing import Preparer
from seaway.engine.kubernetes.running import TaskStarter
from seaway.engine.kubernetes.settings import KubernetesEngineSettings
from seaway.engine.kubernetes.streams import StreamHolder
from seaway.engine.local.changes import Changes
from seaway.kube.client import KubeClient
from seaway.kube.errors import Conflict, NotFound, Unavailable
from seaway.model import Observation, Offsets, Task, Terminal, Workload, WorkloadKey

BUDGETS = ("policy/v1", "policy/v1beta1")  # the newest that a cluster serves is used
HEARTBEAT = 30.0
RETRY = 1.0  # seconds between tries to reach the API server at the start
ATTEMPTS = 5  # of a write to a node, which its kubelet writes as well

_node = msgspec.json.Decoder(NodeObject)


async def _tell_nobody(app: str, about: str, reason: str, message: str) -> None:
    del app, about, reason, message


class KubernetesEngine:
    """Implements Engine in a cluster. `start` it before use; the client stays its owner's."""

    def __init__(
        self,
        client: KubeClient,
        settings: KubernetesEngineSettings | None = None,
        *,
        tell: Tell = _tell_nobody,
        acts: Callable[[], bool] = lambda: True,
    ) -> None:
        """`tell` hears what was put back and who else stopped what; `acts`: whether this replica may write now."""
        self.settings = settings or KubernetesEngineSettings()
        self._client, self._changes = client, Changes()
        self._picture = Picture(client, self.settings, self._changes)
        self._preparer = Preparer(client, self.settings)
        self._applier = Applier(client, self.settings, self._picture, self._preparer, tell)
        self._tasks = TaskStarter(client, self.settings, self._picture, self._preparer)
        self._streams = StreamHolder(client, self._picture, self._tasks, tell, acts)
        self._guard = Guard(client, self.settings, self._picture, self._applier, self._preparer, tell=tell, acts=acts)
        self.meter = Meter(client, self._picture.take_usage)
        self._starting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to watch the cluster; returns at once, `observe` answers when everything has been listed."""
        self._picture.start(self._applier.note_gone)
        self._starting = asyncio.create_task(self._discover())

    async def close(self) -> None:
        """Stop watching; what runs goes on."""
        if self._starting is not None:
            await asyncio.wait([self._starting], timeout=CONNECTING)
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        await self._streams.close()
        await self.meter.close()
        await self._guard.close()
        await self._picture.watched.close()
        self._changes.close()

    def silent(self) -> float:
        """Return for how many seconds the API server has not been heard (up to 15 where nothing changes)."""
        return self._picture.watched.silent()

    async def wait_synced(self) -> None:
        """Return once the cluster is known."""
        await self._picture.watched.wait_synced()

    async def apply(self, workload: Workload) -> None:
        """See Engine.apply."""
        with engine_errors():
            await self._applier.apply(workload)

    async def remove(self, key: WorkloadKey) -> None:
        """See Engine.remove."""
        with engine_errors():
            await self._applier.remove(key)

    async def observe(self) -> Observation:
        """See Engine.observe; asks nobody."""
        return self._picture.observe()

    async def watch(self) -> AsyncGenerator[str, None]:
        """See Engine.watch."""
        async for changed in self._changes.watch(HEARTBEAT):
            for name in changed:
                yield name

    async def start_task(self, task: Task) -> None:
        """See Engine.start_task."""
        with engine_errors():
            await self._tasks.start(task)

    async def remove_task(self, task_id: str) -> None:
        """See Engine.remove_task."""
        with engine_errors():
            await self._tasks.remove(task_id)

    def read_output(self, task_id: str, begin: Offsets) -> AsyncGenerator[Output, None]:
        """See StreamControl.read_output."""
        return self._streams.read(task_id, begin)

    async def write_input(self, task_id: str, offset: int, data: bytes, *, end: bool = False) -> None:
        """See StreamControl.write_input."""
        await self._streams.write(task_id, offset, data, end=end)

    async def resize(self, task_id: str, terminal: Terminal) -> None:
        """See StreamControl.resize."""
        await self._streams.resize(task_id, terminal)

    async def judge_team(self, team: str) -> str:
        """See TeamJudge.judge_team; asks the API server."""
        with engine_errors():
            return await self._preparer.judge(team)

    async def hold_node(self, name: str, reason: str) -> None:
        """Let nothing new be placed on a node; what runs there runs on. Idempotent; the last reason counts."""
        await self._set_taint(name, {"key": names.HELD, "value": "seaway", "effect": "NoSchedule"}, reason)

    async def release_node(self, name: str) -> None:
        """Take a held node back into use. Idempotent; a node that is gone is fine."""
        await self._set_taint(name, None, None)

    async def _set_taint(self, name: str, taint: dict[str, str] | None, reason: str | None) -> None:
        """Put the taint among the node's others, or take it away; the list can only be written as a whole."""
        path = f"/api/v1/nodes/{name}"
        with engine_errors(), suppress(NotFound):  # a node that is gone gets nothing new either
            for attempt in range(ATTEMPTS):
                found = await self._client.fetch(dict[str, Any], path)
                metadata = found["metadata"]
                before = found["spec"].get("taints", [])
                after = [other for other in before if other["key"] != names.HELD] + ([taint] if taint else [])
                if after == before and metadata.get("annotations", {}).get(names.HELD) == reason:
                    return
                change = {"annotations": {names.HELD: reason}, "resourceVersion": metadata["resourceVersion"]}
                body = {"metadata": change, "spec": {"taints": after}}
                try:
                    answer = await self._client.request("PATCH", path, body=body, params=AS_SEAWAY, content_type=MERGE)
                except Conflict:  # a kubelet has written its state meanwhile
                    if attempt == ATTEMPTS - 1:
                        raise
                    continue
                self._picture.note_node(_node.decode(answer))
                return

    async def _discover(self) -> None:
        """Find out what the cluster serves, then let guard and meter begin."""
        while True:
            try:
                served = await self._client.groups()
                break
            except Unavailable:
                await asyncio.sleep(RETRY)
        self._applier.budgets = next((version for version in BUDGETS if version in served), "")
        self._guard.start(self._applier.budgets)
        self.meter.start()

"""An engine in memory: passes the engine contract, moves only when told to. For tests and for trying things out.

Nothing runs. `tick` moves every instance one step on; what becomes of a workload's instances is told by `behave`.
It has one node, or those that `nodes` names; `cut_node` stops what is on one, and nobody is told.
Ids are counted, so that a seeded test repeats exactly. A world that plays dice overrides `find_behaviour`, `is_due`,
`choose_node` and `stop` (tests/property/world.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from typing import Any, Literal

from seaway.engine.base import EngineUnavailable
from seaway.model import Instance, InstanceState, Node, Observation, Task, TaskState, Workload, WorkloadKey

S = InstanceState
Behaviour = Literal["serve", "crash", "silent", "slow"]
"""serve: becomes ready; crash: exits with code 1 whenever started; silent: does not become ready within its
start_timeout; slow: has yet to, and may still do so within that."""

CRASHING_AFTER = 3


def _utc_now() -> datetime:
    return datetime.now(UTC)


class MemoryEngine:
    """Implements Engine. With `auto`, every `observe` ticks first."""

    def __init__(
        self,
        behave: Callable[[Workload], Behaviour] = lambda _: "serve",
        run_task: Callable[[Task], int | None] = lambda _: 0,
        clock: Callable[[], datetime] = _utc_now,
        *,
        auto: bool = False,
        nodes: tuple[str, ...] = (),
    ) -> None:
        self.available = True
        self.instances: dict[str, Instance] = {}
        self.workloads: dict[WorkloadKey, Workload] = {}
        self.tasks: dict[str, tuple[Task, TaskState]] = {}
        self.nodes = {name: Node(name=name, ready=True, agent_port=10250) for name in nodes}
        self.nodes = self.nodes or {"memory": Node(name="memory", ready=True)}
        self.cut: set[str] = set()
        self._keys: dict[WorkloadKey, Workload] = {}  # as last applied, removed ones too
        self._behave, self._run_task, self._clock, self._auto = behave, run_task, clock, auto
        self._count = 0
        self._queues: list[asyncio.Queue[str]] = []

    async def apply(self, workload: Workload) -> None:
        """See Engine.apply."""
        self._check()
        self.workloads[workload.key] = self._keys[workload.key] = workload
        mine = [i for i in self.instances.values() if i.key == workload.key and not _gone(i)]
        for instance in mine:
            if instance.id in workload.retire:
                self.stop(instance, "retired")
        living = sum(1 for i in mine if i.id not in workload.retire)
        for _ in range(workload.count - living):
            self._count += 1
            key = workload.key
            name = f"{key.app}-v{key.release}-{key.process}-{self._count:04d}"
            node = self.choose_node()
            self._set(Instance(id=name, key=key, node=node, state=S.PENDING, created_at=self._clock()))

    async def remove(self, key: WorkloadKey) -> None:
        """See Engine.remove."""
        self._check()
        self.workloads.pop(key, None)
        for instance in list(self.instances.values()):
            if instance.key == key and not _gone(instance):
                self.stop(instance, "its release was removed")

    async def observe(self) -> Observation:
        """See Engine.observe."""
        self._check()
        if self._auto:
            self.tick()
        return Observation(
            nodes=tuple(self.nodes.values()),
            instances=tuple(self.instances.values()),
            workloads=tuple(self.workloads.values()),
            tasks=tuple(state for _, state in self.tasks.values()),
        )

    async def watch(self) -> AsyncGenerator[str, None]:
        """See Engine.watch."""
        queue: asyncio.Queue[str] = asyncio.Queue()
        self._queues.append(queue)
        try:
            yield ""
            while True:
                yield await queue.get()
        finally:
            self._queues.remove(queue)

    async def start_task(self, task: Task) -> None:
        """See Engine.start_task."""
        self._check()
        if task.id not in self.tasks:
            state = TaskState(id=task.id, app=task.app, attached=task.attached, started_at=self._clock())
            self.tasks[task.id] = (task, state)
            self._notify(task.app)

    async def remove_task(self, task_id: str) -> None:
        """See Engine.remove_task."""
        self._check()
        if task_id in self.tasks:
            task, _ = self.tasks.pop(task_id)
            self._notify(task.app)

    async def hold_node(self, name: str, reason: str) -> None:
        """See NodeControl.hold_node."""
        self._check()
        self.nodes[name] = self.nodes[name].model_copy(update={"held": reason})

    async def release_node(self, name: str) -> None:
        """See NodeControl.release_node."""
        self._check()
        if name in self.nodes:
            self.nodes[name] = self.nodes[name].model_copy(update={"held": ""})

    def give_memory(self, available: int | None) -> None:
        """Let every node have so many bytes for more instances; None: it does not say."""
        self.nodes = {name: node.model_copy(update={"available": available}) for name, node in self.nodes.items()}

    def cut_node(self, name: str) -> None:
        """Let a node vanish: what the engine shows of its instances stays as it is."""
        self.cut.add(name)

    def mend_node(self, name: str) -> None:
        """Let it come back: what was told to stop meanwhile stops."""
        self.cut.discard(name)

    def choose_node(self) -> str:
        """Return the node that takes the next instance: the emptiest that is not held; "" if every one is."""
        load = {name: 0 for name, node in self.nodes.items() if not node.held}
        for instance in self.instances.values():
            if instance.node in load and not _gone(instance):
                load[instance.node] += 1
        return min(load, key=lambda name: (load[name], name), default="")

    def tick(self) -> None:
        """Move every instance and task one step on; a stopped instance is forgotten one tick later."""
        for instance in list(self.instances.values()):
            self._step(instance)
        for task, state in list(self.tasks.values()):
            if not state.done and (code := self.run_task(task)) is not None:
                self.end_task(task.id, code)

    def end_task(self, task_id: str, code: int) -> None:
        """End a one-off with that exit code."""
        task, state = self.tasks[task_id]
        ended: dict[str, Any] = {"done": True, "exit_code": code, "ended_at": self._clock()}
        self.tasks[task_id] = (task, state.model_copy(update=ended))
        self._notify(task.app)

    def stop(self, instance: Instance, reason: str) -> None:
        """Tell one that lives to stop, for good."""
        self._set(instance, state=S.STOPPING, ready=False, reason=reason)

    def find_behaviour(self, key: WorkloadKey) -> Behaviour:
        """Return what becomes of a workload's instances when they start."""
        return self._behave(self._keys[key])

    def is_due(self, instance: Instance) -> bool:  # noqa: ARG002 - a world that plays dice looks at it
        """Whether one that starts or stops gets on with it in this tick."""
        return True

    def run_task(self, task: Task) -> int | None:
        """Return the exit code with which a one-off ends in this tick; None if it goes on."""
        return self._run_task(task)

    def crash(self, instance_id: str, code: int = -9, times: int = 1) -> None:
        """End an instance's process as a kill from outside would, and so many times until somebody looks."""
        instance = self.instances[instance_id]
        restarts = instance.restarts + times - 1
        state = S.CRASHING if times >= CRASHING_AFTER else S.BACKOFF
        self._set(
            instance, state=state, ready=False, ready_since=None, exit_code=code, reason=f"exited with code {code}",
            restarts=restarts,
        )  # fmt: skip

    def _step(self, instance: Instance) -> None:
        if instance.node in self.cut:
            return
        if not instance.node:
            if node := self.choose_node():
                self._set(instance, node=node)
            return
        behaviour, now, due = self.find_behaviour(instance.key), self._clock(), self.is_due(instance)
        match instance.state:
            case S.PENDING:
                self._set(instance, state=S.STARTING, started_at=now, address="127.0.0.1", port=20000 + self._count)
            case S.BACKOFF | S.CRASHING:
                self._set(instance, state=S.STARTING, started_at=now, restarts=instance.restarts + 1)
            case S.STARTING if behaviour == "serve" and due:
                self._set(instance, state=S.RUNNING, ready=True, ready_since=now, reason="")
            case S.STARTING if behaviour == "crash":
                state = S.CRASHING if instance.restarts + 1 >= CRASHING_AFTER else S.BACKOFF
                self._set(instance, state=state, ready=False, exit_code=1, reason="exited with code 1")
            case S.STARTING if behaviour == "silent":
                self._set(instance, state=S.CRASHING, ready=False, reason="did not listen on its PORT in time")
            case S.STOPPING if due:
                self._set(instance, state=S.STOPPED)
            case S.STOPPED:
                del self.instances[instance.id]
            case _:
                return

    def _set(self, instance: Instance, **changes: Any) -> None:
        self.instances[instance.id] = instance.model_copy(update=changes)
        self._notify(instance.key.app)

    def _notify(self, app: str) -> None:
        for queue in self._queues:
            queue.put_nowait(app)

    def _check(self) -> None:
        if not self.available:
            raise EngineUnavailable("the engine is switched off by the test")


def _gone(instance: Instance) -> bool:
    return instance.state in (S.STOPPING, S.STOPPED)

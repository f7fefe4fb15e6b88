"""A world whose nodes vanish, return and flap, whose API stalls and whose packets get lost.

Verdicts are the product's own, made from probes on a simulated network. The world checks that only an instance on a
node that was really down is taken for lost, that what must not run twice is started nowhere while it may still run,
and that nothing is replaced in an outage.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from seaway.engine.base import EngineUnavailable
from seaway.engine.memory import MemoryEngine
from seaway.health.overlay import overlay
from seaway.model import Instance, InstanceState, Node, NodeState, Observation, Workload, WorkloadKey
from tests.node_kit import NodeLab
from tests.property.world import GONE, START, Table, World

AFTERMATH = timedelta(seconds=8)  # a node that is up again may be taken for dead for so long


class NodeWorld(World):
    """A world on several nodes."""

    def __init__(self, seed: int, *, hostile: bool) -> None:
        super().__init__(seed, hostile=hostile)
        count = self.dice.choice([1, 2, 3, 3, 3, 5])
        self.lab = NodeLab(count, seed, loss=self.dice.choice([0.0, 0.0, 0.3]), step=0.04)
        self.lab.now = START
        self.nodes = {name: Node(name=name, ready=True) for name in self.lab.nodes}
        self.exclusive = self.dice.random() < 0.5
        self.returning = self.dice.choice([0.08, 0.02])  # how soon nodes come back
        self.stalled_until = START
        self.down_at: dict[str, datetime] = {}  # when a node was last down
        self.promoted = False
        self.scale: dict[str, int] = {}
        self.lost_count: dict[str, int] = {}

    # The engine
    def choose_node(self) -> str:
        load = {name: 0 for name, node in self.lab.nodes.items() if not node.verdict.hold}
        for instance in self.instances.values():
            if instance.node in load and instance.state not in GONE:
                load[instance.node] += 1
        return min(load, key=lambda name: (load[name], name), default="")

    def may_start_beside(self, others: set[str]) -> bool:
        return all(self.promoted and self.lab.state(self.seen[i].node) is NodeState.LOST for i in others)

    async def apply(self, workload: Workload) -> None:
        self._check_api()
        before = self._count_living(workload.key)
        lost = [i for i in workload.retire if self._is_living(i) and self._is_lost(i)]
        if lost and self.lab.verdicts.outage and 0 < before <= workload.count:
            self.violations.append(f"{lost} are replaced in an outage")
        await super().apply(workload)
        living = self._count_living(workload.key)
        if living > before and not self.promoted:
            self._check_doubtful(workload.key, living)

    def _check_doubtful(self, key: WorkloadKey, living: int) -> None:
        """No instance starts beside one of another release that may still run, nor beyond the number wanted."""
        doubtful = [i for i in self.instances.values() if self._is_doubtful(i, key)]
        others = any(i.key != key for i in doubtful)
        if others or (doubtful and living + len(doubtful) > self.scale.get(key.process, 1)):
            self.violations.append(f"{key} starts beside {[i.id for i in doubtful]}, which may still run")

    def _is_doubtful(self, instance: Instance, key: WorkloadKey) -> bool:
        """Whether it may still run on a node that is taken for lost, and must not run beside one of `key`."""
        exclusive = {instance.key.release, key.release} & self.exclusive_releases
        told = instance.key != key or instance.state is InstanceState.STOPPING
        alike = instance.key.process == key.process and instance.state is not InstanceState.STOPPED
        return bool(exclusive) and told and alike and bool(instance.node) and self._is_lost(instance.id)

    def has_doubtful(self, key: WorkloadKey) -> bool:
        """Whether anything may still run beside which no instance of `key` may start."""
        return any(self._is_doubtful(instance, key) for instance in self.instances.values())

    async def remove(self, key: WorkloadKey) -> None:
        self._check_api()
        await super().remove(key)

    async def observe(self) -> Observation:
        self._check_api()
        return overlay(await super().observe(), self.lab.verdicts)

    def _check_api(self) -> None:
        if self.now < self.stalled_until:
            raise EngineUnavailable("the API server stalls")

    def _is_living(self, name: str) -> bool:
        return name in self.instances and self.instances[name].state not in GONE

    def _is_lost(self, name: str) -> bool:
        return self.lab.state(self.instances[name].node) is NodeState.LOST

    def _count_living(self, key: WorkloadKey) -> int:
        return sum(i.key == key and i.state not in GONE for i in self.instances.values())

    def stop(self, instance: Instance, reason: str) -> None:
        if self.was_down(instance.node):
            MemoryEngine.stop(self, instance, reason)  # whatever is on its way there is lost
        else:
            super().stop(instance, reason)

    def was_down(self, node: str) -> bool:
        """Whether a node is down, or was a moment ago."""
        return node in self.down_at and self.now - self.down_at[node] < AFTERMATH

    # Time
    def step(self) -> None:
        before = self.now
        if not self.calm:
            self._trouble()
        self.cut = {name for name, node in self.lab.nodes.items() if not node.up}
        super().step()
        self.lab.api_alive = self.now >= self.stalled_until
        self.lab.run((self.now - before).total_seconds())
        self.lab.now = self.now
        for name, node in self.lab.nodes.items():
            if not node.up:
                self.down_at[name] = self.now
                self.disturbed = True
            losses = [when for when, state in node.states if state is NodeState.LOST]
            if len(losses) > self.lost_count.get(name, 0) and not self.was_down(name):
                self.violations.append(f"{name} is taken for lost, and was up")
            self.lost_count[name] = len(losses)

    def _trouble(self) -> None:
        if self.chance(0.02):
            self.stalled_until = self.now + timedelta(seconds=self.dice.randrange(5, 20))
        for name, node in self.lab.nodes.items():
            if node.up and self.chance(0.03):
                node.up = False
            elif not node.up and self.chance(self.returning):
                self.mend(name)

    def mend(self, name: str) -> None:
        """Bring a node back: its link only, or it was off, so that everything there starts again."""
        self.lab.nodes[name].up = True
        if self.dice.random() < 0.5:
            for instance in list(self.instances.values()):
                if instance.node == name and instance.state is InstanceState.RUNNING:
                    self._set(instance, state=InstanceState.STARTING, ready=False, ready_since=None)
                elif instance.node == name and instance.state is InstanceState.STOPPING:
                    self._set(instance, state=InstanceState.STOPPED)

    def is_moving(self) -> bool:
        """Whether an instance on a node that is up is on its way, or an outage has yet to end."""
        ways = (InstanceState.PENDING, InstanceState.STARTING, InstanceState.STOPPING)
        return bool(self.lab.verdicts.outage) or any(
            i.state in ways and self.lab.nodes[i.node].up for i in self.instances.values() if i.node
        )

    def answers(self, instance: Instance) -> bool:
        """Whether a router's request would be answered."""
        return instance.serving and bool(instance.node) and self.lab.nodes[instance.node].up

    def list_serving(self, table: Table, checked: set[str]) -> set[str]:
        """Return the instances in rotation that answer."""
        return {i for i in table.rotation() & checked if self.answers(self.seen[i])}

"""NodeKeeper: watches the nodes, lays its verdicts over what the engine observes, and keeps new instances off the dead.

It gathers facts (probes, what routers see, what the engine hears), `seaway.health` decides, and what changed wakes
the control loop for the apps that it concerns. It moves no instance itself.

A node becomes lost only after the engine has taken the order to place nothing new there: replacements must not land
on it, and an engine whose cluster does not answer could not replace anything. Nothing is remembered across a restart
but what events tell; every node is watched anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from seaway.control.node_events import NodeEvents, Tell
from seaway.control.probing import Connect, Prober, connect_tcp
from seaway.engine.base import Engine, EngineError, NodeControl
from seaway.health.decide import DEFAULT, decide_nodes, is_due
from seaway.health.facts import NodeFacts, NodePolicy, NodeVerdict, NodeVerdicts
from seaway.health.overlay import overlay
from seaway.model import Instance, Node, NodeState, Observation
from seaway.router.base import RouterView
from seaway.router.table import cluster_name
from seaway.store.base import Store, StoreError

log = structlog.get_logger()

OBSERVE_INTERVAL = 5.0  # seconds between looks at the engine while every node answers
OPEN_INTERVAL = 1.0  # the same while one does not
OBSERVE_LIMIT = 3.0  # seconds that an observation may take before the engine counts as not answering
HOLD_LIMIT = 2.0  # seconds for the order to place nothing new on a node
ALIVE_FOR = timedelta(seconds=9)  # an engine that answered within this is alive
REPORT_MARGIN = timedelta(seconds=0.3)  # from a change of health in Envoy to the router's report of it
JUDGE_COST = 0.0004  # seconds between verdicts for each node: a large cluster is judged less often


class Routers(Protocol):
    """What is asked of the routers."""

    def views(self) -> tuple[RouterView, ...]:
        """Return every router that is or was connected."""
        ...

    def blind_time(self, cluster: str) -> float:
        """Return for how many seconds at most a dead endpoint of the cluster still looks healthy."""
        ...


class NodeKeeper:
    """Runs until cancelled; `overlay` may be called at any time."""

    def __init__(
        self,
        engine: Engine,
        routers: Routers,
        store: Store,
        *,
        clock: Callable[[], datetime],
        tell: Tell,
        connect: Connect = connect_tcp,
        policy: NodePolicy = DEFAULT,
        may_act: Callable[[], bool] = lambda: True,
    ) -> None:
        """`may_act` False: another replica gives the engine its orders; this one only judges, for its own routes."""
        self._may_act = may_act
        self._engine = engine
        self._routers = routers
        self._clock = clock
        self._policy = policy
        self._prober = Prober(policy, clock, connect)
        self._events = NodeEvents(store, tell)
        self._telling = asyncio.Lock()
        self._led = False  # whether the events were read since this replica gives the orders
        self._nodes: dict[str, Node] = {}
        self._instances: dict[str, list[Instance]] = {}
        self._renewed: dict[str, datetime] = {}  # when a node's renewal was heard of
        self._hurry = asyncio.Event()
        self._answered_at: datetime | None = None  # the engine
        self._judged_at: datetime | None = None
        self._watchers: set[_Watcher] = set()
        self.verdicts = NodeVerdicts()

    def overlay(self, observation: Observation) -> Observation:
        """Return the observation with every node's and instance's state as the verdicts have it."""
        self._take(observation)
        return overlay(observation, self.verdicts)

    async def watch(self) -> AsyncIterator[str]:
        """Yield the names of apps with instances on nodes whose verdict changed ("" for all apps)."""
        watcher = _Watcher()
        self._watchers.add(watcher)
        try:
            while True:
                yield await watcher.next()
        finally:
            self._watchers.discard(watcher)

    async def run(self) -> None:
        """Watch the nodes until cancelled."""
        await self._load()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._observe(), name="observe-nodes")
                group.create_task(self._probe(), name="probe-nodes")
        finally:
            await self._prober.close()

    async def _load(self) -> None:
        while True:
            try:
                await self._events.load()
            except StoreError as error:
                log.warning("the store does not answer", error=str(error))
                await asyncio.sleep(1)
            else:
                self.verdicts = NodeVerdicts(outage=self._events.outage)
                return

    async def _observe(self) -> None:
        """Look at the engine from time to time, more often while a node is silent."""
        while True:
            try:
                async with asyncio.timeout(OBSERVE_LIMIT):
                    self._take(await self._engine.observe())
                await self._settle_holds()
            except (EngineError, TimeoutError) as error:
                log.debug("the engine does not answer", error=str(error))
            await self._tell_news()
            is_open = (
                self._prober.overdue
                or self._events.is_anyone_away
                or any(v.state is not NodeState.WELL for v in self.verdicts.nodes.values())
            )
            self._hurry.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(OPEN_INTERVAL if is_open else OBSERVE_INTERVAL):
                    await self._hurry.wait()

    def _take(self, observation: Observation) -> None:
        self._answered_at = self._clock()
        before, now = self._nodes, self._answered_at
        self._nodes = {node.name: node for node in observation.nodes if node.agent_port}
        self._prober.set_targets({node.name: (node.address, node.agent_port) for node in self._nodes.values()})
        for name, node in self._nodes.items():
            if name in before and node.renewed_at != before[name].renewed_at:
                self._renewed[name] = now  # by this clock: the node's own may be wrong
        found: dict[str, list[Instance]] = {}
        for instance in observation.instances:
            found.setdefault(instance.node, []).append(instance)
        self._instances = found

    async def _probe(self) -> None:
        """Send probes, and judge whenever one is overdue or a verdict may change by time alone."""
        while True:
            overdue = bool(self._prober.overdue)
            await asyncio.sleep(self._prober.send_due())
            if self._prober.overdue and not overdue:  # what was heard before the silence must not pass for life in it
                self._hurry.set()
            if self._is_due(self._clock()):
                await self._judge()

    def _is_due(self, now: datetime) -> bool:
        if self._judged_at is not None and (now - self._judged_at).total_seconds() < JUDGE_COST * len(self._nodes):
            return False
        return self.verdicts.nodes.keys() != self._nodes.keys() or is_due(self.verdicts, self._prober.overdue, now)

    async def _judge(self) -> None:
        now = self._judged_at = self._clock()
        before = self.verdicts
        verdicts = self._decide(now, api_alive=self._is_alive(now))
        lost = [name for name, verdict in verdicts.nodes.items() if _is_new(verdict, before.nodes.get(name))]
        if lost and not all(await asyncio.gather(*(self._hold(name, verdicts.nodes[name].why) for name in lost))):
            verdicts = self._decide(now, api_alive=False)
        self.verdicts = verdicts
        self._prober.hurried = {name for name, v in verdicts.nodes.items() if v.state is NodeState.SUSPECT}
        self._wake(before)
        await self._tell_news()

    async def _tell_news(self) -> None:
        """Tell what is not told yet. Not only with a verdict: the store may be away then, a leader may die before it
        has told, and a node that is well again by another's word is known only later.
        """
        async with self._telling:
            leads = self._may_act()
            try:
                if leads and not self._led:
                    await self._events.load()
                self._led = leads
                await self._events.note(self.verdicts, self._list_known(), self._clock())
            except StoreError as error:
                log.debug("the store does not answer: events of nodes wait", error=str(error))

    def _is_alive(self, now: datetime) -> bool:
        return self._answered_at is not None and now - self._answered_at < ALIVE_FOR

    def _decide(self, now: datetime, *, api_alive: bool) -> NodeVerdicts:
        facts = [self._gather(node) for node in self._nodes.values()]
        return decide_nodes(facts, now, api_alive=api_alive, outage=self.verdicts.outage, policy=self._policy)

    def _gather(self, node: Node) -> NodeFacts:
        history = self._events.of(node.name)
        probes = self._prober.probes[node.name]
        return NodeFacts(
            name=node.name,
            probes=probes,
            seen_at=self._find_seen(node.name) if probes.silent_since else None,
            renewed_at=self._renewed.get(node.name),
            losses=history.losses,
            lost_since=history.lost_since,
            before=self.verdicts.nodes.get(node.name) or NodeVerdict(back_at=history.back_at),
        )

    def _find_seen(self, node: str) -> datetime | None:
        """Return a moment at which an instance there certainly answered a router: the latest there is."""
        found: list[datetime] = []
        views = [view for view in self._routers.views() if view.connected]
        for instance in self._instances.get(node, ()):
            cluster = cluster_name(instance.key.app, instance.key.release)
            address = f"{instance.address}:{instance.port}"
            for view in views:
                if address in view.healthy.get(cluster, ()):
                    blind = min(self._routers.blind_time(cluster), 3600.0)
                    found.append(view.seen_at - timedelta(seconds=blind) - REPORT_MARGIN)
        return max(found, default=None)

    async def _hold(self, name: str, reason: str) -> bool:
        """Have nothing new placed on a node; return whether the engine took the order."""
        if not isinstance(self._engine, NodeControl) or not self._may_act():
            return True
        try:
            async with asyncio.timeout(HOLD_LIMIT):
                await self._engine.hold_node(name, reason)
        except (EngineError, TimeoutError) as error:
            log.warning("a node is silent, and the engine takes no orders", node=name, error=str(error))
            self._answered_at = None
            return False
        return True

    async def _settle_holds(self) -> None:
        """Hold what the verdicts say, and release what is held for no reason any more if it answers this process."""
        if not isinstance(self._engine, NodeControl) or not self._may_act():
            return
        known = self._list_known()
        for node in list(self._nodes.values()):
            verdict = self.verdicts.nodes.get(node.name, NodeVerdict())
            if verdict.hold and node.held != verdict.hold:
                await self._hold(node.name, verdict.hold)
            elif node.held and not verdict.hold and node.name in known:
                await self._engine.release_node(node.name)

    def _list_known(self) -> set[str]:
        """Return the nodes that have answered for a while without a gap."""
        long = timedelta(seconds=self._policy.back_after)
        known = set()
        for name, probes in self._prober.probes.items():
            if probes.answered_at and probes.answering_since and probes.answered_at - probes.answering_since >= long:
                known.add(name)
        return known

    def _wake(self, before: NodeVerdicts) -> None:
        """Tell the loop which apps see something else now."""
        apps: set[str] = {""} if before.outage != self.verdicts.outage else set()
        for name, verdict in self.verdicts.nodes.items():
            old = before.nodes.get(name, NodeVerdict())
            if (old.state, old.why) != (verdict.state, verdict.why):
                apps |= {instance.key.app for instance in self._instances.get(name, ())}
                log.info("node", node=name, state=verdict.state, why=verdict.why)
        for watcher in self._watchers:
            watcher.add(apps)


def _is_new(verdict: NodeVerdict, before: NodeVerdict | None) -> bool:
    return verdict.state is NodeState.LOST and (before is None or before.state is not NodeState.LOST)


class _Watcher:
    """Collects names until somebody takes them."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._wake = asyncio.Event()

    def add(self, names: set[str]) -> None:
        self._names |= names
        if self._names:
            self._wake.set()

    async def next(self) -> str:
        while not self._names:
            self._wake.clear()
            await self._wake.wait()
        return self._names.pop()

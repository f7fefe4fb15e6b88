"""NodeKeeper with the in-memory engine: what it tells engine, loop and users, and what it never does."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from seaway.control import nodes
from seaway.control.nodes import NodeKeeper
from seaway.control.observer import JudgedEngine, Observer
from seaway.control.probing import connect_tcp
from seaway.engine.base import Engine, EngineUnavailable
from seaway.engine.memory import MemoryEngine
from seaway.health.decide import decide_nodes
from seaway.health.facts import NodeFacts, NodePolicy, NodeVerdicts
from seaway.model import Event, EventSpec, InstanceState, NodeState, Observation
from seaway.router.base import RouterView
from seaway.store.base import Unavailable
from seaway.store.events import record_event
from seaway.store.memory import MemoryStore
from tests.contract.engine_kit import make_workload
from tests.pace import Stopwatch

FAST = NodePolicy(
    interval=0.2,
    hurry_after=0.05,
    hurry_interval=0.02,
    suspect_patience=0.1,
    lost_patience=0.2,
    back_after=0.5,
    renewal_margin=0.4,
    router_memory=1.5,
)


def utc_now() -> datetime:
    return datetime.now(UTC)


class Lab:
    """Three nodes; `down` ones answer no probe. A new keeper is a restart of the control plane."""

    def __init__(self) -> None:
        self.engine = MemoryEngine(auto=True, nodes=("n1", "n2", "n3"))
        self.store = MemoryStore()
        self.down: set[str] = set()
        self.probes: Counter[str] = Counter()  # sent so far, by address
        self.ripe: Counter[str] = Counter()  # decisions about a node whose probes say that it is lost, by name
        self.looks = 0  # at the engine
        self.healthy: dict[str, set[str]] = {}
        self._task: asyncio.Task[None] | None = None
        self.policy = FAST
        self.store_fails, self.leads = False, True
        self._observe, self.engine.observe = self.engine.observe, self.observe  # type: ignore[method-assign]
        for name, node in self.engine.nodes.items():
            self.engine.nodes[name] = node.model_copy(update={"address": name})

    def views(self) -> tuple[RouterView, ...]:
        return (RouterView("router-0", connected=True, seen_at=utc_now(), healthy=self.healthy),)

    def blind_time(self, cluster: str) -> float:
        return 0.5

    async def connect(self, address: str, port: int, timeout: float) -> bool:
        self.probes[address] += 1
        if address in self.down:
            await asyncio.sleep(timeout)
        return address not in self.down

    async def observe(self) -> Observation:
        self.looks += 1
        return await self._observe()

    def decide(self, facts: Sequence[NodeFacts], now: datetime, *, policy: NodePolicy, **more: Any) -> NodeVerdicts:
        verdicts = decide_nodes(facts, now, policy=policy, **more)
        self.ripe.update(
            node.name for node in facts if node.probes.count_lost(now, policy.lost_patience) >= policy.lost_probes
        )
        return verdicts

    async def tell(self, event: EventSpec, team: str) -> None:
        if self.store_fails:
            raise Unavailable("it is away")
        if self.leads:
            await record_event(self.store, about=event.about, reason=event.reason, message=event.message, at=event.at)

    async def start(self) -> None:
        self.keeper = NodeKeeper(
            self.engine,
            self,
            self.store,
            clock=utc_now,
            tell=self.tell,
            connect=self.connect,
            policy=self.policy,
            may_act=lambda: self.leads,
        )
        self._task = asyncio.create_task(self.keeper.run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def until(self, condition: Callable[[], object], seconds: float = 10) -> float:
        begun = Stopwatch()
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.02)
        return begun.took()

    async def until_told(self, reasons: list[str]) -> None:
        """Wait for these events, and for no other however often the keeper looks whether there is one to tell."""
        async with asyncio.timeout(10):
            while await self.events() != reasons:
                await asyncio.sleep(0.02)
        await self.until_looked()
        assert await self.events() == reasons

    async def until_looked(self) -> None:
        """Wait until the keeper has looked twice, and told what there was to tell."""
        before = self.looks
        await self.until(lambda: self.looks >= before + 3)  # it tells after a look

    async def until_ripe(self, name: str) -> None:
        """Wait until a node was judged again and again though its probes say that it is lost."""
        self.ripe.clear()
        await self.until(lambda: self.ripe[name] >= 5)

    def state(self, name: str) -> NodeState | None:
        verdict = self.keeper.verdicts.nodes.get(name)
        return verdict.state if verdict else None

    async def events(self) -> list[str]:
        return [e.spec.reason for e in sorted((await self.store.list(Event)).documents, key=lambda e: e.name)]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the engine more often than once in a second."""
    for name in ("OBSERVE_INTERVAL", "OPEN_INTERVAL"):
        monkeypatch.setattr(nodes, name, 0.05)


@pytest_asyncio.fixture
async def lab(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    lab = Lab()
    monkeypatch.setattr(nodes, "decide_nodes", lab.decide)
    await lab.start()
    await lab.until(lambda: len(lab.keeper.verdicts.nodes) == 3)
    yield lab
    await lab.stop()


async def test_a_lost_node_is_held_told_and_laid_over_what_is_observed(lab: Lab) -> None:
    """Nothing new lands there, its instances are LOST, the loop hears of the app; all is undone when it is back."""
    await lab.engine.apply(make_workload("serve", count=3))
    observer = Observer(lab.engine, lab.keeper.overlay)
    shown: Engine = JudgedEngine(lab.engine, lab.keeper.overlay)
    for _ in range(4):
        await observer.observe()
    changes = lab.keeper.watch()
    heard = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0)
    lab.down.add("n2")
    await lab.until(lambda: lab.state("n2") is NodeState.SUSPECT)
    assert await asyncio.wait_for(heard, 10) == "shop"
    seen = next(i for i in (await observer.observe()).instances if i.node == "n2")
    assert (seen.state, seen.serving, seen.node_state) == (InstanceState.RUNNING, True, NodeState.SUSPECT)
    await lab.until(lambda: lab.state("n2") is NodeState.LOST)
    seen = next(i for i in (await observer.observe()).instances if i.node == "n2")
    assert (seen.state, seen.serving) == (InstanceState.LOST, False)
    assert "does not answer since" in seen.reason
    assert [node.ready for node in (await shown.observe()).nodes] == [True, False, True]
    assert lab.engine.nodes["n2"].held == seen.reason
    lab.down.clear()
    await lab.until(lambda: not lab.engine.nodes["n2"].held, 15)
    assert all(i.serving for i in (await observer.observe()).instances)
    assert await lab.events() == ["NodeLost", "NodeBack"]
    await changes.aclose()  # type: ignore[attr-defined]


async def test_the_times_that_are_promised(lab: Lab) -> None:
    """With the policy as shipped, by the real clock: suspect within 2 s, lost within 5 s of the cut."""
    await lab.stop()
    lab.policy = NodePolicy()
    await lab.start()
    await asyncio.sleep(1)
    lab.down.add("n2")
    suspect = await lab.until(lambda: lab.state("n2") is NodeState.SUSPECT)
    assert suspect < 2
    assert suspect + await lab.until(lambda: lab.state("n2") is NodeState.LOST) < 5


async def test_no_orders_no_verdict(lab: Lab) -> None:
    """While the engine takes no orders nobody is lost; once it does again, the silent node is."""
    lab.down.add("n1")
    lab.engine.available = False
    await lab.until(lambda: lab.state("n1") is NodeState.SUSPECT)
    await lab.until_ripe("n1")
    assert lab.state("n1") is NodeState.SUSPECT
    lab.engine.available = True
    await lab.until(lambda: lab.state("n1") is NodeState.LOST)


async def test_an_order_that_fails_makes_no_verdict(lab: Lab) -> None:
    """What the engine shows may come from its memory; that it takes an order cannot."""
    tried = 0

    async def refuse(name: str, reason: str) -> None:
        nonlocal tried
        tried += 1
        raise EngineUnavailable("stalled")

    lab.engine.hold_node = refuse  # type: ignore[method-assign]
    lab.down.add("n1")
    await lab.until(lambda: tried >= 2)
    assert lab.state("n1") is NodeState.SUSPECT
    assert await lab.events() == []


async def test_a_router_that_sees_an_instance_healthy_vetoes(lab: Lab) -> None:
    """The control plane reaches the node no more, a router does: suspect, not lost."""
    await lab.engine.apply(make_workload("serve", count=3))
    observer = Observer(lab.engine, lab.keeper.overlay)
    for _ in range(4):
        seen = await observer.observe()
    there = next(i for i in seen.instances if i.node == "n1")
    lab.healthy = {"shop:v1": {f"{there.address}:{there.port}"}}
    lab.down.add("n1")
    await lab.until(lambda: "a router reaches" in lab.keeper.verdicts.nodes["n1"].why)
    await lab.until_ripe("n1")
    assert lab.state("n1") is NodeState.SUSPECT
    lab.healthy = {}
    await lab.until(lambda: lab.state("n1") is NodeState.LOST)


async def test_a_node_that_renews_its_lease_is_not_lost(quick: None, lab: Lab) -> None:
    """Whatever its own clock says: what counts is that the engine hears of something new."""
    lab.down.add("n1")
    renewed = datetime(2000, 1, 1, tzinfo=UTC)

    def renew() -> bool:
        nonlocal renewed
        renewed += timedelta(hours=1)
        lab.engine.nodes["n1"] = lab.engine.nodes["n1"].model_copy(update={"renewed_at": renewed})
        return lab.ripe["n1"] >= 5

    await lab.until(renew)
    assert lab.state("n1") is NodeState.SUSPECT
    assert "still renews its lease" in lab.keeper.verdicts.nodes["n1"].why
    assert await lab.events() == []


async def test_a_restart_tells_nothing_twice_and_believes_nothing_unseen(lab: Lab) -> None:
    """A node that was lost before stays held until this process has seen it answer; its loss is told once."""
    lab.down.add("n3")
    await lab.until(lambda: lab.state("n3") is NodeState.LOST)
    await lab.stop()
    lab.probes.clear()
    await lab.start()
    await lab.until(lambda: len(lab.keeper.verdicts.nodes) == 3)
    assert lab.state("n3") is NodeState.WELL
    while lab.state("n3") is not NodeState.LOST:
        assert lab.engine.nodes["n3"].held
        await asyncio.sleep(0.01)
    assert lab.probes["n3"] >= FAST.lost_probes
    assert lab.engine.nodes["n3"].held
    lab.down.clear()
    await lab.until(lambda: not lab.engine.nodes["n3"].held, 15)
    assert await lab.events() == ["NodeLost", "NodeBack"]


async def test_a_node_that_is_back_by_its_lease_is_told_too(quick: None, lab: Lab) -> None:
    """It is well by that before its own answers are enough to call it back; those come without another verdict."""
    lab.down.add("n3")
    await lab.until(lambda: lab.state("n3") is NodeState.LOST)
    lab.engine.nodes["n3"] = lab.engine.nodes["n3"].model_copy(update={"renewed_at": utc_now()})
    await lab.until(lambda: lab.state("n3") is NodeState.SUSPECT)
    lab.down.clear()
    await lab.until(lambda: lab.state("n3") is NodeState.WELL)
    await lab.until_told(["NodeLost", "NodeBack"])


async def test_what_was_not_told_in_time_is_told_later(quick: None, lab: Lab) -> None:
    """The store is away when a node is lost; the control plane is, when it returns."""
    lab.store_fails = True
    lab.down.add("n3")
    await lab.until(lambda: lab.state("n3") is NodeState.LOST)
    assert await lab.events() == []
    lab.store_fails = False
    await lab.until_told(["NodeLost"])
    await lab.stop()
    lab.down.clear()
    await lab.start()
    await lab.until_told(["NodeLost", "NodeBack"])


async def test_who_takes_over_tells_what_the_leader_did_not_come_to(quick: None, lab: Lab) -> None:
    """A replica sees the same as the leader and tells nothing; what is missing when it leads, it tells."""
    lab.leads = False
    lab.down.add("n3")
    await lab.until(lambda: lab.state("n3") is NodeState.LOST)
    await lab.until_looked()
    assert await lab.events() == []
    lab.leads = True
    await lab.until_told(["NodeLost"])


async def test_an_outage_is_told_once_and_when_it_is_over(lab: Lab) -> None:
    """Also across a restart in the middle: it is not over because the new process has seen nothing yet."""
    lab.down |= {"n1", "n2"}
    await lab.until(lambda: lab.keeper.verdicts.outage)
    await lab.stop()
    await lab.start()
    await lab.until(lambda: lab.state("n1") is NodeState.LOST)
    assert lab.keeper.verdicts.outage
    lab.down.clear()
    await lab.until(lambda: not lab.keeper.verdicts.outage)
    told = await lab.events()
    assert [reason for reason in told if reason.startswith("Replacements")] == [
        "ReplacementsStopped",
        "ReplacementsResumed",
    ]


async def test_a_flapping_node_is_held_and_told(lab: Lab) -> None:
    """Its third loss within an hour, as events tell: it stays held after its return."""
    for ago in (600, 300):
        for reason, later in (("NodeLost", 0), ("NodeBack", 60)):
            at = utc_now() - timedelta(seconds=ago - later)
            await record_event(lab.store, about="node n1", reason=reason, message="before", at=at)
    await lab.stop()
    await lab.start()
    lab.down.add("n1")
    await lab.until(lambda: lab.state("n1") is NodeState.LOST)
    lab.down.clear()
    await lab.until(lambda: lab.state("n1") is NodeState.HELD)
    await lab.until(lambda: "too often" in lab.engine.nodes["n1"].held)
    assert (await lab.events())[4:] == ["NodeLost", "NodeBack", "NodeHeld"]


async def test_a_refusal_is_an_answer_and_silence_is_none() -> None:
    """By real sockets: a listening port, a closed one, and one whose queue is full, so that SYNs get no answer."""
    with socket.socket() as server, socket.socket() as first, socket.socket() as second:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port = server.getsockname()[1]
        assert await connect_tcp("127.0.0.1", port, 1.0)
        server.accept()[0].close()
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        assert not await connect_tcp("127.0.0.1", port, 0.3)
        server.close()
        assert await connect_tcp("127.0.0.1", port, 1.0)

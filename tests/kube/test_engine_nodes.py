"""Instances while nodes are drained and lost, and while somebody meddles, on the real cluster."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from seaway.engine.base import EngineUnavailable
from seaway.model import InstanceState
from tests.contract.engine_kit import eventually
from tests.kube.engine_kit import POD_GONE, KubernetesKit
from tests.kube.lab.machine import cable, command

S = InstanceState
pytestmark = pytest.mark.timeout(240)


async def test_drain(engine_kit: KubernetesKit) -> None:
    """`kubectl drain` takes the instances of a node one at a time; others serve on, new ones come elsewhere."""
    await engine_kit.engine.apply(engine_kit.workload("serve", count=3))
    before = await engine_kit.await_serving(3)
    assert len({i.node for i in before}) == 3  # spread
    node = before[0].node
    fewest: list[int] = []

    async def count() -> None:
        while True:
            fewest.append(sum(i.serving for i in await engine_kit.list_living()))
            await asyncio.sleep(0.05)

    counting = asyncio.create_task(count())
    words = ("drain", node, "--pod-selector=seaway.dev/team", "--delete-emptydir-data", f"--timeout={POD_GONE:g}s")
    try:
        await engine_kit.kubectl(*words, namespace="", timeout=POD_GONE + 10)
        after = await engine_kit.await_serving(3)
    finally:
        counting.cancel()
        await engine_kit.kubectl("uncordon", node, namespace="")
    assert {i.id for i in before[1:]} <= {i.id for i in after}
    assert node not in {i.node for i in after}
    assert min(fewest) >= 2
    told = await engine_kit.await_told("InstanceDeleted")
    assert told.about == f"instance {before[0].id}"


async def test_a_held_node_gets_nothing_new(engine_kit: KubernetesKit) -> None:
    """Not even when the others are cordoned; the sentence says so."""
    for name in ("node1", "node2", "node3"):
        await engine_kit.engine.hold_node(name, "it flaps")
    try:
        await engine_kit.engine.apply(engine_kit.workload("serve"))
        seen = await engine_kit.await_instance(S.PENDING, "no node takes it (0 of 3)")
        assert seen.reason.endswith("; 3 held back by Seaway")
        assert {n.held for n in (await engine_kit.engine.observe()).nodes} == {"it flaps"}
    finally:
        for name in ("node1", "node2", "node3"):
            await engine_kit.engine.release_node(name)
    await engine_kit.await_serving(1)


async def test_scaled_by_hand(engine_kit: KubernetesKit) -> None:
    """More pods than wanted are no reason to stop any: they are left for the control loop to drain."""
    workload = engine_kit.workload("serve")
    await engine_kit.engine.apply(workload)
    await engine_kit.await_serving(1)
    await engine_kit.kubectl("scale", "rs/shop-v1-web", "--replicas=2")
    both = await engine_kit.await_serving(2)
    assert (await engine_kit.engine.observe()).workloads == ()
    await engine_kit.engine.apply(workload)
    assert (await engine_kit.engine.observe()).workloads == (workload,)
    assert {i.id for i in await engine_kit.await_serving(2)} == {i.id for i in both}
    spare = both[1].id
    await engine_kit.engine.apply(workload.model_copy(update={"retire": (spare,)}))
    assert [i.id for i in await engine_kit.await_serving(1)] == [both[0].id]


async def test_orphans_are_taken_in(engine_kit: KubernetesKit) -> None:
    """A ReplicaSet deleted alone leaves its pods: they serve on, are taken in, and are retired one by one."""
    workload = engine_kit.workload("serve", count=2)
    await engine_kit.engine.apply(workload)
    both = await engine_kit.await_serving(2)
    await engine_kit.kubectl("delete", "rs/shop-v1-web", "--cascade=orphan")

    async def seen() -> bool:
        return (await engine_kit.engine.observe()).workloads == ()

    await eventually(seen, 20)
    smaller = workload.model_copy(update={"count": 1, "retire": (both[0].id,)})

    async def taken_in() -> bool:
        with suppress(EngineUnavailable):  # the old one is not gone yet; the control loop tries again, too
            await engine_kit.engine.apply(smaller)
        return smaller in (await engine_kit.engine.observe()).workloads

    await eventually(taken_in, 30)
    assert [i.id for i in await engine_kit.await_serving(1)] == [both[1].id]


async def test_the_retired_one_stops_and_no_other(engine_kit: KubernetesKit) -> None:
    """Five times over: the oldest, which a ReplicaSet's controller would spare, and nothing that serves besides."""
    count = 5
    await engine_kit.engine.apply(engine_kit.workload("serve", count=count))
    living = sorted(await engine_kit.await_serving(count, 90), key=lambda i: (i.created_at, i.id))
    retired: list[str] = []
    while count > 1:
        victim = living.pop(0)
        retired.append(victim.id)
        count -= 1
        await engine_kit.engine.apply(engine_kit.workload("serve", count=count, retire=tuple(sorted(retired))))
        left = await engine_kit.await_serving(count)
        assert {i.id for i in left} == {i.id for i in living}


async def test_a_node_vanishes(engine_kit: KubernetesKit) -> None:
    """One of its instances that is retired is replaced elsewhere at once, and goes when the node is back."""
    if not engine_kit.cluster.lab:
        pytest.skip("nodes vanish in the project's own test cluster only")
    workload = engine_kit.workload("serve", count=2)
    await engine_kit.engine.apply(workload)
    lost, second = await engine_kit.await_serving(2)

    async def unready() -> bool:
        seen = await engine_kit.engine.observe()
        return any(node.name == lost.node and not node.ready for node in seen.nodes)

    await asyncio.to_thread(command, "ip", "link", "set", cable(lost.node), "down")
    try:
        await eventually(unready, 60)
        assert lost.id in {i.id for i in (await engine_kit.engine.observe()).instances if i.state is not S.LOST}
        await engine_kit.engine.apply(workload.model_copy(update={"retire": (lost.id,)}))
        after = await engine_kit.await_serving(2)
        assert lost.id not in {i.id for i in after}
        assert second.id in {i.id for i in after}
        assert lost.node not in {i.node for i in after}
        stopping = await engine_kit.await_instance(S.STOPPING)
        assert stopping.id == lost.id
    finally:
        await asyncio.to_thread(command, "ip", "link", "set", cable(lost.node), "up")

    async def gone() -> bool:
        seen = await engine_kit.engine.observe()
        left = {i.id for i in seen.instances if i.state is not S.STOPPED}
        return lost.id not in left and all(node.ready for node in seen.nodes)

    await eventually(gone, 90)
    assert {i.id for i in await engine_kit.await_serving(2)} == {i.id for i in after}

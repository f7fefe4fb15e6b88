"""A real router when nodes are in doubt, and when one vanishes under load: packets just get no answer any more."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from seaway.model import Check, Health, Instance, Meta, NodeState, Process, Release, ReleaseSpec
from seaway.router.envoy import DEAD_AFTER, find_blind_time
from tests.contract.node_lab import NodeNet, OpenLoad, needs_namespaces, start_nodes
from tests.contract.router_lab import Lab, make_app, make_instance
from tests.pace import Stopwatch


@pytest_asyncio.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    lab = Lab(tmp_path)
    try:
        await lab.start_plane()
        yield lab
    finally:
        await lab.close()


async def start(lab: Lab, instances: list[Instance]) -> None:
    """Publish the app, start a router, and wait until it sees every instance healthy."""
    lab.set_app(make_app("shop", {1: 100}), *instances)
    lab.plane.open()
    await lab.start_router("r1")
    await lab.until_acked("shop")
    await lab.until_healthy("shop:v1", len(instances))


def suspect(instance: Instance) -> Instance:
    return instance.model_copy(update={"node_state": NodeState.SUSPECT})


async def ask(lab: Lab, count: int) -> Counter[str]:
    """Ask on several connections at a time; return who answered how often."""
    answers = await asyncio.gather(*(lab.get("shop.localhost") for _ in range(count)))
    assert {status for status, _ in answers} <= {200}
    return Counter(label for _, label in answers)


async def test_suspect_instances_are_used_only_while_no_other_is_healthy(lab: Lab) -> None:
    """One of three is well: it gets every request. It dies: the suspect ones serve. All are well: all do."""
    backends = [await lab.start_backend(label) for label in ("well", "doubt", "doubt2")]
    well, *rest = [make_instance("shop", 1, backend.port) for backend in backends]
    await start(lab, [well, *rest])
    assert set(await ask(lab, 300)) == {"well", "doubt", "doubt2"}
    lab.set_app(make_app("shop", {1: 100}), well, *map(suspect, rest))
    await lab.until_acked("shop")
    await asyncio.sleep(0.2)  # from Envoy's main thread to its workers
    assert await ask(lab, 1000) == {"well": 1000}
    await backends[0].stop()
    await lab.until_healthy("shop:v1", 2)
    assert set(await ask(lab, 300)) == {"doubt", "doubt2"}


def on(node: NodeNet) -> Instance:
    return make_instance("shop", 1, 8080).model_copy(update={"id": node.label, "address": node.address})


@needs_namespaces
@pytest.mark.parametrize("check", [None, Check(http="/")], ids=["tcp", "http"])
async def test_a_vanished_node_costs_only_what_was_in_flight_on_it(lab: Lab, check: Check | None) -> None:
    """Open-loop load, a link cut, a control plane that does nothing: every answer is counted.

    No GET fails. A POST fails only if it was written to a connection of the dead node: at the time of the cut, or in
    the moment until the router noticed. From 1 s on nobody waits for the dead node any more.
    """
    spec = ReleaseSpec(app="shop", number=1, processes={"web": Process(command="web", health=Health(readiness=check))})
    lab.releases["shop"] = {1: Release(meta=Meta(name="shop.v1"), spec=spec)}
    async with start_nodes(3) as nodes:
        await start(lab, [on(node) for node in nodes])
        load = OpenLoad(lab.settings.http_port)
        await asyncio.sleep(3)
        assert set(load.last_second()) == {"n0", "n1", "n2"}
        nodes[0].cut()
        cut = time.monotonic()
        await lab.until_healthy("shop:v1", 2)
        noticed = time.monotonic() - cut
        await asyncio.sleep(3)
        answers = await load.stop()
    bad = [answer for answer in answers if answer.status != 200]
    assert all(answer.method == "POST" and answer.sent < cut + 1 and answer.status == 502 for answer in bad)
    assert len(bad) <= 10
    assert not any(answer.label == "n0" and answer.sent > cut for answer in answers)
    assert max(answer.done - answer.sent for answer in answers) < DEAD_AFTER + 3
    late = [answer.done - answer.sent for answer in answers if answer.sent > cut + 1]
    assert sum(wait > 0.4 for wait in late) < len(late) / 50
    assert noticed < find_blind_time(check) + 0.5


@needs_namespaces
async def test_a_vanished_node_is_out_within_two_seconds(lab: Lab) -> None:
    """By the router's own checks, without any load that would show it; it is back soon after its link is."""
    async with start_nodes(2) as nodes:
        await start(lab, [on(node) for node in nodes])
        for _ in range(3):
            nodes[0].cut()
            cut = Stopwatch(lab.routers["r1"].pid, *lab.envoys("r1"))
            await lab.until_healthy("shop:v1", 1)
            assert cut.took() < 2.2
            nodes[0].mend()
            await lab.until_healthy("shop:v1", 2)


async def note_healthy(lab: Lab, seen: set[int]) -> None:
    """Note every number of healthy instances that the router reports."""
    async for _ in lab.plane.watch():
        seen.add(len(lab.plane.views()[0].healthy.get("shop:v1", ())))


@needs_namespaces
async def test_a_slow_app_is_no_dead_node(lab: Lab) -> None:
    """An app that takes 4 s, and one that can't even accept for 2 s at a time, stay in rotation; no request fails."""
    async with start_nodes(2) as nodes:
        await start(lab, [on(node) for node in nodes])
        seen = {2}
        watching = asyncio.create_task(note_healthy(lab, seen))
        slow = OpenLoad(lab.settings.http_port, rate=10, path="/?seconds=4")
        blocking = OpenLoad(lab.settings.http_port, rate=1, path="/?block=0.9")
        await asyncio.sleep(8)
        answers = [*await slow.stop(), *await blocking.stop()]
    assert {answer.status for answer in answers} == {200}
    watching.cancel()
    assert seen == {2}

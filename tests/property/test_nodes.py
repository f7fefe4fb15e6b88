"""Seeded schedules in which nodes vanish and return: the laws of rollouts hold, and those of nodes.

SEAWAY_SCHEDULES sets how many are run.
"""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from seaway.control.reconcile import Reconciler
from seaway.model import App, AppSpec, InstanceState, Meta, NodeState, Rollout, WorkloadKey
from seaway.rollout.decide import decide
from seaway.rollout.releases import ImageChange
from seaway.store.base import Conflict
from tests.property.test_rollouts import NAME, SCHEDULES, STEPS, act_as_user, is_quiet, make_manifest, release, run_pass
from tests.property.world import Crash, CrashingStore
from tests.property.world_nodes import NodeWorld

NODE_SCHEDULES = max(20, (SCHEDULES - 60) // 3)  # one costs three times what one of rollouts alone does
CALM_LIMIT = 700  # seconds until all is at rest in a calm world, and as many again for each rollout still to end


class Rotation:
    """Watches that instances that answer leave the routers' rotation for nothing but the death of their node."""

    def __init__(self, world: NodeWorld) -> None:
        self._world = world
        self._before = {router.name: self._look(router.name) for router in world.routers}

    def _look(self, name: str) -> set[str]:
        router = next(router for router in self._world.routers if router.name == name)
        return self._world.list_serving(router.applied, router.checked)

    def check(self) -> None:
        world = self._world
        for name, before in self._before.items():
            now = self._look(name)
            router = next(router for router in world.routers if router.name == name)
            died = any(world.was_down(world.seen[i].node) for i in before | router.applied.rotation())
            if before and not now and not died:
                world.violations.append(f"{name} has nothing in rotation any more, and no node died")
            self._before[name] = now


async def note_wishes(store: CrashingStore, world: NodeWorld) -> None:
    """Tell the world what users asked for: how many, and whether to go on all the same."""
    world.scale = (await store.get(App, NAME)).spec.scale
    rollouts = (await store.list(Rollout)).documents
    world.promoted = world.promoted or any(rollout.spec.promote for rollout in rollouts)


async def run_schedule(seed: int, *, hostile: bool) -> NodeWorld:
    """Play one schedule to its end and check the laws."""
    world = NodeWorld(seed, hostile=hostile)
    store = CrashingStore(world)
    world.calm = True
    await store.create(App(meta=Meta(name=NAME), spec=AppSpec(scale={"web": world.dice.choice([1, 2, 3])})))
    await release(store, world, ImageChange("sha256:" + "0" * 64, make_manifest(world)))
    world.calm = False
    rotation, served = Rotation(world), False
    for _ in range(STEPS):
        with contextlib.suppress(Crash, Conflict):
            if world.chance(0.08):
                await act_as_user(store, world)
        await note_wishes(store, world)
        for _ in range(world.dice.randrange(1, 3)):
            await run_pass(store, world)
        world.step()
        served = served or (await store.get(App, NAME)).status.state == "serving"
        if served and not hostile and not world.exclusive:
            rotation.check()
        assert not world.violations, f"seed {seed}: {world.violations}"
    await settle(store, world, seed)
    return world


async def settle(store: CrashingStore, world: NodeWorld, seed: int) -> None:
    """Calm the world, with a node down for good if two more are left: it comes to rest, and all that can run does."""
    world.calm = True
    for rollout in (await store.list(Rollout)).documents:
        if rollout.spec.paused and not rollout.ended:
            await store.update(rollout.model_copy(update={"spec": rollout.spec.model_copy(update={"paused": False})}))
    names = list(world.lab.nodes)
    keep_down = {names[0]} if len(names) >= 3 and not world.lab.nodes[names[0]].up else set()
    for name in names:
        if not world.lab.nodes[name].up and name not in keep_down:
            world.mend(name)
    under_way = sum(not rollout.ended for rollout in (await store.list(Rollout)).documents)
    for quiet in range(CALM_LIMIT * (1 + under_way)):
        await run_pass(store, world)
        world.step()
        if quiet > 12 and not world.is_moving() and await is_quiet(store, world):
            break
    app = await store.get(App, NAME)
    facts, _ = await Reconciler(store, world, world, clock=lambda: world.now, tell=world.tell)._load(app)
    open_ones = [(r.name, r.status.phase, r.status.reason) for r in facts.rollouts if not r.ended]
    assert not open_ones, f"seed {seed}: {open_ones}"
    plan = decide(facts)
    assert plan.empty, f"seed {seed}: {plan}"
    assert not world.violations, f"seed {seed}: {world.violations}"
    check_replaced(world, app, facts.releases[app.status.current].processes if app.status.current else (), seed)


def check_replaced(world: NodeWorld, app: App, processes: object, seed: int) -> None:
    """What a dead node took with it runs elsewhere, unless it must not run twice: that is told."""
    current = app.status.current
    if current is None or current in world.bad_releases | world.stuck_releases | world.exclusive_releases:
        return
    assert not world.lab.verdicts.outage, f"seed {seed}: {world.lab.verdicts.outage}"
    for process in processes:  # type: ignore[attr-defined]
        key = WorkloadKey(app=NAME, release=current, process=process)
        serving = [i for i in world.instances.values() if i.key == key and world.answers(i)]
        if world.has_doubtful(key) and len(serving) < app.spec.scale.get(process, 1):
            assert "may still run there" in app.status.reason, f"seed {seed}: {app.status.reason}"
            continue
        assert len(serving) == app.spec.scale.get(process, 1), f"seed {seed}: {process}: {serving}"
    living = [i for i in world.instances.values() if i.state not in (InstanceState.STOPPING, InstanceState.STOPPED)]
    assert all(world.lab.state(i.node) is not NodeState.LOST for i in living), f"seed {seed}"


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("hostile", [False, True], ids=["orderly", "hostile"])
def test_schedules(hostile: bool) -> None:
    """Nodes vanish, return and flap, the API stalls, packets get lost, users deploy: the laws hold throughout."""
    lost = 0
    for seed in range(NODE_SCHEDULES):
        lost += any(asyncio.run(run_schedule(seed, hostile=hostile)).lost_count.values())
    assert lost > NODE_SCHEDULES // 5, "hardly a schedule has lost a node: it proves nothing"

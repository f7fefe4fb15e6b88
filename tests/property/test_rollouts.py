"""Thousands of seeded schedules through the real reconciler: whatever happens, the laws hold.

SEAWAY_SCHEDULES sets how many are run (the quick checks run fewer than `make test`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from typing import Any

import pytest

from seaway.control.reconcile import Reconciler
from seaway.model import (
    App,
    AppSpec,
    BuildManifest,
    Health,
    Meta,
    Phase,
    Process,
    Release,
    Rollout,
    RolloutPolicy,
    Strategy,
)
from seaway.rollout.decide import decide
from seaway.rollout.releases import (
    Change,
    ConfigChange,
    ImageChange,
    ReleaseRefused,
    Restart,
    Rollback,
    compose_release,
)
from seaway.store.base import AlreadyExists, Conflict, NotFound
from tests.depth import choose
from tests.property.world import Crash, CrashingStore, World

SCHEDULES = int(os.environ.get("SEAWAY_SCHEDULES", choose("120", "3000")))
STEPS = 60
NAME = "shop"
DRAINS = (0, 6, 200)  # seconds; the default is 30


def make_manifest(world: World) -> BuildManifest:
    """An app of one or two processes, sometimes with a release command, sometimes `recreate`."""
    processes = {"web": Process(command="web", health=Health())}
    if world.chance(0.4):
        processes["worker"] = Process(command="worker")
    strategy = Strategy.RECREATE if world.exclusive and world.chance(0.4) else Strategy.BLUE_GREEN
    policy = RolloutPolicy(
        strategy=strategy, start_timeout=20, router_timeout=20, keep=5, drain=world.dice.choice(DRAINS)
    )
    return BuildManifest(
        processes=processes,
        scale=dict.fromkeys(processes, 1),
        release_command="migrate" if world.chance(0.2) else None,
        rollout=policy,
    )


async def release(store: CrashingStore, world: World, change: Change) -> None:
    """Do what the API does to make a release."""
    app = await store.get(App, NAME)
    releases = (await store.list(Release, {"app": NAME})).documents
    rollouts = (await store.list(Rollout, {"app": NAME})).documents
    try:
        document = compose_release(app, releases, rollouts, change, "test")
        if world.chance(0.2):
            world.dice.choice([world.bad_releases, world.stuck_releases]).add(document.spec.number)
        await store.create(document)
        if document.spec.rollout.strategy is Strategy.RECREATE:
            world.exclusive_releases.add(document.spec.number)
    except (ReleaseRefused, AlreadyExists):
        pass


async def act_as_user(store: CrashingStore, world: World) -> None:
    """Do one thing a user might do now."""
    what = world.dice.randrange(8)
    number = world.dice.randrange(1000)
    if what <= 1:
        await release(store, world, ImageChange(f"sha256:{number:064d}", make_manifest(world)))
    elif what == 2:
        await release(store, world, ConfigChange({"KEY": str(number)}))
    elif what == 3:
        await release(store, world, Rollback() if number % 2 else Restart())
    elif what == 4:
        app = await store.get(App, NAME)
        scale = {"web": 1 + number % 3, "worker": 1 + number % 2}
        await store.update(app.model_copy(update={"spec": app.spec.model_copy(update={"scale": scale})}))
    else:
        rollouts = (await store.list(Rollout, {"app": NAME})).documents
        flag: dict[str, Any] = [{"cancel": True}, {"promote": True}, {"paused": True}, {"paused": False}][number % 4]
        for rollout in [r for r in rollouts if not r.ended][:1]:
            await store.update(rollout.model_copy(update={"spec": rollout.spec.model_copy(update=flag)}))


def check_events(rollouts: Sequence[Rollout], world: World) -> None:
    """Every step that any rollout took has its event, and there is no event twice or of no step."""
    about = {(f"rollout {r.name}", step.at, step.reason) for r in rollouts for step in r.status.history}
    told = [(event.about, event.at, event.message) for event in world.events if event.about.startswith("rollout ")]
    assert sorted(told) == sorted(about), f"not told: {about - set(told)}; too much: {set(told) - about}"


async def run_pass(store: CrashingStore, world: World) -> None:
    """One pass of a new reconciler (nothing is remembered between passes)."""
    reconciler = Reconciler(store, world, world, clock=lambda: world.now, tell=world.tell)
    before = (await store.list(Rollout, {"app": NAME})).documents
    world.left = find_left(before)
    with contextlib.suppress(Crash, Conflict, NotFound):
        await reconciler.reconcile(NAME)
    for rollout in before:
        if rollout.status.phase is Phase.KEEPING and rollout.spec.cancel:
            await check_way_back(store, world, rollout)


def find_left(rollouts: Sequence[Rollout]) -> set[int | None]:
    """Return the releases that stored documents say the traffic has left for the time being."""
    kept = {r.status.base for r in rollouts if r.status.phase is Phase.KEEPING and not r.status.verdict}
    return kept | {r.spec.target for r in rollouts if r.status.phase is Phase.RETURNING}


async def check_way_back(store: CrashingStore, world: World, before: Rollout) -> None:
    """While B serves, a cancel gives the traffic to no A that was kept smaller than the scale asks for by now."""
    app, after = await store.get(App, NAME), await store.get(Rollout, before.name)
    if after.status.phase is not Phase.RETURNING or before.status.base is None:
        return
    told = {key.process: w.count for key, w in world.workloads.items() if key.release == before.status.base}
    seen = [i.key for i in world.snapshot.instances if i.serving and i.key.process == "web"]
    small = {name for name, count in told.items() if count < app.spec.scale.get(name, 1)}
    if small and any(key.release == before.spec.target for key in seen):
        world.violations.append(f"{before.name}: the traffic returns to v{before.status.base}, too small: {told}")


def check_promise(app: App, world: World, minimum: int) -> None:
    """Every router has at least `minimum` healthy instances in rotation."""
    for router in world.routers:
        healthy = [i for i in router.applied.rotation() & router.checked if world.seen[i].serving]
        if len(healthy) < minimum:
            world.violations.append(f"{router.name} has {len(healthy)} of {minimum} in rotation")


async def run_schedule(seed: int, *, hostile: bool) -> None:
    """Play one schedule to its end and check the laws."""
    world = World(seed, hostile=hostile)
    store = CrashingStore(world)
    world.calm = True
    await store.create(App(meta=Meta(name=NAME), spec=AppSpec()))
    await release(store, world, ImageChange("sha256:" + "0" * 64, make_manifest(world)))
    world.calm = False
    served = False
    for _ in range(STEPS):
        try:
            if world.chance(0.15):
                await act_as_user(store, world)
        except (Crash, Conflict):
            pass
        for _ in range(world.dice.randrange(1, 3)):
            await run_pass(store, world)
        world.step()
        app = await store.get(App, NAME)
        served = served or (not hostile and not world.exclusive and app.status.state == "serving")
        if served:
            check_promise(app, world, 1)
        assert not world.violations, f"seed {seed}: {world.violations}"
    await settle(store, world, seed)


async def is_quiet(store: CrashingStore, world: World) -> bool:
    """Whether every rollout has ended and the next pass would do nothing."""
    if not all(rollout.ended for rollout in (await store.list(Rollout)).documents):
        return False
    reconciler = Reconciler(store, world, world, clock=lambda: world.now, tell=world.tell)
    facts, _ = await reconciler._load(await store.get(App, NAME))
    plan = decide(facts)
    return plan.empty and plan.look_again is None


async def settle(store: CrashingStore, world: World, seed: int) -> None:
    """Calm the world: every rollout ends, and then there is nothing left to do."""
    world.calm = True
    for rollout in (await store.list(Rollout)).documents:
        if rollout.spec.paused and not rollout.ended:
            await store.update(rollout.model_copy(update={"spec": rollout.spec.model_copy(update={"paused": False})}))
    for _ in range(400):
        await run_pass(store, world)
        world.step()
        if await is_quiet(store, world):
            break
    rollouts = (await store.list(Rollout)).documents
    open_ones = [(r.name, r.status.phase, r.status.reason) for r in rollouts if not r.ended]
    assert not open_ones, f"seed {seed}: {open_ones}"
    await run_pass(store, world)
    app = await store.get(App, NAME)
    reconciler = Reconciler(store, world, world, clock=lambda: world.now, tell=world.tell)
    facts, _ = await reconciler._load(app)
    plan = decide(facts)
    assert plan.empty, f"seed {seed}: {plan}"
    assert not world.violations, f"seed {seed}: {world.violations}"
    check_events(rollouts, world)
    running = {i.key.release for i in world.instances.values() if i.state not in ("stopping", "stopped")}
    assert running <= {app.status.current}, f"seed {seed}: {running} but current is {app.status.current}"


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("hostile", [False, True], ids=["orderly", "hostile"])
def test_schedules(hostile: bool) -> None:
    """Rollouts end, keep their promise and converge, with crashes around every write and stale observations."""
    for seed in range(SCHEDULES):
        asyncio.run(run_schedule(seed, hostile=hostile))


async def run_way_back(seed: int) -> bool:
    """Scale up while v1 is kept, then cancel v2; return whether the traffic went back to v1."""
    world = World(seed, hostile=True)
    world.exclusive, world.calm = False, True
    store = CrashingStore(world)
    await store.create(App(meta=Meta(name=NAME), spec=AppSpec()))
    manifest = make_manifest(world)
    await release(store, world, ImageChange("sha256:" + "0" * 64, manifest))
    await settle(store, world, seed)
    await release(store, world, ImageChange("sha256:" + "1" * 64, manifest))
    for _ in range(200):
        await run_pass(store, world)
        world.step()
        rollout = await store.get(Rollout, f"{NAME}.v2")
        if rollout.ended:
            break
        if rollout.status.phase is Phase.KEEPING and not rollout.spec.cancel:
            world.calm = False
            with contextlib.suppress(Crash, Conflict):
                app = await store.get(App, NAME)
                spec = app.spec.model_copy(update={"scale": {"web": 3, "worker": 2}})
                await store.update(app.model_copy(update={"spec": spec}))
                if world.chance(0.5):
                    cancelled = rollout.spec.model_copy(update={"cancel": True})
                    await store.update(rollout.model_copy(update={"spec": cancelled}))
    assert not world.violations, f"seed {seed}: {world.violations}"
    return any(event.reason == "RolloutReturning" for event in world.events)


def test_a_kept_release_grows_before_it_serves_again() -> None:
    """Under crashes and stale observations: none of its instances start before the cancel, and enough after it."""
    went_back = sum(asyncio.run(run_way_back(seed)) for seed in range(60))
    assert went_back > 10


async def run_alone(drains: tuple[float, float], *, cancel: bool, stop_time: float = 0.0) -> tuple[Rollout, App]:
    """Replace v1 by v2 with `recreate` while requests last as long as they may; return v2's rollout, and the app.

    `cancel`: take it back as soon as v2 has requests. Its instances take `stop_time` seconds to stop.
    """
    world = World(0, hostile=False)
    world.calm, world.lasting = True, 1
    store = CrashingStore(world)
    await store.create(App(meta=Meta(name=NAME), spec=AppSpec()))

    async def step() -> None:
        await run_pass(store, world)
        world.step()
        assert not world.violations, world.violations

    for number, drain in enumerate(drains):
        policy = RolloutPolicy(strategy=Strategy.RECREATE, start_timeout=20, router_timeout=20, drain=drain)
        manifest = BuildManifest(processes={"web": Process(command="web")}, scale={"web": 1}, rollout=policy)
        await release(store, world, ImageChange(f"sha256:{number:064d}", manifest))
        while not (await store.list(Rollout, {"app": NAME})).documents[number:]:
            await step()
        while not (rollout := await store.get(Rollout, f"{NAME}.v{number + 1}")).ended:
            await step()
            if cancel and 2 in {world.seen[name].key.release for r in world.routers for name in r.lasting}:
                world.stop_time = stop_time
                rollout = await store.get(Rollout, rollout.name)
                spec = rollout.spec.model_copy(update={"cancel": True})
                await store.update(rollout.model_copy(update={"spec": spec}))
    for _ in range(600):
        await step()
    return rollout, await store.get(App, NAME)


@pytest.mark.parametrize("second", DRAINS)
@pytest.mark.parametrize("first", DRAINS)
async def test_recreate_waits_for_what_drains(first: float, second: float) -> None:
    """As long as that release may, whatever the other's own drain is; nothing ever starts beside it."""
    rollout, _ = await run_alone((first, second), cancel=False)
    assert rollout.status.phase is Phase.SUCCEEDED
    rollout, _ = await run_alone((first, second), cancel=True)
    assert rollout.status.phase is Phase.CANCELLED
    assert Phase.RESTORING in {step.phase for step in rollout.status.history}


async def test_recreate_waits_for_what_does_not_stop() -> None:
    """The rollout has given up by then; what served before starts when nothing else runs, and not sooner."""
    rollout, app = await run_alone((6, 6), cancel=True, stop_time=400)
    assert rollout.status.phase is Phase.FAILED
    assert "waits for v2 to stop before v1 starts again" in rollout.status.reason
    assert (app.status.current, app.status.state) == (1, "serving")

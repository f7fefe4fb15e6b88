"""The engine contract: one suite, every engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from seaway.engine.memory import MemoryEngine
from seaway.model import Instance, InstanceState, TaskState, WorkloadKey
from tests.contract.engine_kit import EngineKit, LocalKit, MemoryKit, eventually, running
from tests.property.world import World

S = InstanceState


def make_calm_world(**engine: Any) -> MemoryEngine:
    """Make the world of the property tests, as long as it does not play dice."""
    world = World(0, hostile=False, **engine)
    world.calm = True
    return world


MEMORY: dict[str, Callable[..., MemoryEngine]] = {
    "memory": MemoryEngine,
    "world of the property tests": make_calm_world,
}


@pytest.fixture(params=["memory", "world of the property tests", "local", "local, as an ordinary user"])
async def kit(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EngineKit]:
    if request.param in MEMORY:
        yield MemoryKit(MEMORY[request.param])
        return
    async with running(LocalKit(tmp_path, as_ordinary_user=request.param != "local")) as local:
        yield local


async def list_living(kit: EngineKit) -> list[Instance]:
    """Return the instances that neither stop nor have stopped."""
    return [i for i in (await kit.engine.observe()).instances if i.state not in (S.STOPPING, S.STOPPED)]


async def await_ready(kit: EngineKit, count: int) -> list[Instance]:
    """Return the living instances once there are `count` and all are ready."""

    async def look() -> list[Instance] | None:
        found = await list_living(kit)
        return found if len(found) == count and all(i.serving for i in found) else None

    return await eventually(look)


async def await_state(kit: EngineKit, state: InstanceState) -> Instance:
    """Return the first instance once it is in the state."""

    async def look() -> Instance | None:
        return next((i for i in (await kit.engine.observe()).instances if i.state is state), None)

    return await eventually(look)


async def test_start(kit: EngineKit) -> None:
    """A workload's instances start, become ready, and say where they are reached and since when."""
    workload = kit.workload("serve", count=2)
    await kit.engine.apply(workload)
    first, second = await await_ready(kit, 2)
    assert first.id != second.id
    assert first.id.startswith("shop-v1-web-")
    assert first.key == workload.key
    assert first.address
    assert first.port
    assert first.ready_since is not None
    assert first.started_at is not None
    assert first.restarts == 0


async def test_apply_again(kit: EngineKit) -> None:
    """Applying the same workload again changes nothing."""
    workload = kit.workload("serve", count=2)
    await kit.engine.apply(workload)
    before = await await_ready(kit, 2)
    await kit.engine.apply(workload)
    assert [i.id for i in await list_living(kit)] == [i.id for i in before]


async def test_scale_up_and_retire(kit: EngineKit) -> None:
    """A bigger count starts the missing ones; a retired one stops, and only that one."""
    await kit.engine.apply(kit.workload("serve", count=1))
    (old,) = await await_ready(kit, 1)
    await kit.engine.apply(kit.workload("serve", count=2))
    both = await await_ready(kit, 2)
    assert old.id in {i.id for i in both}
    await kit.engine.apply(kit.workload("serve", count=1, retire=(old.id,)))
    (left,) = await await_ready(kit, 1)
    assert left.id != old.id
    await kit.engine.apply(kit.workload("serve", count=1, retire=(old.id,)))
    assert [i.id for i in await list_living(kit)] == [left.id]


async def test_replace(kit: EngineKit) -> None:
    """Retiring one at an unchanged count starts another in its place; the old one counts no more from then on."""
    await kit.engine.apply(kit.workload("serve", count=1))
    (old,) = await await_ready(kit, 1)
    await kit.engine.apply(kit.workload("serve", count=1, retire=(old.id,)))
    assert old.id not in {i.id for i in await list_living(kit)}
    (new,) = await await_ready(kit, 1)
    assert new.id != old.id


async def test_surplus_is_left_alone(kit: EngineKit) -> None:
    """A smaller count alone stops nothing: who stops is the caller's choice."""
    await kit.engine.apply(kit.workload("serve", count=2))
    await await_ready(kit, 2)
    await kit.engine.apply(kit.workload("serve", count=1))
    assert len(await await_ready(kit, 2)) == 2


async def test_remove(kit: EngineKit) -> None:
    """A removed workload's instances stop, it is no longer listed, and removing it again is fine."""
    workload = kit.workload("serve", count=2)
    await kit.engine.apply(workload)
    await await_ready(kit, 2)
    assert (await kit.engine.observe()).workloads == (workload,)
    await kit.engine.remove(workload.key)
    await kit.engine.remove(workload.key)
    assert (await kit.engine.observe()).workloads == ()

    async def look() -> bool:
        return all(i.state is S.STOPPED for i in (await kit.engine.observe()).instances)

    await eventually(look)


async def test_remove_unknown(kit: EngineKit) -> None:
    """Removing what never was is fine."""
    await kit.engine.remove(WorkloadKey(app="ghost", release=1, process="web"))
    await kit.engine.remove_task("ghost-run-1")


async def test_releases_side_by_side(kit: EngineKit) -> None:
    """Two releases of one app run beside each other; removing one leaves the other."""
    await kit.engine.apply(kit.workload("serve", release=1))
    await kit.engine.apply(kit.workload("serve", release=2))
    await await_ready(kit, 2)
    await kit.engine.remove(WorkloadKey(app="shop", release=1, process="web"))
    (left,) = await await_ready(kit, 1)
    assert left.key.release == 2


async def test_crash(kit: EngineKit) -> None:
    """What exits again and again is crashing, never ready, and says its exit code."""
    await kit.engine.apply(kit.workload("crash"))
    seen = await await_state(kit, S.CRASHING)
    assert not seen.ready
    await kit.check_exit_code(seen, 1)
    assert "exited with code 1" in seen.reason
    assert seen.restarts >= 2


async def test_never_ready(kit: EngineKit) -> None:
    """What never becomes healthy is crashing, and the reason says so."""
    await kit.engine.apply(kit.workload("silent"))
    seen = await await_state(kit, S.CRASHING)
    assert "did not listen" in seen.reason
    assert not seen.ready


async def test_heal(kit: EngineKit) -> None:
    """An instance whose process is killed comes back by itself, as the same instance."""
    await kit.engine.apply(kit.workload("serve"))
    (before,) = await await_ready(kit, 1)
    await kit.kill(before)

    async def look() -> Instance | None:
        (now,) = await list_living(kit)
        return now if now.serving and now.restarts else None

    after = await eventually(look)
    assert after.id == before.id
    assert after.restarts == 1
    await kit.check_exit_code(after, -9)


async def test_watch(kit: EngineKit) -> None:
    """A watch names the app at each change."""
    seen: list[str] = []

    async def follow() -> None:
        async for name in kit.engine.watch():
            seen.append(name)  # noqa: PERF401 - it never ends

    task = asyncio.create_task(follow())

    async def has_begun() -> bool:
        return bool(seen)

    async def has_named_twice() -> bool:
        return seen.count("shop") >= 2

    await eventually(has_begun)
    seen.clear()
    await kit.engine.apply(kit.workload("serve"))
    await await_ready(kit, 1)
    await eventually(has_named_twice)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert set(seen) - {""} == {"shop"}  # "": a node may change at any time


async def test_task(kit: EngineKit) -> None:
    """A one-off runs once, keeps its exit code and whether somebody waits for it, and is forgotten when told."""
    await kit.engine.start_task(kit.task("shop-run-1", 3).model_copy(update={"attached": True}))

    async def look() -> TaskState | None:
        return next((t for t in (await kit.engine.observe()).tasks if t.done), None)

    done = await eventually(look)
    assert (done.id, done.app, done.exit_code, done.attached) == ("shop-run-1", "shop", 3, True)
    await kit.engine.start_task(kit.task("shop-run-1", 4))
    assert (await kit.engine.observe()).tasks == (done,)
    await kit.engine.remove_task("shop-run-1")
    assert (await kit.engine.observe()).tasks == ()


async def test_nodes(kit: EngineKit) -> None:
    """There is a node, it is ready, and instances name it."""
    await kit.engine.apply(kit.workload("serve"))
    (instance,) = await await_ready(kit, 1)
    assert instance.node in {node.name for node in (await kit.engine.observe()).nodes if node.ready}

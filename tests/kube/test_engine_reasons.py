"""Why instances do not run, on a real cluster: one sentence each that names the cause."""

from __future__ import annotations

from dataclasses import replace

import pytest

from seaway.model import Check, Health, InstanceState, TaskState
from tests.contract.engine_kit import eventually
from tests.kube.engine_kit import POD_GONE, SMALL, KubernetesKit
from tests.kube.fixture import Cluster

S = InstanceState
pytestmark = pytest.mark.timeout(180)


async def test_the_quota_is_used_up(cluster: Cluster) -> None:
    """No pod is made at all: which quota lacks what is told, and observed as long as it is so."""
    kit = KubernetesKit(cluster, replace(SMALL, cpu_request="1000"))
    await kit.start()
    try:
        await kit.engine.apply(kit.shell("sleep 60", count=0))
        await kit.await_counted("seaway")
        await kit.engine.apply(kit.shell("sleep 60"))
        seen = await kit.await_told("InstancesRefused")
        lacks = "the cluster refuses its instances: quota seaway lacks CPU: 1000 asked for, 0 of 200 used"
        assert seen.message == lacks
        await kit.engine.start_task(kit.task("shop-run-1", 0))
        await kit.await_task_reason(
            "the cluster refuses its pod: quota seaway lacks CPU: 1000 asked for, 0 of 200 used"
        )
        (refusal,) = (await kit.engine.observe()).refusals
        assert (str(refusal.key), refusal.reason) == ("shop.v1.worker", lacks)
        await kit.engine.remove(refusal.key)
        assert (await kit.engine.observe()).refusals == ()
    finally:
        await kit.close()


async def test_no_node_is_big_enough(cluster: Cluster) -> None:
    """The sentence names the resource, how much of it, and of how many nodes."""
    kit = KubernetesKit(cluster, replace(SMALL, cpu_request="150"))
    await kit.start()
    try:
        await kit.engine.apply(kit.shell("sleep 60"))
        seen = await kit.await_instance(S.PENDING, "no node")
        assert seen.reason == "no node has 150 CPUs free (0 of 3)"
        assert not seen.ready
    finally:
        await kit.close()


async def test_there_is_no_such_image(engine_kit: KubernetesKit) -> None:
    """Trying again would not help: it is crashing at once."""
    image = f"{engine_kit.cluster.registry}/nothing@sha256:{'0' * 64}"
    await engine_kit.engine.apply(engine_kit.shell("sleep 60").model_copy(update={"image": image}))
    seen = await engine_kit.await_instance(S.CRASHING, "cannot be pulled")
    assert image in seen.reason
    assert "not found" in seen.reason


async def test_a_crash_loop(engine_kit: KubernetesKit) -> None:
    """First it backs off, then it is crashing; exit code and last output are told."""
    workload = engine_kit.workload("crash")
    await engine_kit.engine.apply(workload)
    first = await engine_kit.await_instance(S.BACKOFF, "exited with code 1")
    assert first.reason.endswith("; last output: about to fail | the database is not there")
    seen = await engine_kit.await_instance(S.CRASHING)
    assert (seen.exit_code, seen.ready) == (1, False)
    assert "the database is not there" in seen.reason


async def test_out_of_memory(engine_kit: KubernetesKit) -> None:
    """The app's own limit, held by its node; the reason names it."""
    greedy = engine_kit.workload("serve", process="worker")
    command = "python3 -c \"x = 'x' * 200_000_000\""
    process = greedy.process.model_copy(update={"command": command, "memory": 32 << 20})
    await engine_kit.engine.apply(greedy.model_copy(update={"process": process}))
    await engine_kit.await_instance(S.BACKOFF, "it used more memory than its limit of 32 MiB")


async def test_an_unready_instance_says_why(engine_kit: KubernetesKit) -> None:
    """The readiness check's own words, and no restart."""
    health = Health(startup=Check(tcp=True), readiness=Check(http="/", interval=1), start_timeout=20)
    workload = engine_kit.workload("serve", health=health, env={"FAULT": "/etc/hostname"})
    await engine_kit.engine.apply(workload)
    seen = await engine_kit.await_instance(S.RUNNING, "not ready: it answered 503")
    assert (seen.ready, seen.restarts) == (False, 0)


async def test_an_unhealthy_instance_is_restarted(engine_kit: KubernetesKit) -> None:
    health = Health(liveness=Check(http="/", interval=1, unhealthy_after=2), start_timeout=20)
    workload = engine_kit.workload("serve", health=health, env={"FAULT": "/etc/hostname"})
    await engine_kit.engine.apply(workload)
    seen = await engine_kit.await_instance(S.STARTING, "liveness check failed 2 times in a row: it answered 503")
    (pod,) = await engine_kit.get("pods")  # the kubelet goes on meanwhile
    assert 1 <= seen.restarts <= pod["status"]["containerStatuses"][0]["restartCount"]


async def test_a_task_that_takes_too_long(engine_kit: KubernetesKit) -> None:
    """It is killed at its limit, and its state says so."""
    task = engine_kit.task("shop-run-1", 0, "sleep 60").model_copy(update={"timeout": 2.0})
    await engine_kit.engine.start_task(task)

    async def look() -> TaskState | None:
        return next((t for t in (await engine_kit.engine.observe()).tasks if t.done), None)

    done = await eventually(look, 40)
    assert done.exit_code == -9
    assert done.reason == "killed: it did not end within 2 s"


async def test_a_task_is_killed_when_removed(engine_kit: KubernetesKit) -> None:
    await engine_kit.engine.start_task(engine_kit.task("shop-run-1", 0, "sleep 600"))

    await engine_kit.await_task_reason("running")
    await engine_kit.engine.remove_task("shop-run-1")
    assert (await engine_kit.engine.observe()).tasks == ()

    async def gone() -> bool:
        return not await engine_kit.get("pods")

    await eventually(gone, POD_GONE, every=0.3)

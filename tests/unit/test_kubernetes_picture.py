"""The engine's picture of a big cluster: nobody waits for it, and looking costs nothing."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any, cast

import msgspec
import pytest

from seaway.engine.kubernetes.manifests import make_config, make_replica_set
from seaway.engine.kubernetes.objects import KubeEvent, NodeObject, Pod, ReplicaSet, ReplicaSetStatus, Secret
from seaway.engine.kubernetes.picture import Picture
from seaway.engine.kubernetes.settings import KubernetesEngineSettings
from seaway.engine.kubernetes.usage import Usage
from seaway.engine.kubernetes.watched import run_in_slices
from seaway.engine.local.changes import Changes
from seaway.kube.cache import Cache, Delta
from seaway.model import InstanceState, Process, Workload, WorkloadKey

SETTINGS = KubernetesEngineSettings()
LONGEST = 0.02  # seconds of CPU in one go
AT = "2026-01-01T00:00:00Z"


def make_workload(number: int) -> Workload:
    key = WorkloadKey(app=f"app{number}", release=1, process="web")
    return Workload(key=key, team="red", count=5, image="r/x@sha256:1", env={"A": "1"}, routed=True,
                    process=Process(command="python app.py"))  # fmt: skip


def node(number: int, ready: str = "True") -> NodeObject:
    status = {"conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": AT}]}
    return msgspec.convert({"metadata": {"name": f"node{number}"}, "status": status}, NodeObject)


def pod(labels: dict[str, str], name: str, on: int) -> Pod:
    content = {
        "metadata": {"name": name, "namespace": "seaway-red", "uid": name, "labels": labels, "creationTimestamp": AT},
        "spec": {"nodeName": f"node{on}", "containers": [{"image": "r/x@sha256:1"}]},
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.1",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": AT}],
            "containerStatuses": [{"ready": True, "started": True, "state": {"running": {"startedAt": AT}}}],
        },
    }
    return msgspec.convert(content, Pod)


def feed(cache: Cache[Any], items: list[Any]) -> Delta[Any]:
    """Put objects into a cache as a watch would."""
    for item in items:
        cache.objects[item.metadata.namespace, item.metadata.name] = item
    cache.synced.set()
    cache.pulse.beat()
    return Delta(tuple(items))


def make_big(apps: int) -> tuple[Picture, list[tuple[Any, Delta[Any]]]]:
    """Return a picture, and what its watches bring of so many apps with five instances each on 100 nodes."""
    picture = Picture(cast(Any, None), SETTINGS, Changes())
    sets, secrets, pods = [], [], []
    for number in range(apps):
        workload = make_workload(number)
        manifest = make_replica_set(workload, SETTINGS, 5, 1)
        manifest["metadata"]["generation"] = 1
        sets.append(msgspec.convert(manifest, ReplicaSet))
        secrets.append(msgspec.convert(make_config(workload, SETTINGS), Secret))
        labels = manifest["spec"]["template"]["metadata"]["labels"]
        pods += [pod(labels, f"{manifest['metadata']['name']}-{n:05d}", (number + n) % 100) for n in range(5)]
    feed(picture.watched.leases, [])
    feed(picture.jobs, [])
    return picture, [
        (picture.see_nodes, feed(picture.watched.nodes, [node(n) for n in range(100)])),
        (picture.see_secrets, feed(picture.secrets, secrets)),
        (picture.see_sets, feed(picture.sets, sets)),
        (picture.see_pods, feed(picture.pods, pods)),
    ]


async def make_seen(apps: int) -> tuple[Picture, list[tuple[Any, Delta[Any]]]]:
    """Return the same with all of it taken in."""
    picture, deltas = make_big(apps)
    for see, delta in deltas:
        await run_in_slices(see(delta))
    return picture, deltas


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The apps that the picture names as changed."""
    apps: list[str] = []
    monkeypatch.setattr(Changes, "notify", lambda _, app: apps.append(app))
    return apps


async def find_longest(work: Any) -> float:
    """Return the longest time (of this thread's CPU, seconds) for which nobody else could run during the work."""
    longest, running = 0.0, asyncio.ensure_future(work)
    while not running.done():
        before = time.thread_time()
        await asyncio.sleep(0)
        longest = max(longest, time.thread_time() - before)
    await running
    return longest


async def test_5000_pods_block_nobody() -> None:
    """Not when they are listed, not when a node with 50 of them is gone, not when somebody looks."""
    gc.collect()
    gc.freeze()  # what other tests left is not the engine's
    picture, deltas = make_big(1000)
    for see, delta in deltas:
        assert await find_longest(run_in_slices(see(delta))) < LONGEST
    began = time.thread_time()
    seen = picture.observe()
    assert time.thread_time() - began < LONGEST
    assert (len(seen.instances), len(seen.workloads), len(seen.nodes)) == (5000, 1000, 100)
    assert all(instance.serving for instance in seen.instances)
    assert seen.workloads[0] == make_workload(0)
    gone = Delta[NodeObject](gone=(picture.watched.nodes.objects.pop(("", "node7")),))
    assert await find_longest(run_in_slices(picture.see_nodes(gone))) < LONGEST
    states = [i.state for i in picture.observe().instances]
    assert states.count(InstanceState.LOST) == 50
    gc.unfreeze()


async def test_usage_is_laid_over_instances_and_taken_back(heard: list[str]) -> None:
    """Nobody is told, a pod that changes keeps it, and 5,000 of them hold nobody up."""
    picture, deltas = await make_seen(1000)
    heard.clear()
    assert {(i.cpu, i.memory) for i in picture.observe().instances} == {(None, None)}
    first, *others = deltas[3][1].put
    usage = {("seaway-red", pod.metadata.name): Usage(0.25, 1000) for pod in others}
    assert await find_longest(run_in_slices(picture.take_usage(usage))) < LONGEST
    seen = {i.id: i for i in picture.observe().instances}
    assert (seen[first.metadata.name].cpu, seen[first.metadata.name].memory) == (None, None)
    assert {(i.cpu, i.memory) for i in seen.values()} == {(None, None), (0.25, 1000)}
    assert all(i.serving for i in seen.values())
    assert heard == []
    stopping = msgspec.structs.replace(others[0].metadata, deletion_timestamp=AT)
    changed = msgspec.structs.replace(others[0], metadata=stopping)
    await run_in_slices(picture.see_pods(feed(picture.pods, [changed])))
    (renewed,) = [i for i in picture.observe().instances if i.id == changed.metadata.name]
    assert (renewed.state, renewed.cpu, renewed.memory) == (InstanceState.STOPPING, 0.25, 1000)
    await run_in_slices(picture.take_usage({}))
    assert {(i.cpu, i.memory) for i in picture.observe().instances} == {(None, None)}


async def test_a_refusal_is_told_and_taken_back(heard: list[str]) -> None:
    """By the status of the ReplicaSet, which is otherwise as it was: its app is named each time."""
    picture, deltas = await make_seen(2)
    heard.clear()
    found: ReplicaSet = deltas[2][1].put[1]
    quota = "exceeded quota: seaway, requested: pods=1, used: pods=5, limited: pods=5"
    for kind, refused in (("FailedDelete", False), ("FailedCreate", True)):
        condition = {"type": "ReplicaFailure", "status": "True", "reason": kind, "message": quota}
        status = msgspec.convert({"conditions": [condition]}, ReplicaSetStatus)
        changed = msgspec.structs.replace(found, status=status)
        await run_in_slices(picture.see_sets(feed(picture.sets, [changed])))
        assert bool(picture.observe().refusals) is refused
    (key, why), *more = picture.observe().part("app1").refused.items()
    assert (key, more) == (make_workload(1).key, [])
    assert why == "the cluster refuses its instances: quota seaway lacks pods: 1 asked for, 5 of 5 used"
    await run_in_slices(picture.see_sets(feed(picture.sets, [found])))
    assert picture.observe().refusals == ()
    assert heard == ["app1", "app1"]


async def test_a_failed_probe_is_told_by_its_event(heard: list[str]) -> None:
    """The event comes by another watch; the instance it is about is renewed, and its app is named."""
    picture, deltas = await make_seen(1)
    unready = msgspec.structs.replace(
        (first := deltas[3][1].put[0]).status,
        conditions=(msgspec.structs.replace(first.status.conditions[0], status="False"),),
    )
    changed = msgspec.structs.replace(first, status=unready)
    await run_in_slices(picture.see_pods(feed(picture.pods, [changed])))
    heard.clear()
    about = {"kind": "Pod", "namespace": "seaway-red", "name": first.metadata.name, "uid": first.metadata.uid}
    event = {"metadata": {"name": "e"}, "involvedObject": about, "reason": "Unhealthy", "lastTimestamp": AT,
             "message": "Readiness probe failed: HTTP probe failed with statuscode: 503"}  # fmt: skip
    await run_in_slices(picture.see_faults(feed(picture.watched.faults, [msgspec.convert(event, KubeEvent)])))
    (seen,) = [i for i in picture.observe().instances if i.id == first.metadata.name]
    assert (seen.ready, seen.reason) == (False, "not ready: it answered 503")
    assert heard == ["app0"]


async def test_what_was_sorted_is_kept_until_something_changes() -> None:
    """A pass over each of many apps sorts the instances once; the first change shows in the next look."""
    picture, deltas = await make_seen(3)
    before = picture.observe().part("app1")
    assert picture.observe().part("app1") is before
    first = deltas[3][1].put[0]
    picture.pods.objects.pop((first.metadata.namespace, first.metadata.name))
    await run_in_slices(picture.see_pods(Delta[Pod](gone=(first,))))
    seen = picture.observe()
    assert len(seen.part("app0").instances) == 4
    assert first.metadata.name not in {instance.id for instance in seen.instances}


async def test_usage_shows_in_the_next_look() -> None:
    """It changes no decision, so no app is told; what was seen before is not shown again all the same."""
    picture, deltas = await make_seen(1)
    picture.observe()
    first = deltas[3][1].put[0].metadata
    await run_in_slices(picture.take_usage({(first.namespace, first.name): Usage(cpu=0.5, memory=7)}))
    (seen,) = [i for i in picture.observe().instances if i.id == first.name]
    assert (seen.cpu, seen.memory) == (0.5, 7)

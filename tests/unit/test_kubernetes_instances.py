"""What pods mean: their JSON is a real cluster's (golden/pods.json), cut to what is read and the whole status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from seaway.engine.kubernetes.instances import NO_CLUE, Clue, make_instance
from seaway.engine.kubernetes.names import read_key
from seaway.engine.kubernetes.objects import Job, Pod
from seaway.engine.kubernetes.tasks import make_task_state
from seaway.model import Check, Health, Instance, InstanceState, Process, TaskState, Workload

S = InstanceState
PODS = json.loads((Path(__file__).parent / "golden" / "pods.json").read_text())
LATER = "2030-01-01T00:00:00Z"
HEALTH = Health(start_timeout=20, liveness=Check(tcp=True, unhealthy_after=3))


def read(name: str, **status: Any) -> Pod:
    content = PODS[name] | {"status": PODS[name]["status"] | status}
    return msgspec.convert(content, Pod)


def judge(pod: Pod, *, clue: Clue = NO_CLUE, lost: str = "", removed: bool = False, **more: Any) -> Instance:
    key = read_key(pod.metadata.labels)
    assert key is not None
    process = Process(command="x", health=HEALTH)
    workload = Workload(key=key, team="crew", count=1, image="i", process=process, routed=key.process == "web", **more)
    return make_instance(pod, key, workload, lost=lost, removed=removed, clue=clue)


@pytest.mark.parametrize(
    ("name", "state", "reason"),
    [
        ("unscheduled", S.PENDING, "no node takes it (0 of 3); 3 held back by Seaway"),
        ("creating", S.PENDING, "node2 prepares it"),
        ("starting", S.STARTING, "starting"),
        ("unready", S.RUNNING, "started, not ready yet"),
        ("ready", S.RUNNING, ""),
        ("crashed-once", S.BACKOFF, "exited with code 1 after 0.0 s; last output: run | the database is not there"),
        ("crash-loop", S.BACKOFF, "exited with code 1 after 0.0 s; last output: run | the database is not there"),
        ("crashed-thrice", S.CRASHING, "exited with code 1 after 0.0 s; last output: run | the database is not there"),
        ("ended-well", S.BACKOFF, "exited with code 0 (it is meant to run on) after 2.0 s"),
        (
            "out-of-memory",
            S.BACKOFF,
            "was killed after 0.0 s: it used more memory than its limit of 32 MiB; it wrote nothing",
        ),
        ("deleted", S.STOPPING, "told to stop"),
        ("pull-failed", S.CRASHING, "cannot be pulled: not found"),
    ],
)
def test_states_and_reasons(name: str, state: InstanceState, reason: str) -> None:
    found = judge(read(name))
    assert found.state is state
    assert reason in found.reason if reason else not found.reason
    assert found.ready == (name == "ready")


def test_a_ready_instance_is_whole() -> None:
    """Address, port, times and node are what routers and rollouts need."""
    found = judge(read("ready"))
    assert found.serving
    assert (found.address, found.port) == (PODS["ready"]["status"]["podIP"], 8080)
    assert found.id == PODS["ready"]["metadata"]["name"]
    assert found.ready_since is not None
    assert found.started_at is not None
    assert found.created_at <= found.started_at <= found.ready_since
    assert Instance.model_validate(found.model_dump()) == found  # though it was made without validation


def test_exit_codes_of_signals() -> None:
    assert judge(read("crash-loop")).exit_code == 1
    assert judge(read("out-of-memory")).exit_code == -9
    assert judge(read("killed")).exit_code == -15


def test_never_listening_is_crashing_at_once() -> None:
    """A startup probe failed while it ran, and the kubelet killed it."""
    clue = NO_CLUE.with_fault("Startup probe failed: dial tcp 10.0.0.1:8080: connect: connection refused", LATER)
    found = judge(read("killed-loop"), clue=clue)
    assert found.state is S.CRASHING
    assert found.reason.startswith("did not listen on PORT 8080 within 20 s; let it listen on $PORT")
    assert "if it needs longer, raise `start_timeout` of [processes.web.health]" in found.reason
    again = judge(read("killed"), clue=clue)
    assert again.state is S.STARTING
    assert again.reason.startswith("starting again; before that it did not listen on PORT 8080")


def test_a_start_says_what_it_lacks() -> None:
    """As soon as its kubelet does, and not only when it is given up."""
    refused = NO_CLUE.with_fault("Startup probe failed: dial tcp 10.0.0.1:8080: connect: connection refused", LATER)
    assert judge(read("starting"), clue=refused).reason == "starting: it does not listen on PORT 8080 yet"
    answered = NO_CLUE.with_fault("Startup probe failed: HTTP probe failed with statuscode: 400", LATER)
    assert judge(read("starting"), clue=answered).reason == "starting: it answered 400"


def test_a_failed_liveness_check_is_told() -> None:
    """Though the readiness check failed after it, while the container was stopped."""
    clue = NO_CLUE.with_fault("Liveness probe failed: HTTP probe failed with statuscode: 503", LATER)
    clue = clue.with_fault("Readiness probe failed: dial tcp 10.0.0.1:8080: connect: connection refused", LATER)
    found = judge(read("killed"), clue=clue)
    assert found.reason.startswith(
        "starting again; before that it liveness check failed 3 times in a row: it answered 503"
    )


def test_an_old_fault_explains_nothing() -> None:
    clue = NO_CLUE.with_fault("Liveness probe failed: HTTP probe failed with statuscode: 503", "2020-01-01T00:00:00Z")
    assert "ended by SIGTERM" in judge(read("killed"), clue=clue).reason


def test_what_ran_long_has_not_failed_in_a_row() -> None:
    """A third crash in a month is not a crash loop."""
    (status,) = PODS["crashed-thrice"]["status"]["containerStatuses"]
    ended = status["state"]["terminated"] | {"startedAt": "2020-01-01T00:00:00Z"}
    changed = status | {"state": {"terminated": ended}}
    assert judge(read("crashed-thrice", containerStatuses=[changed])).state is S.BACKOFF


def test_the_cause_of_a_pull_that_backs_off_is_remembered() -> None:
    """The status names it only while a try has just failed."""
    (status,) = PODS["pull-failed"]["status"]["containerStatuses"]
    waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}
    pod = read("pull-failed", containerStatuses=[status | {"state": {"waiting": waiting}}])
    assert judge(pod).state is S.BACKOFF
    found = judge(pod, clue=Clue(pull="unauthorized: authentication required"))
    assert found.state is S.CRASHING
    assert found.reason.endswith("cannot be pulled: unauthorized: authentication required")


@pytest.mark.parametrize("name", ["starting", "ready", "crash-loop", "creating"])
def test_on_a_lost_node(name: str) -> None:
    """Whatever was known of it is not known any more; one that is not placed yet cannot be lost."""
    found = judge(read(name), lost="its node node2 has not answered since then")
    assert (found.state, found.ready) == (S.LOST, False)
    assert judge(read("unscheduled"), lost="x").state is S.PENDING
    assert judge(read("deleted"), lost="x").state is S.STOPPING


def test_one_that_was_retired_stops_before_the_watch_brings_it() -> None:
    """Nobody is to route to it, or to count on it, from the moment at which it is written."""
    name = read("ready").metadata.name
    found = judge(read("ready"), retire=(name,))
    assert (found.state, found.ready, found.reason) == (S.STOPPING, False, judge(read("deleted")).reason)
    assert judge(read("ready", phase="Failed"), retire=(name,)).state is S.STOPPED
    assert judge(read("ready"), retire=("another",)).state is S.RUNNING


def test_one_that_has_ended_is_stopped_though_its_pod_stays() -> None:
    """A kubelet may look but once a minute for what it has to clear away: nobody is to wait for that."""
    ended = {"terminated": {"exitCode": 143, "startedAt": LATER, "finishedAt": LATER}}
    (status,) = PODS["deleted"]["status"]["containerStatuses"]
    found = judge(read("deleted", containerStatuses=[status | {"state": ended}]))
    assert (found.state, found.exit_code) == (S.STOPPED, -15)
    assert judge(read("deleted", containerStatuses=[])).state is S.STOPPING


def test_one_whose_container_is_not_found_any_more_is_stopped() -> None:
    """As a busy kubelet 1.20 says it; the exit code is its invention."""
    unknown = {
        "state": {"waiting": {"reason": "ContainerCreating"}},
        "lastState": {"terminated": {
            "exitCode": 137, "reason": "ContainerStatusUnknown", "startedAt": None, "finishedAt": None,
            "message": "The container could not be located when the pod was deleted.  The container used to be Running",
        }},
    }  # fmt: skip
    (status,) = PODS["deleted"]["status"]["containerStatuses"]
    found = judge(read("deleted", containerStatuses=[status | unknown]))
    assert (found.state, found.exit_code) == (S.STOPPED, None)
    found_again = unknown | {"state": {"running": {"startedAt": LATER}}}
    assert judge(read("deleted", containerStatuses=[status | found_again])).state is S.STOPPING
    crashed = {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 1}}}
    assert judge(read("deleted", containerStatuses=[status | crashed])).state is S.STOPPING, "it may just start again"


def test_removed_and_evicted() -> None:
    assert judge(read("ready"), removed=True).state is S.STOPPING
    message = "The node was low on resource: ephemeral-storage. "
    found = judge(read("ready", phase="Failed", reason="Evicted", message=message))
    assert (found.state, found.ready) == (S.STOPPED, False)
    assert found.reason == "evicted by its node: The node was low on resource: ephemeral-storage"
    assert not found.over_disk


@pytest.mark.parametrize(
    "message",
    [
        'Container app exceeded its local ephemeral storage limit "512Mi". ',
        "Pod ephemeral local storage usage exceeds the total limit of containers 536870912. ",
    ],
)
def test_who_writes_too_much_is_told_as_on_one_machine(message: str) -> None:
    """Kubelets end its pod, and say so in one of two ways (eviction/helpers.go)."""
    found = judge(read("ready", phase="Failed", reason="Evicted", message=message))
    assert (found.state, found.over_disk) == (S.STOPPED, True)
    why = "it wrote more to its disk than the 512 MiB that it may (`disk` of its process)"
    assert found.reason == f"evicted by its node: {why}"


def state_of(*pods: Pod, refused: str = "", notes: dict[str, str] | None = None, **status: Any) -> TaskState:
    metadata = {
        "name": "shop-run-1",
        "labels": {"seaway.dev/app": "shop"},
        "annotations": {"seaway.dev/task": "shop-run-1"} | (notes or {}),
    }
    job = msgspec.convert({"metadata": metadata, "status": status}, Job)
    found = make_task_state(job, pods, NO_CLUE, refused)
    assert found is not None
    return found


def test_a_task_whose_pod_is_refused() -> None:
    """It waits, and says for what; a pod that was made in the end counts for more, and so does the end."""
    said = 'Error creating: pods "shop-run-1-x" is forbidden: exceeded quota: q, requested: pods=1, used: pods=5, '
    said += "limited: pods=5"
    why = "the cluster refuses its pod: quota q lacks pods: 1 asked for, 5 of 5 used"
    assert (state_of(refused=said).done, state_of(refused=said).reason) == (False, why)
    assert state_of(read("task-running"), refused=said).reason == "running"
    late = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "lastTransitionTime": LATER}
    over = state_of(conditions=[late], refused=said)
    assert (over.done, over.exit_code, over.reason) == (True, None, f"gave up: {why}")


def test_tasks() -> None:
    """What a one-off's pod says, and what its Job says when the pod is gone."""
    assert (state_of().done, state_of().reason) == (False, "waits for its pod")
    assert (state_of().attached, state_of(notes={"seaway.dev/attached": "true"}).attached) == (False, True)
    running = state_of(read("task-running"))
    assert (running.done, running.reason) == (False, "running")
    assert running.started_at is not None
    over = state_of(read("task-running"), conditions=[{"type": "Failed", "status": "True", "reason": "BackoffLimit"}])
    assert (over.done, over.reason) == (False, "has ended"), "its exit code is on the way: pods are watched apart"
    late = state_of(read("task-late"))
    assert (late.done, late.reason) == (True, "killed: it did not end within 2 s; it wrote nothing")
    assert late.exit_code not in (0, None)
    wrote = 'begins\nTraceback (most recent call last):\n  File "x", line 1\nKeyError: 1\n'
    ended = {"reason": "Error", "exitCode": 1, "message": wrote, "finishedAt": LATER, "startedAt": LATER}
    broken = state_of(read("task-late", reason="", containerStatuses=[{"name": "app", "state": {"terminated": ended}}]))
    assert (broken.exit_code, broken.reason) == (1, "exited with code 1; last output: KeyError: 1")
    long = ended | {"message": f"half of a secret\n{'x' * 2048}"}
    cut = state_of(read("task-late", reason="", containerStatuses=[{"name": "app", "state": {"terminated": long}}]))
    assert "half" not in cut.reason
    failed = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "lastTransitionTime": LATER}
    lost = state_of(conditions=[failed])
    assert (lost.done, lost.exit_code, lost.reason) == (True, None, "its pod is gone: deleted, or lost with its node")

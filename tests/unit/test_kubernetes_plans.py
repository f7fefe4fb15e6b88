"""The Kubernetes engine's small decisions: names, who is deleted, what Kubernetes' words mean."""

from __future__ import annotations

import msgspec
import pytest

from seaway.engine.kubernetes import reasons
from seaway.engine.kubernetes.names import LONGEST, config_name, key_labels, read_key, task_name, workload_name
from seaway.engine.kubernetes.objects import Pod
from seaway.engine.kubernetes.preparing import contains
from seaway.engine.kubernetes.retiring import plan_retirement
from seaway.model import WorkloadKey


def key(app: str, release: int, process: str) -> WorkloadKey:
    return WorkloadKey(app=app, release=release, process=process)


def test_names_are_plain_where_they_can_be() -> None:
    assert workload_name(key("shop", 1, "web")) == "shop-v1-web"
    assert task_name("shop-run-1") == "shop-run-1"


def test_two_keys_never_share_a_name() -> None:
    """Dashes can be read in two ways, and long names are cut."""
    long = "a" * 30
    keys = [key("shop", 1, "v2-web"), key("shop-v1", 2, "web"), key(long, 1, long), key(long, 1, long[:-1] + "b")]
    found = [workload_name(k) for k in keys]
    assert len(set(found)) == len(keys)
    assert all(len(name) <= LONGEST for name in found)
    assert config_name("x", {"A": "1"}) != config_name("x", {"A": "2"})
    assert task_name("Shop Run!") != task_name("shop.run.")


def test_labels_are_read_back() -> None:
    assert read_key(key_labels(key("shop", 12, "web"))) == key("shop", 12, "web")
    assert read_key({"seaway.dev/app": "shop", "seaway.dev/release": "x", "seaway.dev/process": "web"}) is None


def pod(name: str, **more: object) -> Pod:
    metadata = {"name": name, "ownerReferences": [{"uid": "rs"}], **more}
    return msgspec.convert({"metadata": metadata, "status": {"phase": "Running"}}, Pod)


@pytest.mark.parametrize(
    ("living", "retire", "counts", "deleted", "left"),
    [
        (["a", "b"], ["a"], (1, 2), ["a"], 1),  # one less: that one
        (["a"], ["a"], (1, 1), ["a"], 1),  # in its place comes another
        (["a", "b"], [], (1, 2), [], 2),  # a surplus is left alone
        (["a", "b"], [], (3, 2), [], 3),  # more
        (["a", "b"], ["a", "b"], (0, 2), [], 0),  # all at once: nobody chooses
        (["a", "b"], ["a"], (0, 2), ["a"], 1),
        (["a"], ["a"], (0, 2), ["a"], 1),  # another is on its way that nobody named
        (["b"], ["a"], (1, 2), [], 2),  # it went already; what came in its place is somebody's to retire
        (["a", "b", "c"], ["a", "c"], (1, 3), ["a", "c"], 1),
    ],
)
def test_who_is_deleted(
    living: list[str], retire: list[str], counts: tuple[int, int], deleted: list[str], left: int
) -> None:
    """`counts`: how many are wanted, how many the ReplicaSet is told to keep; `left`: how many it is told then."""
    found = plan_retirement([pod(name) for name in living], "rs", retire, *counts)
    assert ([p.metadata.name for p in found.delete], found.replicas) == (deleted, left)


def test_who_is_on_its_way_out_is_not_deleted_again() -> None:
    """Nor is a pod of the same labels that another object owns; one that nobody owns will be the ReplicaSet's."""
    stopping = pod("a", deletionTimestamp="2026-01-01T00:00:00Z")
    stranger = pod("b", ownerReferences=[{"uid": "other"}])
    found = plan_retirement([stopping, stranger, pod("c")], "rs", ["a", "b"], 1, 2)
    assert (found.delete, found.replicas) == ((), 2)
    orphan = pod("d", ownerReferences=[])
    assert plan_retirement([orphan], "rs", ["d"], 1, 1).delete == (orphan,)


FORBIDDEN = 'pods "shop-v1-web-abcde" is forbidden: '


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (
            (
                f"{FORBIDDEN}exceeded quota: seaway, requested: requests.cpu=100m, used: requests.cpu=150m, "
                "limited: requests.cpu=200m"
            ),
            "quota seaway lacks CPU: 0.1 asked for, 0.15 of 0.2 used",
        ),
        (
            (
                f"{FORBIDDEN}exceeded quota: team, requested: limits.memory=1Gi,pods=1, "
                "used: limits.memory=800Mi,pods=10, limited: limits.memory=1Gi,pods=10"
            ),
            "quota team lacks memory limits: 1 GiB asked for, 800 MiB of 1 GiB used; pods: 1 asked for, 10 of 10 used",
        ),
        (f"{FORBIDDEN}failed quota: team: must specify limits.cpu", "failed quota: team: must specify limits.cpu"),
        (
            f"{FORBIDDEN}[maximum cpu usage per Container is 1, but limit is 2.]",
            "[maximum cpu usage per Container is 1, but limit is 2.]",
        ),
        (
            'admission webhook "images.example.com" denied the request: not signed',
            'admission webhook "images.example.com" denied the request: not signed',
        ),
    ],
)
def test_why_no_pod_is_made(message: str, sentence: str) -> None:
    """What a quota lacks, how much is asked for and used; else the API server's own words."""
    assert reasons.describe_refused(message) == f"the cluster refuses its instances: {sentence}"


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("0/3 nodes are available: 3 Insufficient cpu.", "no node has 2 CPUs free (0 of 3)"),
        (
            "0/3 nodes are available: 1 Insufficient memory, 3 Insufficient cpu.",
            "no node has 64 GiB of memory and 2 CPUs free (0 of 3)",
        ),
        (
            (
                "0/3 nodes are available: 1 node(s) had taint {node.kubernetes.io/unreachable: }, "
                "that the pod didn't tolerate, 2 Insufficient cpu."
            ),
            "no node has 2 CPUs free (0 of 3); 1 does not answer",
        ),
        (
            (
                "0/4 nodes are available: 1 node(s) had untolerated taint {seaway.dev/held: seaway}, 2 node(s) were "
                "unschedulable, 1 node(s) had untolerated taint {gpu: yes}. preemption: 0/4 nodes are available: "
                "4 Preemption is not helpful for scheduling.."
            ),
            "no node takes it (0 of 4); 1 held back by Seaway, 2 cordoned, 1 kept out by taint gpu",
        ),
        ("0/3 nodes are available: 3 Too many pods.", "no node has room for one more pod free (0 of 3)"),
        ("no nodes available to schedule pods", "no node takes it: no nodes available to schedule pods"),
        ("", "waits for a node"),
    ],
)
def test_what_the_scheduler_lacks(message: str, sentence: str) -> None:
    assert reasons.describe_unscheduled(message, {"cpu": "2", "memory": "64Gi"}) == sentence


@pytest.mark.parametrize(
    ("text", "amount"), [("500m", 0.5), ("2", 2), ("1Gi", 2**30), ("128974848", 128974848), ("1e3", 1000), ("x", 0)]
)
def test_quantities(text: str, amount: float) -> None:
    assert reasons.parse_quantity(text) == amount


def test_probes_that_failed() -> None:
    refused = "Startup probe failed: dial tcp 10.172.1.7:8080: connect: connection refused"
    assert reasons.describe_fault(refused, 8080) == ("startup", "port 8080 refused the connection")
    answered = "Readiness probe failed: HTTP probe failed with statuscode: 503"
    assert reasons.describe_fault(answered, 8080) == ("readiness", "it answered 503")


def test_what_is_contained() -> None:
    """Defaults that the server adds are no difference; what is missing or other is."""
    wanted = {"spec": {"podSelector": {}, "ports": [{"port": 53}], "policyTypes": ["Ingress"]}}
    assert contains(
        {"spec": {"podSelector": {}, "ports": [{"port": 53, "protocol": "TCP"}], "policyTypes": ["Ingress"]}}, wanted
    )
    assert contains({"spec": {"ports": [{"port": 53}], "policyTypes": ["Ingress"]}}, wanted)
    assert not contains({"spec": {"podSelector": {}, "ports": [], "policyTypes": ["Ingress"]}}, wanted)
    assert not contains(
        {"spec": {"podSelector": {"a": 1}, "ports": [{"port": 53}], "policyTypes": ["Ingress"]}}, wanted
    )

"""Why a Deployment is not there yet, from objects as an API server gives them."""

from __future__ import annotations

from typing import Any

import pytest

from seaway.install.reasons import count_ready, explain, is_rolled_out


def deployment(wanted: int = 2, generation: int = 3, seen: int = 3, **status: Any) -> dict[str, Any]:
    given = {"observedGeneration": seen, **status}
    return {"metadata": {"generation": generation}, "spec": {"replicas": wanted}, "status": given}


def pod(*containers: dict[str, Any], **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p1"}, "status": {"containerStatuses": list(containers), **status}}


ALL = {"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}


@pytest.mark.parametrize(
    ("found", "done"),
    [
        (deployment(**ALL), True),
        (deployment(seen=2, **ALL), False),  # of what was there before
        (deployment(**ALL | {"replicas": 3}), False),  # an old pod is left
        (deployment(**ALL | {"availableReplicas": 1}), False),
        (deployment(), False),
        (deployment(wanted=0), True),
    ],
)
def test_rolled_out_is_all_new_all_ready_none_old(found: dict[str, Any], done: bool) -> None:
    assert is_rolled_out(found) is done


PULL = {"image": "r/x", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling r/x"}}}
CRASH = {"lastState": {"terminated": {"exitCode": 1, "reason": "Error", "message": "one\ntwo\n"}}, "ready": False,
         "state": {"waiting": {"reason": "CrashLoopBackOff"}}}  # fmt: skip
MAKING: dict[str, Any] = {"state": {"waiting": {"reason": "ContainerCreating"}}}
CONFIG = {"state": {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "x" not found'}}}
RUNS: dict[str, Any] = {"state": {"running": {}}, "ready": False}
PLACELESS = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available: 3 Insufficient cpu."}


@pytest.mark.parametrize(
    ("pods", "said"),
    [
        ([], "its pods are starting"),
        ([pod(MAKING)], "pod p1 is being made"),
        ([pod(RUNS), pod(MAKING)], "pod p1 runs and is not ready yet"),
        ([pod(RUNS), pod(PULL)], "pod p1 cannot pull its image r/x: Back-off pulling r/x"),
        ([pod(CRASH)], "ended with exit code 1 (Error), last words: two; see `kubectl logs --previous p1`"),
        ([pod(CONFIG)], 'pod p1 cannot start: secret "x" not found'),
        ([pod(conditions=[PLACELESS])], "pod p1 finds no node: 0/3 nodes are available: 3 Insufficient cpu."),
    ],
)
def test_the_gravest_problem_is_told(pods: list[dict[str, Any]], said: str) -> None:
    assert explain(deployment(), pods).endswith(said)


def test_pods_that_cannot_be_made_at_all() -> None:
    """A quota or an admission rule refuses them."""
    condition = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: team"}
    assert explain(deployment(conditions=[condition]), []) == "its pods cannot be made: exceeded quota: team"
    assert count_ready(deployment(**ALL | {"availableReplicas": 1})) == "1 of 2 ready"

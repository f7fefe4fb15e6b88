"""Why a Deployment is not there yet, in one sentence; pure. Takes objects as the API server gives them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Object = Mapping[str, Any]

PULL = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"})


def is_rolled_out(deployment: Object) -> bool:
    """Whether every pod is of the newest template and ready, and none of an older one is left."""
    spec, status = deployment["spec"], deployment.get("status", {})
    wanted = spec.get("replicas", 1)
    return (
        status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
        and all(status.get(field, 0) == wanted for field in ("replicas", "updatedReplicas", "availableReplicas"))
    )  # fmt: skip


def count_ready(deployment: Object) -> str:
    """Return "1 of 2 ready"."""
    ready = min(deployment.get("status", {}).get(field, 0) for field in ("updatedReplicas", "availableReplicas"))
    return f"{ready} of {deployment['spec'].get('replicas', 1)} ready"


def explain(deployment: Object, pods: Iterable[Object]) -> str:
    """Return what is in the way, the gravest first: pods that cannot be made, placed, pulled, run; else waiting."""
    for condition in deployment.get("status", {}).get("conditions", ()):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return f"its pods cannot be made: {condition.get('message', condition.get('reason', ''))}"
    found = sorted(problem for pod in pods for problem in _find_problems(pod))
    return found[0][1] if found else "its pods are starting"


def _find_problems(pod: Object) -> Iterator[tuple[int, str]]:
    """Yield (rank, sentence), the lowest rank gravest."""
    name, status = pod["metadata"]["name"], pod.get("status", {})
    if pod["metadata"].get("deletionTimestamp"):
        yield 8, f"pod {name} is stopping"
        return
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield 1, f"pod {name} finds no node: {condition.get('message', condition.get('reason', ''))}"
    for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        yield from _find_container_problems(name, container)


def _find_container_problems(pod: str, container: Object) -> Iterator[tuple[int, str]]:
    waiting = container.get("state", {}).get("waiting")
    ended = container.get("lastState", {}).get("terminated") or container.get("state", {}).get("terminated")
    if waiting and waiting.get("reason") in PULL:
        detail = waiting.get("message") or waiting["reason"]
        yield 0, f"pod {pod} cannot pull its image {container.get('image', '')}: {detail}"
    elif ended and not container.get("ready"):
        last = (ended.get("message") or "").strip().splitlines()[-1:]
        said = f", last words: {last[0]}" if last else ""
        yield (
            2,
            (
                f"pod {pod} ended with exit code {ended.get('exitCode')} ({ended.get('reason', 'Error')}){said}; "
                f"see `kubectl logs --previous {pod}`"
            ),
        )
    elif waiting and waiting.get("reason") not in {None, "ContainerCreating", "PodInitializing"}:
        yield 3, f"pod {pod} cannot start: {waiting.get('message') or waiting['reason']}"
    elif waiting:
        yield 6, f"pod {pod} is being made"
    elif not container.get("ready"):
        yield 5, f"pod {pod} runs and is not ready yet"

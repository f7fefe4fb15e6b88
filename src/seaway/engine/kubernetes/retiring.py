"""How many pods a ReplicaSet shall keep, and which are deleted one by one. Pure.

Kubernetes gives no way to say "one less, and that one". Who lowers the count first lets the ReplicaSet's controller
choose. So the pod is deleted first, by its uid, then the count is lowered by what was deleted. If the controller looks
in between it starts one more, which is the newest and not ready: that is the one it takes back when the count falls,
by the order every version has (not placed, pending, not ready, then others). A crash in between leaves one too many,
which is seen, drained and retired as any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from seaway.engine.kubernetes.objects import Pod

ENDED = ("Failed", "Succeeded")


@dataclass(frozen=True)
class Retirement:
    """`delete` these pods, then let the count be `replicas`."""

    delete: tuple[Pod, ...]
    replicas: int


def plan_retirement(pods: Iterable[Pod], owner: str, retire: Iterable[str], count: int, replicas: int) -> Retirement:
    """Return what takes `retire` out and leaves `count` others, or more if there are more: they are left alone.

    `owner` is the ReplicaSet's uid (it takes in pods without an owner), `replicas` what it is told to keep now. Where
    all are to go at once nobody chooses, and the count alone does it.
    """
    named = set(retire)
    living = [p for p in pods if lives(p) and is_of(p, owner)]
    leaving = sorted((p for p in living if p.metadata.name in named), key=lambda p: p.metadata.name)
    if count == 0 and living and len(leaving) == len(living) >= replicas:
        return Retirement((), 0)
    return Retirement(tuple(leaving), max(count, replicas - len(leaving)))


def lives(pod: Pod) -> bool:
    """Whether a pod counts for its ReplicaSet."""
    return pod.metadata.deletion_timestamp is None and pod.status.phase not in ENDED


def is_of(pod: Pod, owner: str) -> bool:
    """Whether a pod is, or is about to be, the ReplicaSet's."""
    owners = pod.metadata.owner_references
    return not owners or any(o.uid == owner for o in owners)

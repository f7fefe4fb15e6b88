"""Reads back what Seaway wrote: workloads with their config, and whether all is as it was written. Pure."""

from __future__ import annotations

import base64
from datetime import datetime

from pydantic import ValidationError

from seaway.engine.kubernetes import names
from seaway.engine.kubernetes.objects import Lease, ReplicaSet, Secret
from seaway.engine.kubernetes.reasons import describe_refused
from seaway.model import Node, Workload


def read_workload(found: ReplicaSet, secret: Secret | None) -> tuple[Workload, bool] | None:
    """Return the workload of a ReplicaSet and whether all is as Seaway wrote it; None if its annotation is spoilt.

    `secret` is the one that the ReplicaSet names, if it is there.
    """
    notes = found.metadata.annotations
    try:
        workload = Workload.model_validate_json(notes.get(names.WORKLOAD, ""))
    except ValidationError:
        return None
    intact = (
        found.metadata.deletion_timestamp is None
        and notes.get(names.WRITTEN) == str(found.metadata.generation)
        and names.read_key(found.metadata.labels) == workload.key
        and (not notes.get(names.CONFIG) or secret is not None)
    )
    if secret is not None:
        workload = workload.model_copy(update={"env": read_config(secret)})
    return workload, intact


def find_refusal(found: ReplicaSet) -> str:
    """Return why the cluster takes no more pods of a ReplicaSet; "" if it takes them, or has not said no yet."""
    for condition in found.status.conditions:
        if (condition.type, condition.status, condition.reason) == ("ReplicaFailure", "True", "FailedCreate"):
            return describe_refused(condition.message)
    return ""


def read_config(secret: Secret) -> dict[str, str]:
    """Return the config in a Secret."""
    return {name: base64.b64decode(value).decode() for name, value in secret.data.items()}


def read_renewal(node: Node, lease: Lease) -> Node:
    """Return the node with the time at which its kubelet last said that it lives."""
    when = lease.spec.renew_time
    return node.model_copy(update={"renewed_at": datetime.fromisoformat(when)}) if when else node

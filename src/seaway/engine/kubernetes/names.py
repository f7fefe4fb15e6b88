"""How Seaway's objects are called and labelled in a cluster. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache

from seaway.kube.kinds import GROUP
from seaway.kube.labels import (
    APP,
    CONTAINER,
    FENCE,
    INPUT,
    INSTANCE,
    KIND,
    MANAGED_BY,
    MANAGER,
    PROCESS,
    RELEASE,
    SELECTOR,
    TASK,
    TASK_ATTACHED,
    TASK_ID,
    TASK_INPUT,
    TASK_STREAMED,
    TASK_STREAMS,
    TASK_TERMINAL,
    TEAM,
)
from seaway.kube.structs import Metadata
from seaway.model import Workload, WorkloadKey

WORKLOAD = f"{GROUP}/workload"  # annotation: the workload as applied, without its config
WRITTEN = f"{GROUP}/written"  # annotation: metadata.generation as Seaway left it
CONFIG = f"{GROUP}/config"  # annotation: the Secret with its config, if it has any
HELD = f"{GROUP}/held"  # taint of a node that gets nothing new, and annotation: why

ACCOUNT = "seaway-app"
PULL_SECRET = "seaway-pull"  # noqa: S105 - a name

__all__ = [
    "ACCOUNT", "APP", "CONFIG", "CONTAINER", "FENCE", "GROUP", "HELD", "INPUT", "INSTANCE", "KIND", "MANAGED_BY",
    "MANAGER", "PROCESS", "PULL_SECRET", "RELEASE", "SELECTOR", "TASK", "TASK_ATTACHED", "TASK_ID", "TASK_INPUT",
    "TASK_STREAMED", "TASK_STREAMS", "TASK_TERMINAL", "TEAM", "WORKLOAD", "WRITTEN", "common_labels", "config_name",
    "input_name", "is_of", "key_labels", "read_key", "task_name", "workload_labels", "workload_name",
]  # fmt: skip

LONGEST = 57  # letters of a ReplicaSet's name: Kubernetes cuts longer ones to make its pods' names
_AMBIGUOUS = re.compile(r"(^|-)v\d+(-|$)")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def workload_name(key: WorkloadKey) -> str:
    """Return the name of a workload's ReplicaSet; pods are called so with a dash and five letters more.

    Two keys never share a name: where joining by dashes could be read in two ways, or is too long, a hash follows.
    """
    name = f"{key.app}-v{key.release}-{key.process}"
    if len(name) <= LONGEST and not _AMBIGUOUS.search(key.app) and not _AMBIGUOUS.search(key.process):
        return name
    return f"{name[: LONGEST - 9]}-{_hash(f'{key.app}/{key.release}/{key.process}')}"


def task_name(task_id: str) -> str:
    """Return the name of a one-off's Job: its id, where that is a name."""
    if _LABEL.fullmatch(task_id):
        return task_id
    plain = re.sub(r"[^a-z0-9]+", "-", task_id.lower())[:50].strip("-")
    return f"{plain or 'task'}-{_hash(task_id)}"


def config_name(owner: str, env: Mapping[str, str]) -> str:
    """Return the name of the Secret with an object's config; another config has another name."""
    content = "\0".join(f"{name}={value}" for name, value in sorted(env.items()))
    return f"{owner}-{_hash(content)}"


def input_name(task_id: str, nonce: str) -> str:
    """Return the name of the Secret with what a one-off reads. It says nothing of the content, not even by a hash."""
    return f"{task_name(task_id)}-input-{nonce}"


def key_labels(key: WorkloadKey) -> dict[str, str]:
    """Return the labels that select a workload's pods; they never change."""
    return {APP: key.app, RELEASE: str(key.release), PROCESS: key.process, KIND: INSTANCE}


def is_of(metadata: Metadata, prefix: str) -> bool:
    """Whether an object is where Seaway with this prefix of namespaces puts those of its team."""
    team = metadata.labels.get(TEAM)
    return team is not None and metadata.namespace == f"{prefix}{team}"


def workload_labels(workload: Workload) -> dict[str, str]:
    """Return all labels of a workload's objects."""
    key = workload.key
    return common_labels(key.app, key.release, key.process, workload.team) | key_labels(key)


def common_labels(app: str, release: int, process: str, team: str) -> dict[str, str]:
    """Return the recommended labels and the team's."""
    return {
        "app.kubernetes.io/name": app,
        "app.kubernetes.io/instance": f"{app}-v{release}",
        "app.kubernetes.io/version": f"v{release}",
        "app.kubernetes.io/component": process,
        "app.kubernetes.io/part-of": team,
        MANAGED_BY: MANAGER,
        TEAM: team,
    }


def read_key(labels: Mapping[str, str]) -> WorkloadKey | None:
    """Return whose object this is; None if the labels do not say."""
    app, release, process = labels.get(APP), labels.get(RELEASE, ""), labels.get(PROCESS)
    if not app or not process or not release.isdigit():
        return None
    return _share_key(app, int(release), process)


@lru_cache(maxsize=10_000)
def _share_key(app: str, release: int, process: str) -> WorkloadKey:
    """Return one key for all pods of a workload: fewer objects for the garbage collector to go through."""
    return WorkloadKey(app=app, release=release, process=process)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]

"""The Kubernetes Job that builds a Dockerfile. Pure: one object out."""

from __future__ import annotations

import posixpath
import shlex
from dataclasses import dataclass
from typing import Any

from seaway.builder.dockerfile import MORE_CONFIG, Steps, Tool, in_container, plan_buildah

COMPONENT = "seaway-build"
CONTAINER = "build"
WORK, LOGIN, CERTIFICATES = "/work", "/etc/seaway/registry", "/etc/seaway/certificates"
SECRET_KEY = ".dockerconfigjson"  # noqa: S105  # the name of a key
CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP",
    "SETUID", "SYS_CHROOT",
)  # fmt: skip
"""What buildah needs to unpack layers as their owners and to chroot; it mounts in a user namespace of its own."""


@dataclass(frozen=True)
class JobSettings:
    """Where builds run and by what. `build_image` has buildah and a shell; `own_image` is Seaway's own."""

    namespace: str
    build_image: str
    own_image: str
    registry: str  # HOST/PATH
    insecure: bool = False
    secret: str = ""  # of kind kubernetes.io/dockerconfigjson, in the namespace; "" for none
    ca_config: str = ""  # ConfigMap with ca.crt, in the namespace; "" for none
    memory: str = "2Gi"
    storage: str = "20Gi"


@dataclass(frozen=True)
class JobOrder:
    """One build: what the Job is called, what it builds and pushes to, and for how long at most (s)."""

    name: str
    app: str
    repository: str  # HOST/PATH/APP
    host: str
    source: str  # sha256 (hex) in the source store
    dockerfile: str
    timeout: float


def make_job(settings: JobSettings, order: JobOrder) -> dict[str, Any]:
    """Return the Job: a first container fetches the source, the second builds and pushes and leaves the digest."""
    labels = {
        "app.kubernetes.io/name": "seaway",
        "app.kubernetes.io/component": COMPONENT,
        "app.kubernetes.io/managed-by": "seaway",
        "seaway.dev/app": order.app,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": order.name, "namespace": settings.namespace, "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": max(int(order.timeout), 1),
            "ttlSecondsAfterFinished": 600,
            "template": {"metadata": {"labels": labels}, "spec": _make_pod(settings, order)},
        },
    }


def _make_pod(settings: JobSettings, order: JobOrder) -> dict[str, Any]:
    volumes: list[dict[str, Any]] = [{"name": "work", "emptyDir": {"sizeLimit": settings.storage}}]
    mounts: list[dict[str, Any]] = [{"name": "work", "mountPath": WORK}]
    if settings.secret:
        volumes.append({"name": "login", "secret": {"secretName": settings.secret, "defaultMode": 0o444}})
        mounts.append({"name": "login", "mountPath": LOGIN, "readOnly": True})
    if settings.ca_config:
        volumes.append({"name": "certificates", "configMap": {"name": settings.ca_config}})
        mounts.append({"name": "certificates", "mountPath": CERTIFICATES, "readOnly": True})
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,  # a build that is cancelled has nothing to bring to an end
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "initContainers": [_make_fetcher(settings, order, mounts)],
        "containers": [_make_builder(settings, order, mounts)],
        "volumes": volumes,
    }
    return pod | ({"imagePullSecrets": [{"name": settings.secret}]} if settings.secret else {})


def _make_fetcher(settings: JobSettings, order: JobOrder, mounts: list[dict[str, Any]]) -> dict[str, Any]:
    values = {
        "SEAWAY_REGISTRY": settings.registry,
        "SEAWAY_INSECURE_REGISTRY": str(settings.insecure).lower(),
        "SEAWAY_REGISTRY_CREDENTIALS": f"{LOGIN}/{SECRET_KEY}" if settings.secret else "",
        "SEAWAY_REGISTRY_CA": f"{CERTIFICATES}/ca.crt" if settings.ca_config else "",
    }
    return {
        "name": "fetch",
        "image": settings.own_image,
        "command": ["python3", "-m", "seaway.builder.fetching", order.source, f"{WORK}/source"],
        "env": [{"name": name, "value": value} for name, value in values.items()],
        "resources": _make_resources("256Mi"),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "runAsUser": 0,  # the folder is the second container's, which is root
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": mounts,
    }


def _make_builder(settings: JobSettings, order: JobOrder, mounts: list[dict[str, Any]]) -> dict[str, Any]:
    tool = Tool(
        host=order.host,
        repository=order.repository,
        insecure=settings.insecure,
        certificates=CERTIFICATES if settings.ca_config else "",
        credentials=f"{LOGIN}/{SECRET_KEY}" if settings.secret else "",
    )
    steps = plan_buildah(in_container(tool), order.dockerfile, f"{WORK}/source", f"{WORK}/buildah")
    return {
        "name": CONTAINER,
        "image": settings.build_image,
        "command": ["/bin/sh", "-ec", make_script(steps)],
        "env": [{"name": name, "value": value} for name, value in {**steps.env, "HOME": WORK}.items()],
        "resources": _make_resources(settings.memory),
        "securityContext": {
            "runAsUser": 0,
            "capabilities": {"drop": ["ALL"], "add": list(CAPABILITIES)},
            "seccompProfile": {"type": "Unconfined"},
        },
        "volumeMounts": mounts,
    }


def make_script(steps: Steps) -> str:
    """Return the shell script that carries out the steps; the digest goes to the container's termination message."""
    lines = ["exec 2>&1", f"rm -rf {MORE_CONFIG}"]
    for path, content in steps.files.items():
        lines.append(f"mkdir -p {shlex.quote(posixpath.dirname(path))}")
        lines.append(f"printf %s {shlex.quote(content)} > {shlex.quote(path)}")
    lines += [shlex.join(command) for command in steps.commands]
    return "\n".join([*lines, f"cat {shlex.quote(steps.digest_file)} > /dev/termination-log"])


def _make_resources(memory: str) -> dict[str, Any]:
    return {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": memory}}

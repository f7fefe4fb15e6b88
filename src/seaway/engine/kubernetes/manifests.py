"""What runs: a ReplicaSet, its config and its disruption budget for a workload, a Job for a one-off. Pure.

Only API versions that Kubernetes 1.20 and the newest both serve; golden files in the tests.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

from seaway.engine.kubernetes import inits, names
from seaway.engine.kubernetes.reasons import parse_quantity
from seaway.engine.kubernetes.settings import PORT, PORT_NAME, KubernetesEngineSettings
from seaway.engine.local.health import Checks
from seaway.engine.local.process import exec_plain
from seaway.model import Check, Limits, Process, Streams, Task, Workload
from seaway.model.app import make_check_headers

Object = dict[str, Any]

HOME, TMP = "/home/seaway", "/tmp"  # noqa: S108 - an emptyDir of the pod's own
INPUT, INPUT_FILE = "/run/seaway-input", "stdin"  # where a one-off finds what it reads
TASK_GRACE = 10  # seconds a one-off gets to end when it is removed
TASK_WAIT = 300  # seconds a one-off may wait for a node and its image, besides its own limit
HOSTNAME, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"


def place_of(team: str, settings: KubernetesEngineSettings) -> str:
    """Return a team's namespace."""
    return f"{settings.namespace_prefix}{team}"


def make_replica_set(workload: Workload, settings: KubernetesEngineSettings, replicas: int, written: int) -> Object:
    """Return the ReplicaSet of a workload; `written` is the generation it will have."""
    labels, selector = names.workload_labels(workload), names.key_labels(workload.key)
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": names.workload_name(workload.key),
            "namespace": place_of(workload.team, settings),
            "labels": labels,
            "annotations": make_notes(workload, written),
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": selector},
            "template": {"metadata": {"labels": labels}, "spec": _instance_pod(workload, settings, selector)},
        },
    }


def make_notes(workload: Workload, written: int) -> dict[str, str]:
    """Return the annotations that say what was applied: everything but the config, which is in the Secret."""
    config = names.config_name(names.workload_name(workload.key), workload.env) if workload.env else ""
    return {
        names.WORKLOAD: workload.model_dump_json(exclude={"env", "mounts"}),
        names.WRITTEN: str(written),
        names.CONFIG: config,
    }


def make_config(workload: Workload, settings: KubernetesEngineSettings) -> Object | None:
    """Return the immutable Secret with a workload's config; None if it has none."""
    labels = names.workload_labels(workload)
    return _config(names.workload_name(workload.key), place_of(workload.team, settings), labels, workload.env)


def make_budget(workload: Workload, settings: KubernetesEngineSettings, version: str) -> Object:
    """Return the PodDisruptionBudget: evictions take one instance at a time. `version` is one the cluster serves."""
    return {
        "apiVersion": version,
        "kind": "PodDisruptionBudget",
        "metadata": {
            "name": names.workload_name(workload.key),
            "namespace": place_of(workload.team, settings),
            "labels": names.workload_labels(workload),
        },
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": names.key_labels(workload.key)}},
    }


def make_job(task: Task, settings: KubernetesEngineSettings, nonce: str) -> Object:
    """Return the Job of a one-off: one pod, once. `nonce` names the Secret of its input, if it has any."""
    labels, notes = _task_labels(task), {names.TASK_ID: task.id}
    if task.attached:
        notes[names.TASK_ATTACHED] = "true"
    if task.stdin is not None:
        notes[names.TASK_INPUT] = names.input_name(task.id, nonce)
    limit = max(1, math.ceil(task.timeout))
    pod: Object = {
        **_pod(settings, TASK_GRACE),
        "restartPolicy": "Never",
        "activeDeadlineSeconds": limit,
        "containers": [
            {
                **_container(settings, task.image, task.command, task.limits),
                **_env_from(names.task_name(task.id), task.env),
                "env": _env(task.app, task.release, task.process, task.env, instance={"value": task.id}),
            }
        ],
    }
    if task.stdin is not None:
        _mount_input(pod, notes[names.TASK_INPUT])
    kept = {names.TASK_ID: task.id}
    if task.streams is not None:
        notes[names.TASK_STREAMS] = task.streams.model_dump_json()
        _open_streams(pod, task.streams)
        kept |= {names.TASK_TERMINAL: "true"} if task.streams.terminal is not None else {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": names.task_name(task.id),
            "namespace": place_of(task.team, settings),
            "labels": labels,
            "annotations": notes,
        },
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": limit + TASK_WAIT,
            "ttlSecondsAfterFinished": settings.task_ttl,
            "template": {"metadata": {"labels": labels, "annotations": kept}, "spec": pod},
        },
    }


def make_task_config(task: Task, settings: KubernetesEngineSettings) -> Object | None:
    """Return the immutable Secret with a one-off's config; None if it has none."""
    return _config(names.task_name(task.id), place_of(task.team, settings), _task_labels(task), task.env)


def make_task_input(task: Task, name: str, settings: KubernetesEngineSettings, owner: Object) -> Object:
    """Return the immutable Secret with what a one-off reads (base 64), which goes with its `owner`, the Job.

    Its label keeps it out of the watched Secrets: half a MiB each, which nobody but the pod's kubelet needs to know.
    """
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": f"{names.GROUP}/input",
        "immutable": True,
        "metadata": {
            "name": name,
            "namespace": place_of(task.team, settings),
            "labels": _task_labels(task) | {names.KIND: names.INPUT},
            "ownerReferences": [owner],
        },
        "data": {INPUT_FILE: task.stdin},
    }


def _mount_input(pod: Object, secret: str) -> None:
    """Let the pod's command read the Secret; the pod does not start before it is there, whole."""
    pod["volumes"].append({"name": "input", "secret": {"secretName": secret, "defaultMode": 0o400}})
    (container,) = pod["containers"]
    container["command"].append(f"{INPUT}/{INPUT_FILE}")
    container["volumeMounts"].append({"name": "input", "mountPath": INPUT, "readOnly": True})


def _open_streams(pod: Object, streams: Streams) -> None:
    """Let the pod's command be connected with whoever waits for it, and begin when it is."""
    (container,) = pod["containers"]
    container["stdin"] = True
    script, argument = container["command"].index(inits.INIT), "reads" if streams.reads else ""
    if streams.terminal is None:
        container["command"][script] = inits.STREAMED
        container["command"].append(argument)
        return
    container["command"][script] = inits.TERMINAL
    container["tty"] = True
    container["env"].append({"name": "TERM", "value": streams.terminal.kind})
    container["lifecycle"] = {"preStop": {"exec": {"command": ["/bin/sh", "-c", inits.HANG_UP]}}}


def image_reference(image: str, settings: KubernetesEngineSettings) -> str:
    """Return where nodes pull an image from: a digest alone is one in Seaway's own registry."""
    return image if "/" in image or not settings.registry else f"{settings.registry}@{image}"


def _task_labels(task: Task) -> dict[str, str]:
    labels = names.common_labels(task.app, task.release, task.process, task.team)
    own = {names.APP: task.app, names.RELEASE: str(task.release), names.PROCESS: task.process}
    return labels | own | {names.KIND: names.TASK}


def _config(owner: str, namespace: str, labels: Mapping[str, str], env: Mapping[str, str]) -> Object | None:
    if not env:
        return None
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": f"{names.GROUP}/config",
        "immutable": True,
        "metadata": {"name": names.config_name(owner, env), "namespace": namespace, "labels": dict(labels)},
        "data": {name: base64.b64encode(value.encode()).decode() for name, value in env.items()},
    }


def _instance_pod(workload: Workload, settings: KubernetesEngineSettings, selector: Mapping[str, str]) -> Object:
    key, process = workload.key, workload.process
    checks = Checks.of(process, routed=workload.routed)
    wait = settings.pre_stop if workload.routed else 0
    port = process.port or PORT
    container: Object = {
        **_container(settings, workload.image, process.command, process.limits),
        **_env_from(names.workload_name(key), workload.env),
        "env": _env(key.app, key.release, key.process, workload.env, instance=_field("metadata.name"), port=port),
        **_probes(process, checks, workload.host),
        "ports": [{"name": PORT_NAME, "containerPort": port, "protocol": "TCP"}],
    }
    if wait:
        container["lifecycle"] = {"preStop": {"exec": {"command": ["/bin/sh", "-c", f"sleep {wait}"]}}}
    return {
        **_pod(settings, max(1, math.ceil(process.stop_grace)) + wait),
        "containers": [container],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": HOSTNAME,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": dict(selector)},
            }
        ],
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": _apart(selector)}},
    }


def _apart(selector: Mapping[str, str]) -> list[Object]:
    """Prefer other nodes, then other zones (which not every cluster has)."""
    return [
        {"weight": weight, "podAffinityTerm": {"topologyKey": key, "labelSelector": {"matchLabels": dict(selector)}}}
        for key, weight in ((HOSTNAME, 100), (ZONE, 50))
    ]


def _pod(settings: KubernetesEngineSettings, grace: int) -> Object:
    """What instances and one-offs have in common."""
    pull = {"imagePullSecrets": [{"name": names.PULL_SECRET}]} if settings.pull_secret else {}
    return {
        "serviceAccountName": names.ACCOUNT,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": settings.user,
            "runAsGroup": settings.user,
            "fsGroup": settings.user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [{"name": "home", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}],
        **pull,
    }


def _resources(settings: KubernetesEngineSettings, own: Limits) -> Object:
    """What a container may take and is sure to have: the memory that its app asks for; of processor time what is idle.

    How many processes a pod may have is its kubelet's setting (podPidsLimit).
    """
    memory = str(own.memory) if own.memory is not None else ""
    disk = str(own.disk) if own.disk is not None else ""
    cpu = f"{math.ceil(own.cpu * 1000)}m" if own.cpu is not None else ""
    limits = {
        "cpu": cpu or settings.cpu_limit,
        "memory": memory or settings.memory_limit,
        "ephemeral-storage": disk or settings.storage_limit,
    }
    requests = {
        "cpu": min(cpu, settings.cpu_request, key=parse_quantity) if cpu else settings.cpu_request,
        "memory": memory or settings.memory_request,
        "ephemeral-storage": min(disk, settings.storage_request, key=parse_quantity)
        if disk and settings.storage_request
        else settings.storage_request,
    }
    return {
        "requests": {name: amount for name, amount in requests.items() if amount},
        "limits": {name: amount for name, amount in limits.items() if amount},
    }


def _container(settings: KubernetesEngineSettings, image: str, command: str, limits: Limits) -> Object:
    return {
        "name": names.CONTAINER,
        "image": image_reference(image, settings),
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", inits.INIT, "seaway-init", exec_plain(command)],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": _resources(settings, limits),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": settings.read_only_root,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "home", "mountPath": HOME}, {"name": "tmp", "mountPath": TMP}],
    }


def _env_from(owner: str, env: Mapping[str, str]) -> Object:
    return {"envFrom": [{"secretRef": {"name": names.config_name(owner, env)}}]} if env else {}


def _field(path: str) -> Object:
    return {"valueFrom": {"fieldRef": {"fieldPath": path}}}


def _env(
    app: str,
    release: int,
    process: str,
    config: Mapping[str, str],
    *,
    instance: Object,
    port: int | None = None,
) -> list[Object]:
    """Return what the platform sets: defaults that config may override, then what only the platform may say."""
    defaults = {"HOME": HOME, "TMPDIR": TMP, "HOST": "0.0.0.0", "PYTHONUNBUFFERED": "1"}  # noqa: S104 - in the pod
    said = {"SEAWAY_APP": app, "SEAWAY_RELEASE": f"v{release}", "SEAWAY_PROCESS": process}
    said |= {"PORT": str(port)} if port is not None else {}
    values = {name: value for name, value in defaults.items() if name not in config} | said
    return [
        {"name": "SEAWAY_INSTANCE", **instance},
        {"name": "SEAWAY_NODE", **_field("spec.nodeName")},
        *({"name": name, "value": value} for name, value in sorted(values.items())),
    ]


def _probes(process: Process, checks: Checks, host: str) -> Object:
    """Return the three probes. Kubernetes counts in whole seconds; the start is looked at each second."""
    probes: Object = {}
    if checks.startup is not None:
        budget = max(1, math.ceil(process.health.start_timeout))
        probes["startupProbe"] = _probe(checks.startup, host) | {"periodSeconds": 1, "failureThreshold": budget}
    if checks.readiness is not None:
        probe = _probe(checks.readiness, host) | {"successThreshold": checks.readiness.healthy_after}
        if process.health.readiness is None:
            probe["periodSeconds"] = 1  # the platform's own check is cheap
        probes["readinessProbe"] = probe
    if checks.liveness is not None:
        probes["livenessProbe"] = _probe(checks.liveness, host)
    return probes


def _probe(check: Check, host: str) -> Object:
    way: Object
    if check.http is not None:
        headers = [{"name": name, "value": value} for name, value in make_check_headers(host).items()]
        way = {"httpGet": {"path": check.http, "port": PORT_NAME, "scheme": "HTTP", "httpHeaders": headers}}
    elif check.command is not None:
        way = {"exec": {"command": ["/bin/sh", "-c", check.command]}}
    else:
        way = {"tcpSocket": {"port": PORT_NAME}}
    return way | {
        "timeoutSeconds": max(1, math.ceil(check.timeout)),
        "periodSeconds": max(1, round(check.interval)),
        "failureThreshold": check.unhealthy_after,
    }

"""Seaway's own objects in a cluster: control plane, routers, access, network rules. Pure; golden files in the tests.

Only API versions that Kubernetes 1.20 and the newest both serve. The CRDs come from `seaway.store`, Secrets with
what is random from `seaway.install.secrets`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seaway import __version__
from seaway.install.settings import (
    API_PORT,
    DATA_FOLDER,
    HTTP_PORT,
    READY_PORT,
    TLS_FOLDER,
    XDS_PORT,
    InstallSettings,
)

Object = dict[str, Any]

CONTROL, ROUTER = "seaway-control", "seaway-router"
XDS_SERVICE = "seaway-xds"
CONTROL_TLS, ROUTER_TLS = "seaway-control-tls", "seaway-router-tls"
LEASE = "seaway-control"
USER = 10001
STOP_LIMIT = 75  # seconds: routers wait for the balancer (10), then drain (at most 60)
GROUP = "seaway.dev"

_ALL = ["create", "delete", "get", "list", "patch", "update", "watch"]
_Rules = tuple[tuple[str, tuple[str, ...], list[str]], ...]
"""API group, resources, verbs."""

_RULES: _Rules = (
    (GROUP, ("*",), _ALL),
    ("", ("namespaces",), ["create", "get", "list", "patch", "update", "watch"]),
    ("", ("pods",), [*_ALL, "deletecollection"]),
    ("", ("pods/log",), ["get"]),
    ("", ("secrets", "services", "resourcequotas", "limitranges", "serviceaccounts"), _ALL),
    ("", ("nodes",), ["get", "list", "watch"]),
    ("", ("events",), ["create", "get", "list", "patch", "watch"]),
    ("apps", ("deployments", "replicasets"), _ALL),
    ("batch", ("jobs", "cronjobs"), _ALL),
    ("networking.k8s.io", ("networkpolicies",), _ALL),
    ("policy", ("poddisruptionbudgets",), _ALL),
)
_OWN_RULES: _Rules = (("coordination.k8s.io", ("leases",), ["create", "get", "list", "patch", "update", "watch"]),)


def make_manifests(settings: InstallSettings, *, disruption_budgets: str = "") -> tuple[Object, ...]:
    """Return everything but CRDs and Secrets, in the order to apply.

    `disruption_budgets` is the API version of PodDisruptionBudget that the cluster serves ("": none is made).
    """
    objects = [
        _namespace(settings),
        _service_account(settings, CONTROL),
        _service_account(settings, ROUTER),
        _role("ClusterRole", CONTROL, None, _RULES),
        _binding("ClusterRole", CONTROL, settings.namespace, None),
        _role("Role", CONTROL, settings.namespace, _OWN_RULES),
        _binding("Role", CONTROL, settings.namespace, settings.namespace),
        _service(settings, CONTROL, CONTROL, {"api": API_PORT}),
        _xds_service(settings),
        _router_service(settings),
        _control_policy(settings),
        _router_policy(settings),
        _control(settings),
        _router(settings),
    ]
    if disruption_budgets:
        objects += [_budget(settings, disruption_budgets, name) for name in (CONTROL, ROUTER)]
    return tuple(objects)


def labels(component: str) -> dict[str, str]:
    """Return the recommended labels of a part."""
    return {
        "app.kubernetes.io/name": "seaway",
        "app.kubernetes.io/instance": "seaway",
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": "seaway",
        "app.kubernetes.io/version": __version__,
        "app.kubernetes.io/managed-by": "seaway-install",
    }


def selector(component: str) -> dict[str, str]:
    """Return the labels that never change of a part's pods."""
    return {"app.kubernetes.io/name": "seaway", "app.kubernetes.io/component": component}


def _meta(name: str, namespace: str | None, component: str = "") -> Object:
    meta: Object = {"name": name, "labels": labels(component or name)}
    return meta if namespace is None else meta | {"namespace": namespace}


def _namespace(settings: InstallSettings) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": _meta(settings.namespace, None, "seaway")}


def _service_account(settings: InstallSettings, name: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _meta(name, settings.namespace),
        "automountServiceAccountToken": False,
    }


def _role(
    kind: str, name: str, namespace: str | None, rules: tuple[tuple[str, tuple[str, ...], list[str]], ...]
) -> Object:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": _meta(name, namespace),
        "rules": [{"apiGroups": [group], "resources": list(what), "verbs": verbs} for group, what, verbs in rules],
    }


def _binding(kind: str, name: str, namespace: str, within: str | None) -> Object:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": f"{kind}Binding",
        "metadata": _meta(name, within),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
    }


def _service(settings: InstallSettings, name: str, component: str, ports: Mapping[str, int], **spec: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _meta(name, settings.namespace, component),
        "spec": {
            "selector": selector(component),
            "ports": [{"name": n, "port": p, "targetPort": n, "protocol": "TCP"} for n, p in ports.items()],
            **spec,
        },
    }


def _xds_service(settings: InstallSettings) -> Object:
    """Every replica's address: routers report to all of them, those that are not ready yet included."""
    return _service(settings, XDS_SERVICE, CONTROL, {"xds": XDS_PORT}, clusterIP="None", publishNotReadyAddresses=True)


def _router_service(settings: InstallSettings) -> Object:
    service = _service(
        settings, ROUTER, ROUTER, {"http": 80}, type=settings.service_type, externalTrafficPolicy="Local"
    )
    if settings.node_port is not None:
        service["spec"]["ports"][0]["nodePort"] = settings.node_port
    return service


def _control_policy(settings: InstallSettings) -> Object:
    """The API for everyone (it asks for a token), xDS for routers alone."""
    return _policy(
        settings,
        CONTROL,
        [
            {"ports": [{"protocol": "TCP", "port": API_PORT}]},
            {
                "from": [{"podSelector": {"matchLabels": selector(ROUTER)}}],
                "ports": [{"protocol": "TCP", "port": XDS_PORT}],
            },
        ],
    )


def _router_policy(settings: InstallSettings) -> Object:
    ports = [{"protocol": "TCP", "port": port} for port in (HTTP_PORT, READY_PORT)]
    return _policy(settings, ROUTER, [{"ports": ports}])


def _policy(settings: InstallSettings, component: str, ingress: list[Object]) -> Object:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _meta(component, settings.namespace),
        "spec": {
            "podSelector": {"matchLabels": selector(component)},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    }


def _budget(settings: InstallSettings, version: str, component: str) -> Object:
    return {
        "apiVersion": version,
        "kind": "PodDisruptionBudget",
        "metadata": _meta(component, settings.namespace),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector(component)}},
    }


def _control(settings: InstallSettings) -> Object:
    probe = {"httpGet": {"path": "/healthz", "port": "api"}}
    container = {
        **_container(settings, "control", ["python3", "-m", "seaway", "control"], CONTROL_TLS),
        "ports": [_port("api", API_PORT), _port("xds", XDS_PORT)],
        "startupProbe": probe | {"periodSeconds": 1, "failureThreshold": 120},
        "readinessProbe": probe | {"periodSeconds": 2, "failureThreshold": 2},
        "livenessProbe": probe | {"periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "resources": {
            "requests": {"cpu": "200m", "memory": "256Mi", "ephemeral-storage": "1Gi"},
            "limits": {"memory": "1Gi", "ephemeral-storage": "20Gi"},
        },
    }
    return _deployment(
        settings, CONTROL, settings.control_replicas, _pod(CONTROL, container, CONTROL_TLS, 30, token=True)
    )


def _router(settings: InstallSettings) -> Object:
    container = {
        **_container(settings, "router", ["python3", "-m", "seaway", "router", "$(SEAWAY_POD)"], ROUTER_TLS),
        "ports": [_port("http", HTTP_PORT), _port("ready", READY_PORT)],
        "startupProbe": _get("/ready") | {"periodSeconds": 1, "failureThreshold": 120},
        "readinessProbe": _get("/ready") | {"periodSeconds": 2, "failureThreshold": 1},
        "livenessProbe": _get("/alive") | {"periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "resources": {
            "requests": {"cpu": "200m", "memory": "256Mi", "ephemeral-storage": "1Gi"},
            "limits": {"memory": "2Gi", "ephemeral-storage": "4Gi"},
        },
    }
    return _deployment(settings, ROUTER, settings.routers, _pod(ROUTER, container, ROUTER_TLS, STOP_LIMIT, token=False))


def _get(path: str) -> Object:
    return {"httpGet": {"path": path, "port": "ready"}}


def _port(name: str, number: int) -> Object:
    return {"name": name, "containerPort": number, "protocol": "TCP"}


def _container(settings: InstallSettings, name: str, command: list[str], tls: str) -> Object:
    values = {
        "SEAWAY_HOME": DATA_FOLDER,
        "SEAWAY_NAMESPACE": settings.namespace,
        "SEAWAY_DOMAIN": settings.domain,
        "SEAWAY_REGISTRY": settings.registry,
        "SEAWAY_BASE_IMAGE": settings.base_image,
        "SEAWAY_INSECURE_REGISTRY": str(settings.insecure_registry).lower(),
        "HOME": "/tmp",  # noqa: S108  # an emptyDir of the pod's own
    }
    fields = {"SEAWAY_POD": "metadata.name", "SEAWAY_ADDRESS": "status.podIP"}
    return {
        "name": name,
        "image": settings.image,
        "imagePullPolicy": "IfNotPresent",
        "command": command,
        "env": [
            *({"name": key, "valueFrom": {"fieldRef": {"fieldPath": path}}} for key, path in fields.items()),
            *({"name": key, "value": value} for key, value in values.items()),
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "data", "mountPath": DATA_FOLDER},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            {"name": tls, "mountPath": TLS_FOLDER, "readOnly": True},
        ],
    }


def _deployment(settings: InstallSettings, name: str, replicas: int, pod: Object) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _meta(name, settings.namespace),
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 3,
            "selector": {"matchLabels": selector(name)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {"metadata": {"labels": labels(name)}, "spec": pod},
        },
    }


def _pod(name: str, container: Object, tls: str, stop_limit: int, *, token: bool) -> Object:
    return {
        "serviceAccountName": name,
        "automountServiceAccountToken": token,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": stop_limit,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": {
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "weight": 100,
                        "podAffinityTerm": {
                            "topologyKey": "kubernetes.io/hostname",
                            "labelSelector": {"matchLabels": selector(name)},
                        },
                    }
                ]
            }
        },
        # A node that does not answer is left soon: the other replicas serve, and one more comes elsewhere.
        "tolerations": [
            {"key": f"node.kubernetes.io/{taint}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}
            for taint in ("not-ready", "unreachable")
        ],
        "containers": [container],
        "volumes": [
            {"name": "data", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
            {"name": tls, "secret": {"secretName": tls, "defaultMode": 0o440}},
        ],
    }

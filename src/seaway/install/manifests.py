"""Seaway's own objects in a cluster: control plane, routers, access, network rules. Pure; golden files in the tests.

Only API versions that Kubernetes 1.20 and the newest both serve. The CRDs come from `seaway.store`, Secrets with
what is random from `seaway.install.secrets`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from seaway import __version__
from seaway.install.rights import CONTROL_RULES, NODE_LEASES, NODE_RULES, OWN_RULES, ROUTER_RULES, USER_RULES, Rules
from seaway.install.settings import (
    API_PORT,
    DATA_FOLDER,
    DRAIN_LIMIT,
    ENVIRONMENT_PREFIX,
    HTTP_PORT,
    LOGIN_FOLDER,
    PULL_SECRET,
    READY_PORT,
    TLS_FOLDER,
    XDS_PORT,
    XDS_SERVICE,
    InstallSettings,
)
from seaway.kube.names import API_SCHEME, CONTROL

Object = dict[str, Any]

ROUTER = "seaway-router"
CONTROL_TLS, ROUTER_TLS = "seaway-control-tls", "seaway-router-tls"
USERS = "seaway-user"
SETTINGS, SETTINGS_FILE = "seaway-install", "settings.json"
FOUND = "seaway.dev/found"
"""Annotation of a namespace that was there before Seaway, and stays when it goes."""
LEASE = "seaway-control"
USER = 10001
READY_PERIOD = 2
"""Seconds between questions whether a router is ready. A router that stops says no at once, for balancers that ask it
themselves; Kubernetes has to believe it only after the balancer's time: kube-proxy (1.26 and newer) leads what still
comes to a node to a router that is terminating, as long as that one passes for ready."""
SPARE = 5  # seconds that a router has to end in, after the balancer's time and the longest draining


def make_manifests(
    settings: InstallSettings, *, disruption_budgets: str = "", found: bool = False
) -> tuple[Object, ...]:
    """Return everything but CRDs and Secrets, in the order to apply.

    `disruption_budgets` is the API version of PodDisruptionBudget that the cluster serves ("": none is made).
    `found`: the namespace was there before Seaway.
    """
    objects = [
        _namespace(settings, found),
        _settings(settings),
        _service_account(settings, CONTROL),
        _service_account(settings, ROUTER),
        _role("ClusterRole", CONTROL, None, CONTROL_RULES),
        _binding("ClusterRole", CONTROL, settings.namespace, None),
        _role("Role", CONTROL, settings.namespace, OWN_RULES),
        _binding("Role", CONTROL, settings.namespace, settings.namespace),
        _role("Role", CONTROL, NODE_LEASES, NODE_RULES),
        _binding("Role", CONTROL, settings.namespace, NODE_LEASES),
        _role("Role", ROUTER, settings.namespace, (), ROUTER_RULES),
        _binding("Role", ROUTER, settings.namespace, settings.namespace),
        _role("Role", USERS, settings.namespace, (), USER_RULES),
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


def _namespace(settings: InstallSettings, found: bool) -> Object:
    meta = _meta(settings.namespace, None, "seaway")
    if found:  # what else is there may need more
        meta["annotations"] = {FOUND: "true"}
    else:  # Seaway's own pods keep to `restricted`; what builds Dockerfiles is root in its container
        standard = "privileged" if settings.build_image else "restricted"
        meta["labels"] |= {"pod-security.kubernetes.io/enforce": standard}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}


def _settings(settings: InstallSettings) -> Object:
    """What was asked for, so that the next `seaway install` need not be told again."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _meta(SETTINGS, settings.namespace, "seaway"),
        "data": {SETTINGS_FILE: settings.model_dump_json(indent=2)},
    }


def _service_account(settings: InstallSettings, name: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _meta(name, settings.namespace),
        "automountServiceAccountToken": False,
    }


def _role(kind: str, name: str, namespace: str | None, rules: Rules, more: Sequence[Object] = ()) -> Object:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": _meta(name, namespace),
        "rules": [
            *({"apiGroups": [group], "resources": list(what), "verbs": verbs} for group, what, verbs in rules),
            *more,
        ],
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
    probe = {"httpGet": {"path": "/healthz", "port": "api", "scheme": API_SCHEME.upper()}}
    container = {
        **_container(settings, "control", ["python3", "-m", "seaway", "control"], CONTROL_TLS, push=True),
        "ports": [_port("api", API_PORT), _port("xds", XDS_PORT)],
        "startupProbe": probe | {"periodSeconds": 1, "failureThreshold": 120},
        # A busy machine makes every replica slow at once: a slow API is better than a Service without any.
        "readinessProbe": probe | {"periodSeconds": 2, "timeoutSeconds": 5, "failureThreshold": 2},
        "livenessProbe": probe | {"periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "resources": {
            "requests": {"cpu": "200m", "memory": "256Mi", "ephemeral-storage": "1Gi"},
            "limits": {"memory": "1Gi", "ephemeral-storage": "20Gi"},
        },
    }
    return _deployment(
        settings, CONTROL, settings.control_replicas, _pod(settings, CONTROL, container, CONTROL_TLS, 30)
    )


def _router(settings: InstallSettings) -> Object:
    container = {
        **_container(settings, "router", ["python3", "-m", "seaway", "router", "$(SEAWAY_POD)"], ROUTER_TLS),
        "ports": [_port("http", HTTP_PORT), _port("ready", READY_PORT)],
        "startupProbe": _get("/alive") | {"periodSeconds": 1, "failureThreshold": 60},
        "readinessProbe": _get("/ready")
        | {
            "periodSeconds": READY_PERIOD,
            "timeoutSeconds": 5,
            "failureThreshold": math.ceil(settings.balancer_wait / READY_PERIOD) + 2,
        },
        "livenessProbe": _get("/alive") | {"periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "resources": {
            "requests": {"cpu": "200m", "memory": "256Mi", "ephemeral-storage": "1Gi"},
            "limits": {"memory": "2Gi", "ephemeral-storage": "4Gi"},
        },
    }
    stop_limit = math.ceil(settings.balancer_wait + DRAIN_LIMIT) + SPARE
    return _deployment(settings, ROUTER, settings.routers, _pod(settings, ROUTER, container, ROUTER_TLS, stop_limit))


def _get(path: str) -> Object:
    return {"httpGet": {"path": path, "port": "ready"}}


def _port(name: str, number: int) -> Object:
    return {"name": name, "containerPort": number, "protocol": "TCP"}


def _container(settings: InstallSettings, name: str, command: list[str], tls: str, *, push: bool = False) -> Object:
    login = {"name": PULL_SECRET, "mountPath": LOGIN_FOLDER, "readOnly": True}
    values = {
        "SEAWAY_HOME": DATA_FOLDER,
        "SEAWAY_NAMESPACE": settings.namespace,
        "SEAWAY_DOMAIN": settings.domain,
        "SEAWAY_REGISTRY": settings.registry,
        "SEAWAY_BASE_IMAGE": settings.base_image,
        "SEAWAY_IMAGE": settings.image,
        "SEAWAY_BUILD_IMAGE": settings.build_image,
        "SEAWAY_INSECURE_REGISTRY": str(settings.insecure_registry).lower(),
        "SEAWAY_PULL_SECRET": PULL_SECRET if settings.pull_secret else "",
        "SEAWAY_TRUSTED_PROXIES": ",".join(settings.trusted_proxies),
        "SEAWAY_PUBLIC_PORT": str(settings.node_port or 80),
        "PYTHONPYCACHEPREFIX": "/tmp/pycache",  # noqa: S108  # a container that starts again starts sooner
        "GRPC_VERBOSITY": "NONE",  # its lines are not JSON, and what they tell is told
        "SEAWAY_BALANCER_WAIT": f"{settings.balancer_wait:g}s",
        **{f"{ENVIRONMENT_PREFIX}{name.upper()}": str(quota) for name, quota in settings.quotas().items()},
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
            *([login] if push and settings.pull_secret else []),
        ],
    }


def _login() -> Object:
    """The registry's credentials as the builder reads them."""
    items = [{"key": ".dockerconfigjson", "path": "config.json"}]
    return {"name": PULL_SECRET, "secret": {"secretName": PULL_SECRET, "items": items, "defaultMode": 0o440}}


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


def _pod(settings: InstallSettings, name: str, container: Object, tls: str, stop_limit: int) -> Object:
    pulls = {"imagePullSecrets": [{"name": PULL_SECRET}]} if settings.pull_secret else {}
    return {
        "serviceAccountName": name,
        "automountServiceAccountToken": True,
        **pulls,
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
            *([_login()] if settings.pull_secret and name == CONTROL else []),
        ],
    }

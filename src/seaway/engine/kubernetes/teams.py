"""A team's namespace and what fences it in: quota, limits, an account without rights, network rules. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seaway.engine.kubernetes import names
from seaway.engine.kubernetes.manifests import Object, place_of
from seaway.engine.kubernetes.settings import PORT_NAME, KubernetesEngineSettings

NAME = "seaway"


def judge_place(team: str, settings: KubernetesEngineSettings, found: Mapping[str, str] | None) -> str:
    """Say in one sentence why the team cannot have its namespace, and what to do; "" if it can.

    `found` are the labels of the namespace that has that name now, None if there is none.
    """
    name = place_of(team, settings)
    if name == settings.own_namespace:
        return f"the team {team} would live in namespace {name}, which is the control plane's own: choose another team"
    if found is not None and found.get(names.TEAM) != team:
        return (
            f"namespace {name} exists and is not Seaway's for team {team}: choose another team, delete the namespace, "
            f"or label it {names.TEAM}={team}"
        )
    return ""


def make_namespace(team: str, settings: KubernetesEngineSettings) -> Object:
    """Return the namespace. Kubernetes' own admission holds its pods to the restricted standard, from 1.23 on."""
    metadata = {
        "name": place_of(team, settings),
        "labels": _labels(team) | {"pod-security.kubernetes.io/enforce": "restricted"},
    }
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def make_fences(team: str, settings: KubernetesEngineSettings) -> tuple[Object, ...]:
    """Return what a team's namespace holds besides its apps."""
    return (
        _make("v1", "ServiceAccount", names.ACCOUNT, team, settings, automountServiceAccountToken=False),
        _make("v1", "ResourceQuota", NAME, team, settings, spec={"hard": dict(settings.quota)}),
        _make("v1", "LimitRange", NAME, team, settings, spec={"limits": [_default_limits(settings)]}),
        _policy("seaway-default", team, settings, {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": []}),
        _policy("seaway-routers", team, settings, _from_routers(settings)),
        _policy("seaway-outside", team, settings, _to_outside(settings)),
    )


def make_pull_secret(team: str, settings: KubernetesEngineSettings, data: dict[str, str], kind: str) -> Object:
    """Return the team's copy of the image pull Secret."""
    return _make("v1", "Secret", names.PULL_SECRET, team, settings, type=kind, data=data)


def _labels(team: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": NAME,
        "app.kubernetes.io/component": names.FENCE,
        "app.kubernetes.io/part-of": team,
        names.MANAGED_BY: names.MANAGER,
        names.TEAM: team,
        names.KIND: names.FENCE,
    }


def _make(version: str, kind: str, name: str, team: str, settings: KubernetesEngineSettings, **content: Any) -> Object:
    metadata = {"name": name, "namespace": place_of(team, settings), "labels": _labels(team)}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **content}


def _policy(name: str, team: str, settings: KubernetesEngineSettings, spec: Object) -> Object:
    return _make("networking.k8s.io/v1", "NetworkPolicy", name, team, settings, spec=spec)


def _default_limits(settings: KubernetesEngineSettings) -> Object:
    """What containers get that say nothing: those that somebody else starts here."""
    return {
        "type": "Container",
        "defaultRequest": {"cpu": settings.cpu_request, "memory": settings.memory_request},
        "default": {"memory": settings.memory_limit},
    }


def _from_routers(settings: KubernetesEngineSettings) -> Object:
    routers = {
        "namespaceSelector": {"matchLabels": dict(settings.router_namespace)},
        "podSelector": {"matchLabels": dict(settings.router_labels)},
    }
    return {
        "podSelector": {"matchLabels": {names.KIND: names.INSTANCE}},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [routers], "ports": [{"protocol": "TCP", "port": PORT_NAME}]}],
    }


def _to_outside(settings: KubernetesEngineSettings) -> Object:
    """Names, the world and what else runs in the cluster, such as backing services; no team's pods."""
    dns = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    others = {"namespaceSelector": {"matchExpressions": [{"key": names.TEAM, "operator": "DoesNotExist"}]}}
    world = [
        {"ipBlock": {"cidr": "0.0.0.0/0", **({"except": list(settings.unreachable)} if settings.unreachable else {})}},
        {"ipBlock": {"cidr": "::/0"}},
    ]
    return {
        "podSelector": {},
        "policyTypes": ["Egress"],
        "egress": [{"ports": dns}, {"to": [others, *world]}],
    }

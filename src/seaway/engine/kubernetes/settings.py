"""What the Kubernetes engine is told by the composition root."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PORT = 8080
"""The port an instance is told to listen on unless its image has one of its own: pods have an address each."""
PORT_NAME = "http"


def _router_labels() -> Mapping[str, str]:
    return {"app.kubernetes.io/name": "seaway", "app.kubernetes.io/component": "seaway-router"}


def _router_place() -> Mapping[str, str]:
    return {"app.kubernetes.io/name": "seaway", "app.kubernetes.io/component": "seaway"}


def _quota() -> Mapping[str, str]:
    return {"pods": "1000", "requests.cpu": "200", "requests.memory": "800Gi", "services.loadbalancers": "0",
            "services.nodeports": "0"}  # fmt: skip


@dataclass(frozen=True)
class KubernetesEngineSettings:
    """How instances are run in a cluster. Amounts are written as Kubernetes does; times are seconds."""

    namespace_prefix: str = "seaway-"  # of the teams' namespaces
    own_namespace: str = ""  # the control plane's: no team's
    registry: str = ""  # HOST/PATH before an image that is only a digest
    pull_secret: str = ""  # NAMESPACE/NAME of the Secret that nodes pull images with; copied to the teams
    router_namespace: Mapping[str, str] = field(default_factory=_router_place)  # its labels; 1.20 gives it none itself
    router_labels: Mapping[str, str] = field(default_factory=_router_labels)
    cpu_request: str = "100m"
    cpu_limit: str = ""  # "": none, an instance may use what is idle
    memory_request: str = "128Mi"
    memory_limit: str = "1Gi"
    storage_request: str = "64Mi"  # without one Kubernetes would take the limit for it
    storage_limit: str = "2Gi"  # what an instance may write to its node's disk
    quota: Mapping[str, str] = field(default_factory=_quota)  # of each team
    unreachable: tuple[str, ...] = ("169.254.0.0/16",)  # what instances may not reach: clouds keep keys there
    user: int = 10001  # who instances run as, never root
    read_only_root: bool = True
    pre_stop: int = 2  # how long a routed pod that is stopped from outside goes on serving: routers hear of it
    keep_failed: float = 60.0  # how long an evicted instance is shown
    task_ttl: int = 86400  # how long a finished one-off is kept at most
    stale_after: float = 60.0  # for so long the last picture is good while the API server does not answer

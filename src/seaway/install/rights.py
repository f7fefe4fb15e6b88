"""What each part may do in the cluster: no more than it does. Pure."""

from __future__ import annotations

from typing import Any

from seaway.install.settings import XDS_SERVICE
from seaway.kube.kinds import GROUP
from seaway.kube.names import API_SCHEME, CONTROL

_READ = ["get", "list", "watch"]
_MAKE = [*_READ, "create", "patch"]
_ALL = [*_MAKE, "delete", "update"]
Rules = tuple[tuple[str, tuple[str, ...], list[str]], ...]
"""API group, resources, verbs."""

CONTROL_RULES: Rules = (
    ("", ("namespaces", "serviceaccounts", "resourcequotas", "limitranges"), _MAKE),
    ("", ("secrets",), [*_MAKE, "delete"]),
    ("", ("pods",), [*_READ, "delete", "patch"]),
    ("", ("pods/log",), ["get"]),
    ("", ("pods/attach",), ["create", "get"]),
    ("", ("nodes",), [*_READ, "patch"]),
    ("", ("events",), _READ),
    ("metrics.k8s.io", ("pods",), ["list"]),
    ("apps", ("replicasets",), _ALL),
    ("batch", ("jobs",), [*_MAKE, "delete"]),
    ("networking.k8s.io", ("networkpolicies",), _MAKE),
    ("policy", ("poddisruptionbudgets",), [*_MAKE, "delete"]),
)
"""In every namespace: teams' namespaces come and go."""
OWN_RULES: Rules = (
    (GROUP, ("*",), _ALL),
    ("coordination.k8s.io", ("leases",), [*_READ, "create", "update"]),
)
NODE_LEASES = "kube-node-lease"
NODE_RULES: Rules = (("coordination.k8s.io", ("leases",), _READ),)
"""How a node that went silent is seen within seconds."""

ROUTER_RULES: list[dict[str, Any]] = [
    {"apiGroups": [""], "resources": ["endpoints"], "resourceNames": [XDS_SERVICE], "verbs": ["get"]},
]
"""Where every replica of the control plane is: routers report to all, and must find them without DNS."""
USER_RULES: list[dict[str, Any]] = [
    {
        "apiGroups": [""],
        "resources": ["services/proxy"],
        "resourceNames": [f"{API_SCHEME}:{CONTROL}:api"],
        "verbs": ["get", "create", "update", "patch", "delete"],
    },
]
"""What a user of the cluster needs so that his `seaway` reaches the API; what he may do there his token says."""

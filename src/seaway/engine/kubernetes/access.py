"""The rights that the engine and the reader of logs need in a cluster; no more. Data only."""

from __future__ import annotations

RULES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("", ("namespaces",), ("create", "get", "patch")),
    ("", ("pods",), ("delete", "list", "watch")),
    ("", ("pods/log",), ("get",)),
    ("", ("pods/attach",), ("create", "get")),
    ("", ("secrets",), ("create", "delete", "get", "list", "patch", "watch")),
    ("", ("limitranges", "resourcequotas", "serviceaccounts"), ("create", "list", "patch", "watch")),
    ("", ("nodes",), ("get", "list", "patch", "watch")),
    ("", ("events",), ("list", "watch")),
    ("metrics.k8s.io", ("pods",), ("list",)),
    ("apps", ("replicasets",), ("create", "delete", "get", "list", "patch", "update", "watch")),
    ("batch", ("jobs",), ("create", "delete", "list", "patch", "watch")),
    ("networking.k8s.io", ("networkpolicies",), ("create", "list", "patch", "watch")),
    ("policy", ("poddisruptionbudgets",), ("create", "list", "patch", "watch")),
    ("coordination.k8s.io", ("leases",), ("list", "watch")),
)
"""API group, resources, verbs. Leases are read in kube-node-lease alone."""

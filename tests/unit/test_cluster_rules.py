"""The audit's rules: a sound cluster has no finding; each thing that is wrong has its own, with advice."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from seaway.cluster.facts import (
    Binding,
    Etcd,
    Facts,
    Impersonated,
    Node,
    OpenPort,
    SecretsAtRest,
    Server,
    Stored,
    Tls,
)
from seaway.cluster.rules import CHECKS, judge, list_possible

NOW = datetime(2030, 1, 1, tzinfo=UTC)
FINE = Tls(NOW + timedelta(days=300))
API = Server("api", "m1", "10.0.0.11:6444", True, FINE, 401, True, version="v1.29.3")
ETCD = Server("etcd", "m1", "10.0.0.11:2379", True, FINE, 0, True)
MANAGER = Server("controller-manager", "m1", "10.0.0.11:10257", True, FINE, 403, True, version="v1.29.3")
KUBELET = Server("kubelet", "w1", "10.0.0.21:10250", True, FINE, 401, True)
SOUND = Facts(
    now=NOW,
    servers=(API, replace(API, name="m2"), ETCD, MANAGER, KUBELET),
    etcd=Etcd(("m1", "m2", "m3"), leaders=frozenset({"1"})),
    secrets=SecretsAtRest(12),
    nodes=(Node("w1", "v1.28.1", True),),
    bindings=(
        Binding("admins", "cluster-admin", "group system:masters"),
        Binding("basic", "system:basic-user", "group system:authenticated"),
        Binding("ci", "edit", "service account ci/deployer"),
    ),
    impersonated=Impersonated(403, 403, 403),
    leases={"kube-scheduler": 1.5},
    flags={"kube-apiserver-m1": {"encryption-provider-config": "e", "audit-log-path": "a", "audit-policy-file": "p",
                                 "authorization-mode": "Node,RBAC"}},
    stored=(Stored("pki/ca.key", 0o600), Stored("pki/ca.crt", 0o644, NOW + timedelta(days=3000))),
    own_certificate_ends=NOW + timedelta(days=300),
)  # fmt: skip


def only_server(server: Server) -> dict[str, Any]:
    """Return the change that has two API servers and this one."""
    return {"servers": (API, replace(API, name="m2"), server)}


def test_a_sound_cluster_has_no_finding() -> None:
    """And everything could be looked at."""
    assert judge(SOUND) == []
    assert list_possible(SOUND) == list(CHECKS)


@pytest.mark.parametrize(
    ("change", "check", "problem"),
    [
        (only_server(replace(ETCD, reachable=False)), "members", "does not answer at 10.0.0.11:2379"),
        (only_server(replace(ETCD, healthy=False)), "members", "says that it is not well"),
        ({"servers": (API,)}, "members", "only one API server"),
        ({"leases": {"kube-scheduler": 90.0}}, "members", "no leader has renewed its lease for 90 s"),
        ({"etcd": Etcd(("m1",), leaders=frozenset({"1"}))}, "quorum", "1 members survive the loss of 0"),
        ({"etcd": Etcd(("a", "b", "c", "d"), leaders=frozenset({"1"}))}, "quorum", "4 members survive the loss of 1"),
        ({"etcd": Etcd(("a", "b", "c"))}, "quorum", "there is no leader"),
        ({"etcd": Etcd(("a", "b", "c"), leaders=frozenset({"1", "2"}))}, "quorum", "name 2 leaders"),
        ({"etcd": Etcd(("a", "b", "c"), ("c",), frozenset({"1"}))}, "quorum", "is a learner"),
        ({"etcd": Etcd(("a", "b", "c"), (), frozenset({"1"}), ("NOSPACE",))}, "quorum", "alarm NOSPACE"),
        (only_server(replace(ETCD, plain=True, tls=None)), "tls", "answers plain HTTP"),
        (only_server(replace(API, tls=replace(FINE, problem="self-signed certificate"))), "tls", "self-signed"),
        (only_server(replace(API, tls=replace(FINE, old_protocols=("TLS 1.0",)))), "tls", "still speaks TLS 1.0"),
        (only_server(replace(API, tls=Tls(NOW + timedelta(days=29, hours=1)))), "expiry", "ends in 29 days"),
        (only_server(replace(API, tls=Tls(NOW - timedelta(days=1)))), "expiry", "ended on 2029-12-31"),
        ({"own_certificate_ends": NOW + timedelta(days=3)}, "expiry", "ends in 3 days"),
        ({"stored": (Stored("x.crt", 0o644, NOW),)}, "expiry", "ends in 0 days"),
        ({"stored": (Stored("x.key", 0o640),)}, "keys", "has mode 0640"),
        (only_server(replace(API, anonymous=200)), "anonymous", "answers 200"),
        (only_server(replace(API, anonymous=403)), "anonymous", "answers 403"),
        (only_server(replace(ETCD, anonymous=200)), "anonymous", "takes clients without a certificate"),
        (only_server(replace(MANAGER, anonymous=200)), "anonymous", "answers 200"),
        ({"open_ports": (OpenPort("m1", "10.0.0.11:8080", "the API server"),)}, "insecure-ports", "10.0.0.11:8080"),
        ({"impersonated": Impersonated(200, 403, 403)}, "authorization", "a user without any role"),
        ({"impersonated": Impersonated(403, 200, 403)}, "authorization", "a node may list all secrets"),
        ({"impersonated": Impersonated(403, 403, 201)}, "admission", "a node may create other nodes"),
        ({"secrets": SecretsAtRest(12, ("default/db",))}, "encryption", "1 of 12 secrets looked at are plain text"),
        ({"nodes": (Node("w1", "v1.30.0", True),)}, "versions", "is newer than an API server"),
        ({"nodes": (Node("w1", "v1.25.0", True),)}, "versions", "is over 3 minor versions behind"),
        (only_server(replace(API, version="v1.27.0")), "versions", "API servers from 1.27 to 1.29"),
        (only_server(replace(MANAGER, version="v1.30.0")), "versions", "does not go with an API server of 1.29"),
        ({"bindings": (Binding("b", "edit", "service account shop/default"),)}, "default-tokens", "has the role edit"),
        ({"bindings": (Binding("b", "view", "group system:authenticated"),)}, "default-tokens", "has the role view"),
        ({"bindings": (Binding("b", "view", "user system:anonymous"),)}, "default-tokens", "has the role view"),
        ({"bindings": (Binding("b", "view", "group system:serviceaccounts:x"),)}, "default-tokens", "the role view"),
        ({"default_pods": ("shop/web",)}, "default-tokens", "mount their namespace's default token (shop/web)"),
        (only_server(replace(KUBELET, anonymous=200)), "kubelets", "answers 200"),
        ({"flags": {"kube-apiserver-m1": {"authorization-mode": "AlwaysAllow"}}}, "flags", "is AlwaysAllow"),
        ({"flags": {"kube-apiserver-m1": {"authorization-mode": "RBAC"}}}, "flags", "runs without --audit-log-path"),
        ({"nodes": (Node("w1", "v1.29.0", False),)}, "nodes", "is not ready"),
    ],
)
def test_each_fault_is_found(change: dict[str, Any], check: str, problem: str) -> None:
    """Under its own check's name, and with something to do about it."""
    findings = judge(replace(SOUND, **change))
    assert {finding.check for finding in findings} == {check}
    assert any(problem in finding.problem + finding.subject for finding in findings)
    assert all(finding.advice for finding in findings)


def test_old_kubelets_may_be_two_behind_only() -> None:
    """Before 1.28 the limit was two."""
    servers = (replace(API, version="v1.20.2"), replace(API, name="m2", version="v1.20.2"))
    assert judge(replace(SOUND, servers=servers, nodes=(Node("w1", "v1.18.0", True),))) == []
    assert judge(replace(SOUND, servers=servers, nodes=(Node("w1", "v1.17.0", True),)))


def test_what_could_not_be_looked_at_is_not_called_sound() -> None:
    """Without etcd's keys and impersonation there is no word on them."""
    seen = replace(SOUND, etcd=None, secrets=None, impersonated=None, stored=(), flags={})
    assert judge(seen) == []
    lacking = {"quorum", "encryption", "authorization", "admission", "keys", "flags"}
    assert set(CHECKS) - set(list_possible(seen)) == lacking

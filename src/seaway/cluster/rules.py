"""What a secured, highly available cluster has to be like: facts in, findings out. Pure.

The same list as `seaway cluster render` follows; each finding says what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from seaway.cluster.facts import Facts, Server

SOON = 30  # days before its end that a certificate becomes a finding
STALE_LEASE = 60  # seconds; leaders renew every 2
RERENDER = "run `seaway cluster render` again, copy the files and restart what uses them"
BROAD = frozenset(
    {"group system:authenticated", "group system:unauthenticated", "user system:anonymous",
     "group system:serviceaccounts"}
)  # fmt: skip
HARMLESS = frozenset(
    {"system:public-info-viewer", "system:basic-user", "system:discovery", "system:service-account-issuer-discovery"}
)
"""Roles that Kubernetes itself gives to everyone."""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be, and what to do about it."""

    check: str
    subject: str
    problem: str
    advice: str


def judge(facts: Facts) -> list[Finding]:
    """Return every finding, in the order of CHECKS."""
    return [finding for check in CHECKS.values() for finding in check(facts)]


def list_possible(facts: Facts) -> list[str]:
    """Return the checks for which there was something to look at."""
    lacking = {
        "quorum": facts.etcd is None,
        "encryption": facts.secrets is None,
        "keys": not facts.stored,
        "authorization": facts.impersonated is None,
        "admission": facts.impersonated is None,
        "flags": not facts.flags,
    }
    return [name for name in CHECKS if not lacking.get(name)]


def of_kind(facts: Facts, *kinds: str) -> Iterator[Server]:
    """Yield the servers of some kinds that answer."""
    return (server for server in facts.servers if server.kind in kinds and server.reachable)


def check_members(facts: Facts) -> Iterator[Finding]:
    """Every server answers and is well; etcd has an odd number of members, one leader and no alarm."""
    for server in facts.servers:
        where = f"{server.kind} {server.name}"
        if not server.reachable:
            yield Finding(
                "members", where, f"does not answer at {server.address}", f"start it; see its log on {server.name}"
            )
        elif server.healthy is False:
            yield Finding("members", where, "answers, but says that it is not well", f"see its log on {server.name}")
    servers = [server for server in facts.servers if server.kind == "api"]
    if len(servers) == 1:
        yield Finding("members", "api", "there is only one API server", "add masters in cluster.toml and render again")
    for name, age in (facts.leases or {}).items():
        if age > STALE_LEASE:
            yield Finding(
                "members", name, f"no leader has renewed its lease for {age:.0f} s", f"start {name} on a master"
            )


def check_quorum(facts: Facts) -> Iterator[Finding]:
    """etcd survives the loss of a member."""
    etcd = facts.etcd
    if etcd is None:
        return
    count = len(etcd.members)
    if count < 3 or count % 2 == 0:
        yield Finding("quorum", "etcd", f"{count} members survive the loss of {(count - 1) // 2}", "run 3 or 5 members")
    if len(etcd.leaders) != 1:
        told = f"members name {len(etcd.leaders)} leaders" if etcd.leaders else "there is no leader"
        yield Finding(
            "quorum", "etcd", told, "see to it that a majority of members runs and reaches each other on 2380"
        )
    for name in etcd.learners:
        yield Finding("quorum", f"etcd {name}", "is a learner without a vote", f"`etcdctl member promote` {name}")
    for alarm in etcd.alarms:
        yield Finding(
            "quorum", "etcd", f"alarm {alarm}", "free space (compact and defragment), then `etcdctl alarm disarm`"
        )


def check_tls(facts: Facts) -> Iterator[Finding]:
    """Only TLS 1.2 and newer, with certificates that a strict client takes."""
    for server in facts.servers:
        where = f"{server.kind} {server.name}"
        if server.plain:
            yield Finding("tls", where, f"answers plain HTTP at {server.address}", "start it with the rendered flags")
        if server.tls is None:
            continue
        if server.tls.problem:
            yield Finding("tls", where, f"a client refuses it: {server.tls.problem}", RERENDER)
        if server.tls.old_protocols:
            old = ", ".join(server.tls.old_protocols)
            yield Finding(
                "tls", where, f"still speaks {old}", "set --tls-min-version=VersionTLS12, or --cipher-suites of etcd"
            )


def check_expiry(facts: Facts) -> Iterator[Finding]:
    """No certificate ends within SOON days."""
    ends: list[tuple[str, datetime]] = [
        (f"{server.kind} {server.name}", server.tls.ends) for server in facts.servers if server.tls is not None
    ]
    ends += [(stored.path, stored.ends) for stored in facts.stored if stored.ends is not None]
    if facts.own_certificate_ends is not None:
        ends.append(("your kubeconfig", facts.own_certificate_ends))
    for subject, end in ends:
        left = (end - facts.now).days
        if left < SOON:
            told = (
                f"its certificate ended on {end:%Y-%m-%d}"
                if end < facts.now
                else f"its certificate ends in {left} days"
            )
            yield Finding("expiry", subject, told, RERENDER)


def check_keys(facts: Facts) -> Iterator[Finding]:
    """Private keys are readable by their owner only."""
    for stored in facts.stored:
        if stored.ends is None and stored.mode & 0o077:
            yield Finding("keys", stored.path, f"has mode {stored.mode:04o}", f"chmod 600 {stored.path}")


def check_anonymous(facts: Facts) -> Iterator[Finding]:
    """Without credentials there is no answer but 401 (of controllers also 403); etcd refuses the handshake."""
    for server in of_kind(facts, "api", "balancer"):
        if server.anonymous not in {0, 401}:
            yield Finding(
                "anonymous",
                f"{server.kind} {server.name}",
                f"answers {server.anonymous} to a request without credentials",
                "start the API servers with --anonymous-auth=false",
            )
    for server in of_kind(facts, "etcd"):
        if server.anonymous:
            yield Finding(
                "anonymous", f"etcd {server.name}", "takes clients without a certificate", "set --client-cert-auth=true"
            )
    for server in of_kind(facts, "controller-manager", "scheduler"):
        if server.anonymous not in {0, 401, 403}:
            yield Finding(
                "anonymous",
                f"{server.kind} {server.name}",
                f"answers {server.anonymous} to a request without credentials",
                "set --authentication-kubeconfig and --authorization-kubeconfig",
            )


def check_insecure_ports(facts: Facts) -> Iterator[Finding]:
    """No port answers without TLS and credentials."""
    for port in facts.open_ports:
        yield Finding(
            "insecure-ports", port.machine, f"{port.what} answers at {port.address} without TLS or credentials",
            "close it (the rendered flags do) and let the firewall drop it: nftables.d/seaway-masters.nft",
        )  # fmt: skip


def check_authorization(facts: Facts) -> Iterator[Finding]:
    """RBAC refuses somebody without rights; the Node authorizer refuses a node other nodes' secrets."""
    seen = facts.impersonated
    if seen is None:
        return
    advice = "start the API servers with --authorization-mode=Node,RBAC"
    if seen.nobody_lists_secrets == 200:
        yield Finding("authorization", "api", "a user without any role may list all secrets", advice)
    if seen.node_lists_secrets == 200:
        yield Finding("authorization", "api", "a node may list all secrets", advice)


def check_admission(facts: Facts) -> Iterator[Finding]:
    """NodeRestriction keeps a node from changing others."""
    seen = facts.impersonated
    if seen is not None and 200 <= seen.node_makes_other_node < 300:
        yield Finding(
            "admission",
            "api",
            "a node may create other nodes",
            "start the API servers with --enable-admission-plugins=NodeRestriction",
        )


def check_encryption(facts: Facts) -> Iterator[Finding]:
    """No secret lies in etcd as plain text."""
    found = facts.secrets
    if found is not None and found.plain:
        yield Finding(
            "encryption",
            "etcd",
            f"{len(found.plain)} of {found.looked_at} secrets looked at are plain text, such as {found.plain[0]}",
            "set --encryption-provider-config, then `kubectl get secrets -A -o json | kubectl replace -f -`",
        )


def check_versions(facts: Facts) -> Iterator[Finding]:
    """API servers are of one version or neighbours; no kubelet is newer than they or too far behind."""
    servers = sorted({minor_of(server.version) for server in facts.servers if server.kind == "api" and server.version})
    if not servers:
        return
    if servers[-1] - servers[0] > 1:
        yield Finding(
            "versions",
            "api",
            f"API servers from 1.{servers[0]} to 1.{servers[-1]}",
            "they may be one minor version apart",
        )
    behind = 3 if servers[0] >= 28 else 2
    for node in facts.nodes:
        minor = minor_of(node.version)
        if minor > servers[0]:
            yield Finding(
                "versions",
                f"node {node.name}",
                f"{node.version} is newer than an API server",
                "update the masters first",
            )
        elif servers[-1] - minor > behind:
            yield Finding(
                "versions",
                f"node {node.name}",
                f"{node.version} is over {behind} minor versions behind 1.{servers[-1]}",
                "drain and update it",
            )
    for server in of_kind(facts, "controller-manager", "scheduler"):
        if server.version and not 0 <= servers[0] - minor_of(server.version) <= 1:
            yield Finding(
                "versions",
                f"{server.kind} {server.name}",
                f"{server.version} does not go with an API server of 1.{servers[0]}",
                "it may be one minor version older, never newer",
            )


def check_tokens(facts: Facts) -> Iterator[Finding]:
    """Default service accounts and everyone have no rights but what Kubernetes gives; no pod mounts such a token."""
    for binding in facts.bindings:
        default = binding.subject.startswith("service account ") and binding.subject.endswith("/default")
        group = binding.subject.startswith("group system:serviceaccounts:")
        if (default or group or binding.subject in BROAD) and binding.role not in HARMLESS:
            yield Finding(
                "default-tokens",
                binding.subject,
                f"has the role {binding.role} by the binding {binding.name}",
                "bind the role to a service account of its own, used by the pods that need it",
            )
    if facts.default_pods:
        names = ", ".join(facts.default_pods[:3]) + (" and more" if len(facts.default_pods) > 3 else "")
        yield Finding(
            "default-tokens",
            f"{len(facts.default_pods)} pods",
            f"mount their namespace's default token ({names})",
            "set automountServiceAccountToken: false on them or on the default service account",
        )


def check_kubelets(facts: Facts) -> Iterator[Finding]:
    """Kubelets answer nobody without credentials."""
    for server in of_kind(facts, "kubelet"):
        if server.anonymous not in {0, 401}:
            yield Finding(
                "kubelets",
                server.name,
                f"answers {server.anonymous} to a request without credentials",
                "set authentication.anonymous.enabled: false and authorization.mode: Webhook in its configuration",
            )


def check_flags(facts: Facts) -> Iterator[Finding]:
    """Components that run as pods (kubeadm) show their flags; those that cannot be seen from outside are read there."""
    for pod, flags in (facts.flags or {}).items():
        if not pod.startswith("kube-apiserver"):
            continue
        for flag, advice in (
            ("encryption-provider-config", "encrypt secrets at rest"),
            ("audit-log-path", "keep an audit log"),
            ("audit-policy-file", "say what the audit log keeps"),
        ):
            if not flags.get(flag):
                yield Finding(
                    "flags", pod, f"runs without --{flag}", f"{advice}: take the rendered kubeadm configuration"
                )
        modes = flags.get("authorization-mode", "AlwaysAllow").split(",")
        if "AlwaysAllow" in modes or "RBAC" not in modes:
            yield Finding("flags", pod, f"--authorization-mode is {','.join(modes)}", "set it to Node,RBAC")


def check_nodes(facts: Facts) -> Iterator[Finding]:
    """Every node is ready."""
    for node in facts.nodes:
        if not node.ready:
            yield Finding(
                "nodes", node.name, "is not ready", f"see `kubectl describe node {node.name}` and its kubelet's log"
            )


CHECKS: dict[str, Callable[[Facts], Iterable[Finding]]] = {
    "members": check_members,
    "quorum": check_quorum,
    "tls": check_tls,
    "expiry": check_expiry,
    "keys": check_keys,
    "anonymous": check_anonymous,
    "insecure-ports": check_insecure_ports,
    "authorization": check_authorization,
    "admission": check_admission,
    "encryption": check_encryption,
    "versions": check_versions,
    "default-tokens": check_tokens,
    "kubelets": check_kubelets,
    "flags": check_flags,
    "nodes": check_nodes,
}


def minor_of(version: str) -> int:
    """Return the minor number of a version such as v1.20.2."""
    return int(version.split(".")[1].rstrip("+"))

"""Gathers the facts of a live cluster: the API by the kubeconfig, machines by cluster.toml, etcd by our own PKI."""

from __future__ import annotations

import base64
import re
import secrets as randomness
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509

from seaway.cluster.config import Cluster, ClusterError
from seaway.cluster.facts import (
    Binding,
    Etcd,
    Facts,
    Impersonated,
    Kind,
    Node,
    OpenPort,
    SecretsAtRest,
    Server,
    Stored,
)
from seaway.cluster.kubeconfig import Access
from seaway.cluster.probing import Answer, ask, ends_of, see_server, why_refused

PATHS: dict[Kind, tuple[str, str]] = {  # one that tells of health, one that is closed to strangers
    "api": ("/readyz", "/version"),
    "balancer": ("/readyz", "/version"),
    "etcd": ("/health", "/health"),
    "controller-manager": ("/healthz", "/metrics"),
    "scheduler": ("/healthz", "/metrics"),
    "kubelet": ("/healthz", "/pods"),
}
PLAIN_PORTS = {
    "api": ((8080, "the API server"),),
    "controllers": ((10252, "the controller manager"), (10251, "the scheduler")),
}
SECRETS_LOOKED_AT = 500
ELECTIONS = ("kube-controller-manager", "kube-scheduler")


class Looker:
    """Looks at one cluster. `cluster` and `store` (the rendered pki folder) widen what can be seen."""

    def __init__(self, access: Access, cluster: Cluster | None, store: Path | None) -> None:
        self._access = access
        self._context = access.context()
        self._cluster = cluster
        self._store = store
        self._unknown: list[str] = []

    def look(self) -> Facts:
        """Return everything that can be seen; raises ClusterError if the API does not answer or does not know us."""
        version = self._get("/version")
        if version.status == 0:
            parts = urlsplit(self._access.server)
            why = why_refused(str(parts.hostname), parts.port or 443, self._access)
            raise ClusterError(f"no answer from the API at {self._access.server}: {why}")
        if version.status != 200:
            raise ClusterError(f"the API answers {version.status}: the kubeconfig's user may not read /version")
        now = parsedate_to_datetime(version.headers["Date"]) if "Date" in version.headers else datetime.now(UTC)
        nodes = self._items("/api/v1/nodes")
        pods = self._items("/api/v1/pods")
        return Facts(
            now=now,
            servers=tuple(self._see_servers(nodes)),
            open_ports=tuple(self._find_open_ports(nodes)),
            etcd=self._see_etcd(),
            secrets=self._see_secrets(),
            nodes=tuple(read_node(node) for node in nodes),
            bindings=tuple(self._list_bindings()),
            default_pods=tuple(find_default_pods(pods)),
            impersonated=self._impersonate(nodes),
            leases=self._read_leases(now),
            flags=read_flags(pods),
            stored=tuple(list_stored(self._store)),
            own_certificate_ends=ends_of(self._access),
            unknown=tuple(self._unknown),
        )

    def _get(self, path: str, **headers: str) -> Answer:
        return ask(f"{self._access.server}{path}", self._context, headers=self._access.headers() | headers)

    def _items(self, path: str) -> list[dict[str, Any]]:
        """Return the items of a list, or nothing and a word about it in `unknown`."""
        answer = self._get(path)
        if answer.status != 200:
            self._unknown.append(f"{path}: the API answers {answer.status}; use an administrator's kubeconfig")
            return []
        return list(answer.document().get("items") or [])

    def _see_servers(self, nodes: list[dict[str, Any]]) -> Iterator[Server]:
        """Look at all servers at once; most of the time goes by waiting."""
        with ThreadPoolExecutor(max_workers=16) as pool:
            jobs = [pool.submit(self._see, *target) for target in self._list_targets(nodes)]
            yield from (job.result() for job in jobs)

    def _see(self, kind: Kind, name: str, host: str, port: int) -> Server:
        access = (self._etcd_access() if kind == "etcd" else None) or self._access
        healthy, closed = PATHS[kind]
        server = see_server(kind, name, (host, port), access, healthy=healthy, closed=closed)
        if kind == "etcd" and access is self._access:
            return replace(server, healthy=None, tls=None)  # its authority is another; without it nothing can be said
        if kind == "api" and server.reachable:
            shown = ask(f"https://{host}:{port}/version", *self._prove(server)).document()
            return replace(server, version=str(shown.get("gitVersion", "")))
        if kind in {"controller-manager", "scheduler"} and server.reachable:
            metrics = ask(f"https://{host}:{port}/metrics", *self._prove(server)).body
            found = re.search(
                rb'^kubernetes_build_info\{.*?(?:gitVersion|git_version)="([^"]+)"', metrics, re.MULTILINE
            )
            return replace(server, version=found.group(1).decode() if found else "")
        return server

    def _prove(self, server: Server) -> tuple[ssl.SSLContext, dict[str, str]]:
        """Return how to ask a server as ourselves; no token for one whose certificate is refused."""
        sound = server.tls is not None and not server.tls.problem
        return self._access.context(verify=False), self._access.headers() if sound else {}

    def _list_targets(self, nodes: list[dict[str, Any]]) -> Iterator[tuple[Kind, str, str, int]]:
        """Yield kind, name, host and port of every server that we know of."""
        parts = urlsplit(self._access.server)
        yield "balancer", str(parts.hostname), str(parts.hostname), parts.port or 443
        if self._cluster is None:
            yield from (("api", host, host, port) for host, port in self._list_api_endpoints())
            self._unknown.append("etcd, controller managers, schedulers: name the masters by --file cluster.toml")
        else:
            for master in self._cluster.masters:
                host = str(master.address)
                if "api" in master.roles:
                    yield "api", master.name, host, self._cluster.api.server_port
                if "etcd" in master.roles:
                    yield "etcd", master.name, host, 2379
                if "controllers" in master.roles:
                    yield "controller-manager", master.name, host, 10257
                    yield "scheduler", master.name, host, 10259
        for node in nodes:
            port = node["status"].get("daemonEndpoints", {}).get("kubeletEndpoint", {}).get("Port", 10250)
            yield "kubelet", node["metadata"]["name"], internal_address(node), int(port)

    def _list_api_endpoints(self) -> Iterator[tuple[str, int]]:
        found = self._get("/api/v1/namespaces/default/endpoints/kubernetes").document()
        for subset in found.get("subsets") or []:
            for address in subset.get("addresses") or []:
                for port in subset.get("ports") or []:
                    yield address["ip"], int(port["port"])

    def _find_open_ports(self, nodes: list[dict[str, Any]]) -> Iterator[OpenPort]:
        """Ask the ports that old versions opened in plain HTTP, and kubelets' read-only port."""
        wanted = [
            (node["metadata"]["name"], internal_address(node), 10255, "the kubelet's read-only port") for node in nodes
        ]
        for master in self._cluster.masters if self._cluster else ():
            for role, ports in PLAIN_PORTS.items():
                if role in master.roles:
                    wanted += [(master.name, str(master.address), port, what) for port, what in ports]
        with ThreadPoolExecutor(max_workers=16) as pool:
            answers = pool.map(lambda target: ask(f"http://{target[1]}:{target[2]}/healthz", None), wanted)
            for (name, host, port, what), answer in zip(wanted, answers, strict=True):
                if answer.status:
                    yield OpenPort(name, f"{host}:{port}", what)

    def _etcd_access(self) -> Access | None:
        """Return the way to etcd by the rendered PKI, or None."""
        if self._store is None or self._cluster is None:
            return None
        try:
            authority = (self._store / "etcd/ca.crt").read_text()
            certificate = (self._store / "people/etcd-operator.crt").read_text()
            key = (self._store / "people/etcd-operator.key").read_text()
        except OSError:
            return None
        return Access("", authority, certificate, key)

    def _ask_etcd(self, path: str, body: dict[str, Any]) -> Iterator[tuple[str, Answer]]:
        """Yield each member's name and its answer."""
        access = self._etcd_access()
        assert access is not None
        assert self._cluster is not None
        for master in self._cluster.with_role("etcd"):
            url = f"https://{master.address}:2379{path}"
            yield master.name, ask(url, access.context(), method="POST", body=body)

    def _see_etcd(self) -> Etcd | None:
        if self._etcd_access() is None:
            self._unknown.append("etcd's members and encryption at rest: name the rendered folder by --directory")
            return None
        lists = [a.document() for _, a in self._ask_etcd("/v3/cluster/member/list", {}) if a.status == 200]
        if not lists:
            self._unknown.append("etcd: no member answers to the etcd-operator certificate")
            return None
        members = lists[0].get("members", [])
        status = [a.document() for _, a in self._ask_etcd("/v3/maintenance/status", {}) if a.status == 200]
        alarms = [
            a.document() for _, a in self._ask_etcd("/v3/maintenance/alarm", {"action": "GET"}) if a.status == 200
        ]
        return Etcd(
            members=tuple(member.get("name", member["ID"]) for member in members),
            learners=tuple(member.get("name", member["ID"]) for member in members if member.get("isLearner")),
            leaders=frozenset(found["leader"] for found in status if found.get("leader", "0") != "0"),
            alarms=tuple(sorted({alarm["alarm"] for found in alarms for alarm in found.get("alarms", [])})),
        )

    def _see_secrets(self) -> SecretsAtRest | None:
        """Look at secrets as they lie in etcd: encrypted ones say so in their first bytes. Contents are not kept."""
        if self._etcd_access() is None:
            return None
        first, after = b"/registry/secrets/", b"/registry/secrets0"
        body = {"key": encode(first), "range_end": encode(after), "limit": str(SECRETS_LOOKED_AT)}
        for _, answer in self._ask_etcd("/v3/kv/range", body):
            if answer.status == 200:
                found = answer.document().get("kvs", [])
                plain = [decode(kv["key"]) for kv in found if not base64.b64decode(kv["value"]).startswith(b"k8s:enc:")]
                return SecretsAtRest(
                    len(found), tuple(name.decode().removeprefix("/registry/secrets/") for name in plain)
                )
        return None

    def _list_bindings(self) -> Iterator[Binding]:
        base = "/apis/rbac.authorization.k8s.io/v1"
        for item in chain(self._items(f"{base}/clusterrolebindings"), self._items(f"{base}/rolebindings")):
            for subject in item.get("subjects") or []:
                name = subject["name"]
                if subject["kind"] == "ServiceAccount":
                    name = f"{subject.get('namespace', item['metadata'].get('namespace', ''))}/{name}"
                kind = {"ServiceAccount": "service account"}.get(subject["kind"], subject["kind"].lower())
                yield Binding(item["metadata"]["name"], item["roleRef"]["name"], f"{kind} {name}")

    def _impersonate(self, nodes: list[dict[str, Any]]) -> Impersonated | None:
        """Try as somebody without rights, and as a node, what both must not do; nothing is changed (dry run)."""
        nobody = {"Impersonate-User": "seaway:check:nobody"}
        if self._get("/version", **nobody).status != 200:
            self._unknown.append(
                "authorization and admission: your user may not impersonate others; use an administrator"
            )
            return None
        node = {"Impersonate-User": f"system:node:{nodes[0]['metadata']['name'] if nodes else 'none'}"}
        node["Impersonate-Group"] = "system:nodes"
        other = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"seaway-check-{randomness.token_hex(4)}"}}
        url = f"{self._access.server}/api/v1/nodes?dryRun=All"
        made = ask(url, self._context, method="POST", headers=self._access.headers() | node, body=other)
        return Impersonated(
            nobody_lists_secrets=self._get("/api/v1/secrets?limit=1", **nobody).status,
            node_lists_secrets=self._get("/api/v1/secrets?limit=1", **node).status,
            node_makes_other_node=made.status,
        )

    def _read_leases(self, now: datetime) -> dict[str, float]:
        """Return for each election how long ago its leader last renewed; one without a lease is left out."""
        found = {}
        for name in ELECTIONS:
            answer = self._get(f"/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/{name}")
            renewed = answer.document().get("spec", {}).get("renewTime") if answer.status == 200 else None
            if renewed:
                found[name] = (now - datetime.fromisoformat(renewed)).total_seconds()
        return found


def encode(text: bytes) -> str:
    """Return bytes as etcd's JSON wants them."""
    return base64.b64encode(text).decode()


def decode(text: str) -> bytes:
    """Return bytes from etcd's JSON."""
    return base64.b64decode(text)


def internal_address(node: dict[str, Any]) -> str:
    """Return a node's address inside the cluster."""
    addresses = {entry["type"]: str(entry["address"]) for entry in node["status"].get("addresses") or []}
    return addresses.get("InternalIP") or addresses.get("Hostname") or str(node["metadata"]["name"])


def read_node(node: dict[str, Any]) -> Node:
    """Return a node's name, version and whether it is ready."""
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions") or [])
    return Node(node["metadata"]["name"], node["status"]["nodeInfo"]["kubeletVersion"], ready)


def find_default_pods(pods: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the pods that have their namespace's default token mounted."""
    for pod in pods:
        spec = pod["spec"]
        if spec.get("serviceAccountName", "default") != "default":
            continue
        where = "/var/run/secrets/kubernetes.io/serviceaccount"
        mounts = [m["mountPath"] for c in spec["containers"] for m in c.get("volumeMounts") or []]
        if where in mounts:
            yield f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"


def read_flags(pods: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Return the flags of control plane components that run as pods (kubeadm), by pod."""
    found: dict[str, dict[str, str]] = {}
    for pod in pods:
        labels = pod["metadata"].get("labels") or {}
        if pod["metadata"]["namespace"] != "kube-system" or labels.get("tier") != "control-plane":
            continue
        container = pod["spec"]["containers"][0]
        words = [*(container.get("command") or []), *(container.get("args") or [])]
        pairs = (word.removeprefix("--").partition("=") for word in words if word.startswith("--"))
        found[pod["metadata"]["name"]] = {name: value or "true" for name, _, value in pairs}
    return found


def list_stored(store: Path | None) -> Iterator[Stored]:
    """Yield the certificates and keys of the rendered PKI."""
    if store is None or not store.is_dir():
        return
    for path in sorted(store.rglob("*")):
        if path.suffix == ".key":
            yield Stored(str(path), path.stat().st_mode & 0o777)
        elif path.suffix == ".crt":
            ends = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
            yield Stored(str(path), path.stat().st_mode & 0o777, ends)

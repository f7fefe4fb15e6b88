"""All files of a cluster, from cluster.toml and its secrets. Pure: the same in, the same out."""

from __future__ import annotations

from collections.abc import Iterator

from seaway.cluster.balancer import list_balancer_files
from seaway.cluster.certificates import Pair, Secrets, list_certificates
from seaway.cluster.config import Cluster, Master, Node
from seaway.cluster.firewall import list_firewall_files
from seaway.cluster.kubeadm import list_kubeadm_files
from seaway.cluster.machine import File, Places, fill
from seaway.cluster.policies import (
    as_yaml,
    make_audit_policy,
    make_encryption,
    make_kubeconfig,
    make_kubelet_config,
    make_proxy_config,
)
from seaway.cluster.units import list_units

KEYS = 0o600
IN_ONE_FILE = {"balancer", "controller-manager", "scheduler", "kubelet-client", "kube-proxy"}
"""Certificates that HAProxy's bundle or a kubeconfig holds: they lie nowhere else."""
AUTHORITIES_OF_ROLE = {"etcd": ("etcd/ca",), "api": ("ca", "etcd/ca", "front-proxy-ca"), "balancer": ("ca",)}


def render(cluster: Cluster, secrets: Secrets) -> Iterator[File]:
    """Yield every file, machine by machine; no authority's key is on any machine."""
    yield File("", "admin.conf", kubeconfig_of(cluster, secrets, "admin", "people/admin"), KEYS)
    for master in cluster.masters:
        yield from render_master(cluster, master, secrets)
    for node in cluster.nodes:
        yield from render_node(cluster, node, secrets)
    yield from list_kubeadm_files(cluster)


def kubeconfig_of(cluster: Cluster, secrets: Secrets, user: str, certificate: str) -> str:
    """Return the kubeconfig of whoever has a certificate of the store."""
    pair = secrets.certificates[certificate]
    return make_kubeconfig(cluster, user, secrets.authorities["ca"].certificate, pair.certificate, pair.key)


def render_master(cluster: Cluster, master: Master, secrets: Secrets) -> Iterator[File]:
    """Yield the files of a master, those of the parts that it plays only."""
    yield from list_pki(cluster, master, secrets)
    yield from list_units(cluster, master)
    yield from list_firewall_files(cluster, master)
    if "api" in master.roles:
        yield File(master.name, "/etc/kubernetes/encryption.yaml", make_encryption(secrets.encryption_key), KEYS)
        yield File(master.name, "/etc/kubernetes/audit.yaml", make_audit_policy(), 0o644)
    if "controllers" in master.roles:
        for name in ("controller-manager", "scheduler"):
            yield kubeconfig_file(cluster, secrets, master.name, name, f"system:kube-{name}")
    if "api" in master.roles:  # kubeadm runs the masters' parts as pods
        yield kubeconfig_file(cluster, secrets, master.name, "kubelet", f"system:node:{master.name}")
    if "balancer" in master.roles and cluster.api.balancer != "none":
        pair = secrets.certificates[f"{master.name}/balancer"]
        yield from list_balancer_files(cluster, master, pair.certificate + pair.key)


def render_node(cluster: Cluster, node: Node, secrets: Secrets) -> Iterator[File]:
    """Yield the files of a node."""
    at = Places.of(cluster, node)
    yield from list_pki(cluster, node, secrets)
    yield from list_units(cluster, node)
    yield kubeconfig_file(cluster, secrets, node.name, "kubelet", f"system:node:{node.name}")
    yield kubeconfig_file(cluster, secrets, node.name, "kube-proxy", "system:kube-proxy")
    overrides = {key: fill(value, node) if isinstance(value, str) else value for key, value in cluster.kubelet.items()}
    kubelet = make_kubelet_config(cluster, address=str(node.address), pki=at.pki("").rstrip("/"), overrides=overrides)
    yield File(node.name, "/etc/kubernetes/kubelet.yaml", as_yaml(kubelet))
    proxy = make_proxy_config(cluster, kubeconfig=at.kubeconfig("kube-proxy"), name=node.name, overrides=cluster.proxy)
    yield File(node.name, "/etc/kubernetes/kube-proxy.yaml", as_yaml(proxy))


def list_pki(cluster: Cluster, machine: Master | Node, secrets: Secrets) -> Iterator[File]:
    """Yield a machine's certificates and keys, the certificates of the authorities it trusts, and the tokens' key."""
    own = [spec for spec in list_certificates(cluster) if spec.machine == machine.name]
    roles: tuple[str, ...] = machine.roles if isinstance(machine, Master) else ()
    trusted = {"ca", *(name for role in roles for name in AUTHORITIES_OF_ROLE.get(role, ()))}
    if "controllers" in roles:
        trusted.add("front-proxy-ca")
    for name in sorted(trusted):
        yield pki_file(machine, f"{name}.crt", secrets.authorities[name].certificate, 0o644)
    for spec in own:
        if spec.path in IN_ONE_FILE:
            continue
        yield from pair_files(machine, spec.path, secrets.certificates[spec.name])
    if {"api", "controllers"} & set(roles):
        yield pki_file(machine, "sa.key", secrets.account_key, KEYS)
        yield pki_file(machine, "sa.pub", secrets.account_public, 0o644)


def pair_files(machine: Master | Node, path: str, pair: Pair) -> Iterator[File]:
    """Yield both files of a pair."""
    yield pki_file(machine, f"{path}.crt", pair.certificate, 0o644)
    yield pki_file(machine, f"{path}.key", pair.key, KEYS)


def pki_file(machine: Master | Node, path: str, text: str, mode: int) -> File:
    """Return a file of the machine's PKI."""
    return File(machine.name, f"/etc/kubernetes/pki/{path}", text, mode)


def kubeconfig_file(cluster: Cluster, secrets: Secrets, machine: str, name: str, user: str) -> File:
    """Return a component's kubeconfig; a kubelet's certificate for serving has its plain name."""
    pair = {"kubelet": "kubelet-client"}.get(name, name)
    text = kubeconfig_of(cluster, secrets, user, f"{machine}/{pair}")
    return File(machine, f"/etc/kubernetes/{name}.conf", text, KEYS)

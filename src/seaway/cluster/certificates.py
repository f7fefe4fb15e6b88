"""Which certificates a cluster needs: who signs them, for whom, under which names, and where they lie. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from seaway.cluster.config import Cluster, Master, Node

AUTHORITIES = {"ca": "kubernetes-ca", "etcd/ca": "etcd-ca", "front-proxy-ca": "front-proxy-ca"}
"""File name to common name; kubeadm's own."""

ADMIN_GROUP = "system:masters"


@dataclass(frozen=True)
class Certificate:
    """A certificate that a cluster needs. `machine` is "" for one that belongs to people."""

    machine: str
    path: str  # below the machine's pki folder, without ending
    authority: str
    common_name: str
    organization: str = ""
    dns: tuple[str, ...] = ()
    addresses: tuple[IPv4Address, ...] = ()
    server: bool = False
    client: bool = True

    @property
    def name(self) -> str:
        """The certificate's name in the store, unique in the cluster."""
        return f"{self.machine or 'people'}/{self.path}"


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, both PEM."""

    certificate: str
    key: str


@dataclass(frozen=True)
class Secrets:
    """Everything of a cluster that is random or signed; `log` says what was made, renewed and why."""

    authorities: Mapping[str, Pair]
    certificates: Mapping[str, Pair]
    account_key: str
    account_public: str
    encryption_key: str  # base64 of 32 bytes
    log: tuple[str, ...] = field(default=(), compare=False)


def list_certificates(cluster: Cluster) -> Iterator[Certificate]:
    """Yield every certificate of a cluster, machine by machine."""
    yield Certificate("", "admin", "ca", "admin", ADMIN_GROUP)
    yield Certificate("", "etcd-operator", "etcd/ca", "etcd-operator")
    for master in cluster.masters:
        if "etcd" in master.roles:
            yield from list_for_etcd(master)
        if "api" in master.roles:
            yield from list_for_api(cluster, master)
            yield from list_for_kubelet(master)  # kubeadm runs the masters' parts as pods
        if "controllers" in master.roles:
            yield from list_for_controllers(master)
        if "balancer" in master.roles and cluster.api.balancer != "none":
            yield Certificate(master.name, "balancer", "ca", "seaway:balancer")
    for node in cluster.nodes:
        yield from list_for_kubelet(node)
        yield Certificate(node.name, "kube-proxy", "ca", "system:kube-proxy")


def list_for_etcd(master: Master) -> Iterator[Certificate]:
    """Members prove themselves to each other and to clients; a member is a client of its peers too."""
    for path in ("etcd/server", "etcd/peer"):
        yield Certificate(
            master.name,
            path,
            "etcd/ca",
            master.name,
            dns=(master.name, "localhost"),
            addresses=own(master),
            server=True,
        )
    yield Certificate(master.name, "etcd/healthcheck-client", "etcd/ca", "kube-etcd-healthcheck-client")


def list_for_api(cluster: Cluster, master: Master) -> Iterator[Certificate]:
    """The server's own certificate holds every name and address under which anyone calls it."""
    service = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{cluster.domain}")
    yield Certificate(
        master.name,
        "apiserver",
        "ca",
        "kube-apiserver",
        dns=(*service, "localhost", master.name, *cluster.api.names),
        addresses=tuple(dict.fromkeys((cluster.service_range[1], cluster.api.address, *own(master)))),
        server=True,
        client=False,
    )
    yield Certificate(master.name, "apiserver-kubelet-client", "ca", "kube-apiserver-kubelet-client", ADMIN_GROUP)
    yield Certificate(master.name, "apiserver-etcd-client", "etcd/ca", "kube-apiserver-etcd-client")
    yield Certificate(master.name, "front-proxy-client", "front-proxy-ca", "front-proxy-client")


def list_for_controllers(master: Master) -> Iterator[Certificate]:
    """Each has one certificate to call the API with and one to serve its metrics with."""
    for name in ("controller-manager", "scheduler"):
        yield Certificate(master.name, name, "ca", f"system:kube-{name}")
        yield Certificate(
            master.name,
            f"{name}-server",
            "ca",
            f"kube-{name}",
            dns=(master.name, "localhost"),
            addresses=own(master),
            server=True,
            client=False,
        )


def list_for_kubelet(node: Master | Node) -> Iterator[Certificate]:
    """The common name and group are what the Node authorizer goes by."""
    yield Certificate(node.name, "kubelet-client", "ca", f"system:node:{node.name}", "system:nodes")
    yield Certificate(
        node.name,
        "kubelet",
        "ca",
        f"kubelet-{node.name}",
        dns=(node.name,),
        addresses=(node.address,),
        server=True,
        client=False,
    )


def own(master: Master) -> tuple[IPv4Address, ...]:
    """Return the addresses of a master itself."""
    return (master.address, IPv4Address("127.0.0.1"))

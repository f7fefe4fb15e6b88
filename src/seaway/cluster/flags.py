"""The flags of every component, for a machine of a cluster. Pure; `[flags]` of cluster.toml has the last word."""

from __future__ import annotations

from seaway.cluster.config import Cluster, Master, Node
from seaway.cluster.machine import Places, fill

Flags = dict[str, str]

CIPHERS = (
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
)
"""Forward secret and authenticated; all that Kubernetes 1.20, etcd 3.4 and today's versions share."""

RUNTIME = "unix:///run/containerd/containerd.sock"


def etcd_flags(cluster: Cluster, master: Master) -> Flags:
    """Return etcd's flags: TLS with client certificates on both doors, no other door."""
    at = Places.of(cluster, master)
    members = ",".join(f"{m.name}=https://{m.address}:2380" for m in cluster.with_role("etcd"))
    flags = {
        "name": master.name,
        "data-dir": f"{at.state}/etcd",
        "listen-client-urls": f"https://{master.address}:2379",
        "advertise-client-urls": f"https://{master.address}:2379",
        "listen-peer-urls": f"https://{master.address}:2380",
        "initial-advertise-peer-urls": f"https://{master.address}:2380",
        "initial-cluster": members,
        "initial-cluster-token": cluster.name,
        "client-cert-auth": "true",
        "trusted-ca-file": at.pki("etcd/ca.crt"),
        "cert-file": at.pki("etcd/server.crt"),
        "key-file": at.pki("etcd/server.key"),
        "peer-client-cert-auth": "true",
        "peer-trusted-ca-file": at.pki("etcd/ca.crt"),
        "peer-cert-file": at.pki("etcd/peer.crt"),
        "peer-key-file": at.pki("etcd/peer.key"),
        "cipher-suites": ",".join(CIPHERS),
        "strict-reconfig-check": "true",
        "quota-backend-bytes": str(4 * 1024**3),
        "logger": "zap",
        "log-level": "warn",
    }
    return overridden(cluster, "etcd", master, flags)


def apiserver_flags(cluster: Cluster, master: Master) -> Flags:
    """Return the API server's flags: no anonymous, no insecure port, least authority, secrets encrypted, audited."""
    at = Places.of(cluster, master)
    flags = {
        "advertise-address": str(master.address),
        "bind-address": str(master.address),
        "secure-port": str(cluster.api.server_port),
        "insecure-port": "0",
        "etcd-servers": ",".join(f"https://{m.address}:2379" for m in cluster.with_role("etcd")),
        "etcd-cafile": at.pki("etcd/ca.crt"),
        "etcd-certfile": at.pki("apiserver-etcd-client.crt"),
        "etcd-keyfile": at.pki("apiserver-etcd-client.key"),
        "client-ca-file": at.pki("ca.crt"),
        "tls-cert-file": at.pki("apiserver.crt"),
        "tls-private-key-file": at.pki("apiserver.key"),
        "kubelet-certificate-authority": at.pki("ca.crt"),
        "kubelet-client-certificate": at.pki("apiserver-kubelet-client.crt"),
        "kubelet-client-key": at.pki("apiserver-kubelet-client.key"),
        "proxy-client-cert-file": at.pki("front-proxy-client.crt"),
        "proxy-client-key-file": at.pki("front-proxy-client.key"),
        "requestheader-client-ca-file": at.pki("front-proxy-ca.crt"),
        "service-account-key-file": at.pki("sa.pub"),
        "service-account-signing-key-file": at.pki("sa.key"),
        "service-cluster-ip-range": str(cluster.service_range),
        **policy_flags(cluster, at),
    }
    if cluster.minor >= 24:
        del flags["insecure-port"]  # gone, and with it the port
    return overridden(cluster, "kube-apiserver", master, flags)


def policy_flags(cluster: Cluster, at: Places) -> Flags:
    """Return the API server's flags that do not name a machine: kubeadm shares them between masters."""
    return {
        "allow-privileged": "true",
        "anonymous-auth": "false",
        "audit-log-maxage": str(cluster.audit.max_age_days),
        "audit-log-maxbackup": str(cluster.audit.max_files),
        "audit-log-maxsize": str(cluster.audit.max_megabytes),
        "audit-log-path": f"{at.logs}/audit.log",
        "audit-policy-file": f"{at.config}/audit.yaml",
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "encryption-provider-config": f"{at.config}/encryption.yaml",
        "goaway-chance": "0.001",  # clients spread again after a server was away
        "kubelet-preferred-address-types": "InternalIP,Hostname",
        "profiling": "false",
        "requestheader-allowed-names": "front-proxy-client",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-username-headers": "X-Remote-User",
        "service-account-issuer": f"https://kubernetes.default.svc.{cluster.domain}",
        "tls-cipher-suites": ",".join(CIPHERS),
        "tls-min-version": "VersionTLS12",
    }


def controller_manager_flags(cluster: Cluster, master: Master) -> Flags:
    """Return the controller manager's flags; the one that holds the lease works."""
    at = Places.of(cluster, master)
    flags = {
        **serving_flags(cluster, master, "controller-manager"),
        "allocate-node-cidrs": "true",
        "cluster-cidr": str(cluster.pod_range),
        "cluster-name": cluster.name,
        "root-ca-file": at.pki("ca.crt"),
        "service-account-private-key-file": at.pki("sa.key"),
        "service-cluster-ip-range": str(cluster.service_range),
        "use-service-account-credentials": "true",
    }
    return overridden(cluster, "kube-controller-manager", master, flags)


def scheduler_flags(cluster: Cluster, master: Master) -> Flags:
    """Return the scheduler's flags; the one that holds the lease works."""
    return overridden(cluster, "kube-scheduler", master, serving_flags(cluster, master, "scheduler"))


def serving_flags(cluster: Cluster, master: Master, name: str) -> Flags:
    """Return what both have in common: whom they call, how they serve, who may ask."""
    at = Places.of(cluster, master)
    flags = {
        "kubeconfig": at.kubeconfig(name),
        "authentication-kubeconfig": at.kubeconfig(name),
        "authorization-kubeconfig": at.kubeconfig(name),
        "bind-address": str(master.address),
        "client-ca-file": at.pki("ca.crt"),
        "requestheader-client-ca-file": at.pki("front-proxy-ca.crt"),
        "requestheader-allowed-names": "front-proxy-client",
        "leader-elect": "true",
        "profiling": "false",
        "tls-cert-file": at.pki(f"{name}-server.crt"),
        "tls-private-key-file": at.pki(f"{name}-server.key"),
        "tls-min-version": "VersionTLS12",
        "tls-cipher-suites": ",".join(CIPHERS),
    }
    if cluster.minor < 23:
        flags["port"] = "0"  # the plain HTTP port that newer versions do not have
    return flags


def kubelet_flags(cluster: Cluster, node: Node) -> Flags:
    """Return the kubelet's flags; all else is in its configuration file."""
    at = Places.of(cluster, node)
    flags = {
        "config": f"{at.config}/kubelet.yaml",
        "kubeconfig": at.kubeconfig("kubelet"),
        "hostname-override": node.name,
        "node-ip": str(node.address),
        "root-dir": f"{at.state}/kubelet",
    }
    if cluster.minor < 27:
        flags |= {"container-runtime": "remote", "container-runtime-endpoint": RUNTIME}
    return overridden(cluster, "kubelet", node, flags)


def proxy_flags(cluster: Cluster, node: Node) -> Flags:
    """Return kube-proxy's flags; all else is in its configuration file."""
    flags = {"config": f"{Places.of(cluster, node).config}/kube-proxy.yaml"}
    return overridden(cluster, "kube-proxy", node, flags)


def overridden(cluster: Cluster, component: str, machine: Master | Node, flags: Flags) -> Flags:
    """Return the flags sorted by name, with those of cluster.toml over ours."""
    own = {name: fill(as_flag(value), machine) for name, value in cluster.flags.get(component, {}).items()}
    return dict(sorted((flags | own).items()))


def as_flag(value: str | int | bool) -> str:
    """Return a TOML value as a flag's."""
    return str(value).lower() if isinstance(value, bool) else str(value)

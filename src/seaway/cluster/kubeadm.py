"""The same cluster as kubeadm's configuration. Pure.

kubeadm finds the certificates of the PKI under its own names and makes none. Its probes of the API server would be
anonymous, which the API server refuses; a patch makes them look at the port instead.
"""

from __future__ import annotations

from typing import Any

from seaway.cluster.config import Cluster, Master
from seaway.cluster.flags import Flags, apiserver_flags, as_flag, controller_manager_flags, scheduler_flags
from seaway.cluster.machine import File, Places
from seaway.cluster.policies import as_yaml, make_kubelet_config, make_proxy_config

OWN = {  # kubeadm sets these itself, the machine's address among them
    "kube-apiserver": {"advertise-address", "secure-port", "insecure-port", "etcd-servers", "etcd-cafile",
                       "etcd-certfile", "etcd-keyfile", "client-ca-file", "tls-cert-file", "tls-private-key-file",
                       "kubelet-client-certificate", "kubelet-client-key", "proxy-client-cert-file",
                       "proxy-client-key-file", "requestheader-client-ca-file", "service-account-key-file",
                       "service-account-signing-key-file", "service-cluster-ip-range", "bind-address",
                       "enable-bootstrap-token-auth"},
    "kube-controller-manager": {"kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig",
                                "client-ca-file", "requestheader-client-ca-file", "root-ca-file", "cluster-name",
                                "service-account-private-key-file", "cluster-cidr", "service-cluster-ip-range",
                                "allocate-node-cidrs", "leader-elect", "bind-address", "port",
                                "use-service-account-credentials", "tls-cert-file", "tls-private-key-file",
                                "requestheader-allowed-names"},
    "kube-scheduler": {"kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig", "client-ca-file",
                       "leader-elect", "bind-address", "port", "requestheader-client-ca-file", "tls-cert-file",
                       "tls-private-key-file", "requestheader-allowed-names"},
}  # fmt: skip


def list_kubeadm_files(cluster: Cluster) -> list[File]:
    """Return kubeadm/MASTER.yaml of every API server and the patches that they share."""
    files = [
        File("", f"kubeadm/{master.name}.yaml", make_kubeadm(cluster, master)) for master in cluster.with_role("api")
    ]
    return [*files, File("", "kubeadm/patches/kube-apiserver+strategic.yaml", make_probe_patch(cluster))]


def config_version(cluster: Cluster) -> str:
    """Return the newest kubeadm API that a version of Kubernetes reads."""
    for minor, version in ((31, "v1beta4"), (22, "v1beta3")):
        if cluster.minor >= minor:
            return f"kubeadm.k8s.io/{version}"
    return "kubeadm.k8s.io/v1beta2"


def make_kubeadm(cluster: Cluster, master: Master) -> str:
    """Return the documents for `kubeadm init` or `kubeadm join` on a master."""
    documents = [make_init(cluster, master), make_cluster(cluster, master)]
    kubelet = make_kubelet_config(cluster, address="", pki="/etc/kubernetes/pki", overrides={})
    proxy = make_proxy_config(cluster, kubeconfig="", name="", overrides={})
    return as_yaml(*documents, kubelet, proxy)


def make_init(cluster: Cluster, master: Master) -> dict[str, Any]:
    """Return the InitConfiguration: what differs between masters."""
    version = config_version(cluster)
    document: dict[str, Any] = {
        "apiVersion": version,
        "kind": "InitConfiguration",
        "localAPIEndpoint": {"advertiseAddress": str(master.address), "bindPort": cluster.api.server_port},
        "nodeRegistration": {"name": master.name},
    }
    if cluster.minor >= 22:
        document["patches"] = {"directory": "/etc/kubernetes/kubeadm/patches"}
    return document


def make_cluster(cluster: Cluster, master: Master) -> dict[str, Any]:
    """Return the ClusterConfiguration: etcd is that of our units, the rest runs as kubeadm's pods."""
    at = Places("", "")
    plain = cluster.model_copy(update={"paths": cluster.paths.model_copy(update={"root": ""}), "flags": {}})
    return {
        "apiVersion": config_version(cluster),
        "kind": "ClusterConfiguration",
        "clusterName": cluster.name,
        "kubernetesVersion": f"v{cluster.kubernetes}",
        "controlPlaneEndpoint": f"{cluster.api.address}:{cluster.api.port}",
        "certificatesDir": "/etc/kubernetes/pki",
        "networking": {
            "dnsDomain": cluster.domain,
            "podSubnet": str(cluster.pod_range),
            "serviceSubnet": str(cluster.service_range),
        },
        "etcd": {
            "external": {
                "endpoints": [f"https://{m.address}:2379" for m in cluster.with_role("etcd")],
                "caFile": at.pki("etcd/ca.crt"),
                "certFile": at.pki("apiserver-etcd-client.crt"),
                "keyFile": at.pki("apiserver-etcd-client.key"),
            }
        },
        "apiServer": {
            "certSANs": [str(cluster.api.address), *cluster.api.names],
            "extraArgs": make_arguments(cluster, "kube-apiserver", apiserver_flags(plain, master)),
            "extraVolumes": make_volumes(at),
        },
        "controllerManager": {
            "extraArgs": make_arguments(cluster, "kube-controller-manager", controller_manager_flags(plain, master))
        },
        "scheduler": {"extraArgs": make_arguments(cluster, "kube-scheduler", scheduler_flags(plain, master))},
    }


def make_arguments(cluster: Cluster, component: str, flags: Flags) -> Any:
    """Return extraArgs: our flags without those that kubeadm sets itself, with all of cluster.toml's."""
    own = {name: as_flag(value) for name, value in cluster.flags.get(component, {}).items()}
    kept = sorted(({name: value for name, value in flags.items() if name not in OWN[component]} | own).items())
    return [{"name": name, "value": value} for name, value in kept] if cluster.minor >= 31 else dict(kept)


def make_volumes(at: Places) -> list[dict[str, Any]]:
    """Return what the API server's pod sees of its machine beside the PKI."""
    files = [("audit", "audit.yaml"), ("encryption", "encryption.yaml")]
    volumes = [(name, f"{at.config}/{file}", True, "File") for name, file in files]
    volumes.append(("audit-log", at.logs, False, "DirectoryOrCreate"))
    return [
        {"name": name, "hostPath": path, "mountPath": path, "readOnly": read_only, "pathType": kind}
        for name, path, read_only, kind in volumes
    ]


def make_probe_patch(cluster: Cluster) -> str:
    """Return the patch of the API server's probes: a look at the port, because anonymous requests are refused."""
    port = {"port": cluster.api.server_port}
    probe = {"httpGet": None, "tcpSocket": port}
    probes = {"livenessProbe": probe, "readinessProbe": probe, "startupProbe": probe}
    return as_yaml(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "kube-apiserver", "namespace": "kube-system"},
            "spec": {"containers": [{"name": "kube-apiserver", **probes}]},
        }
    )

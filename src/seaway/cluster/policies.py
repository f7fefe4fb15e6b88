"""Files that say who is who and what is kept: kubeconfigs, encryption at rest, the audit policy. Pure."""

from __future__ import annotations

import base64
from typing import Any

import yaml

from seaway.cluster.config import Cluster


class Plain(yaml.SafeDumper):
    """Writes what occurs twice twice, without anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  (yaml calls it so)
        """Every value stands for itself."""
        return True


def as_yaml(*documents: Any) -> str:
    """Return documents as YAML, keys in the order given."""
    return "---\n".join(yaml.dump(document, Dumper=Plain, sort_keys=False, width=120) for document in documents)


def make_kubeconfig(cluster: Cluster, user: str, authority: str, certificate: str, key: str) -> str:
    """Return a kubeconfig that holds its three PEM texts, so that the one file is all that its user needs."""

    def packed(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    context = f"{user}@{cluster.name}"
    about = {"server": cluster.api_url, "certificate-authority-data": packed(authority)}
    return as_yaml(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": cluster.name, "cluster": about}],
            "users": [
                {
                    "name": user,
                    "user": {"client-certificate-data": packed(certificate), "client-key-data": packed(key)},
                }
            ],
            "contexts": [{"name": context, "context": {"cluster": cluster.name, "user": user}}],
            "current-context": context,
        }
    )


def make_encryption(key: str) -> str:
    """Return the encryption of secrets in etcd: secretbox writes, plain text is still read until it is rewritten."""
    return as_yaml(
        {
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "EncryptionConfiguration",
            "resources": [
                {
                    "resources": ["secrets"],
                    "providers": [{"secretbox": {"keys": [{"name": "key1", "secret": key}]}}, {"identity": {}}],
                }
            ],
        }
    )


def make_audit_policy() -> str:
    """Return what the audit log keeps: who did what to which object, never the content, and no heartbeats."""
    return as_yaml(
        {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [
                {"level": "None", "nonResourceURLs": ["/healthz*", "/readyz*", "/livez*", "/version", "/metrics"]},
                {"level": "None", "resources": [{"group": "coordination.k8s.io", "resources": ["leases"]}]},
                {"level": "None", "resources": [{"group": "", "resources": ["events"]}]},
                {
                    "level": "None",
                    "userGroups": ["system:nodes", "system:serviceaccounts:kube-system"],
                    "verbs": ["get", "list", "watch"],
                },
                {
                    "level": "None",
                    "users": ["system:kube-controller-manager", "system:kube-scheduler", "system:kube-proxy"],
                    "verbs": ["get", "list", "watch"],
                },
                {"level": "Metadata"},
            ],
        }
    )


def make_kubelet_config(cluster: Cluster, *, address: str, pki: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """Return a KubeletConfiguration: no anonymous, no read-only port, the API server decides who may do what.

    `address` is the node's, or "" for what all nodes share (kubeadm's document).
    """
    config: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{pki}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "readOnlyPort": 0,
        "healthzBindAddress": "127.0.0.1",
        "clusterDomain": cluster.domain,
        "clusterDNS": [str(cluster.service_range[10])],
        "cgroupDriver": "systemd",
        "serializeImagePulls": False,
        "tlsMinVersion": "VersionTLS12",
        "tlsCertFile": f"{pki}/kubelet.crt",
        "tlsPrivateKeyFile": f"{pki}/kubelet.key",
    }
    if address:
        config["address"] = address
    if address and cluster.minor >= 27:
        config["containerRuntimeEndpoint"] = "unix:///run/containerd/containerd.sock"
    return config | overrides


def make_proxy_config(cluster: Cluster, *, kubeconfig: str, name: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """Return a KubeProxyConfiguration; `kubeconfig` and `name` are "" for what all nodes share."""
    config: dict[str, Any] = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clusterCIDR": str(cluster.pod_range),
        "metricsBindAddress": "127.0.0.1:10249",
        "mode": "iptables",
    }
    if kubeconfig:
        config["clientConnection"] = {"kubeconfig": kubeconfig}
        config["hostnameOverride"] = name
    return config | overrides

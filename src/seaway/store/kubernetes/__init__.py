"""The store in a Kubernetes cluster: documents as custom resources, so that the cluster's etcd is the only database."""

from seaway.store.kubernetes.store import KubernetesStore

__all__ = ["KubernetesStore"]

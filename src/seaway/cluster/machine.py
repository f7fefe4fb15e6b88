"""Where each file of a cluster lies on its machine: kubeadm's own names, so that either way of starting finds them."""

from __future__ import annotations

from dataclasses import dataclass

from seaway.cluster.config import Cluster, Master, Node


@dataclass(frozen=True)
class File:
    """A file to write. `path` is absolute below the machine's root (or the output folder, for machine "")."""

    machine: str
    path: str
    text: str
    mode: int = 0o644


@dataclass(frozen=True)
class Places:
    """The paths of one machine, its root in front."""

    root: str
    programs: str

    @classmethod
    def of(cls, cluster: Cluster, machine: Master | Node) -> Places:
        """Return the places of a machine, `{name}` replaced."""
        return cls(fill(cluster.paths.root, machine), fill(cluster.paths.programs, machine))

    @property
    def config(self) -> str:
        """Kubernetes' configuration."""
        return f"{self.root}/etc/kubernetes"

    @property
    def state(self) -> str:
        """What programs keep."""
        return f"{self.root}/var/lib"

    @property
    def logs(self) -> str:
        """The audit log's folder."""
        return f"{self.root}/var/log/kubernetes"

    def pki(self, name: str) -> str:
        """Return the path of a file of the PKI, such as `etcd/ca.crt`."""
        return f"{self.config}/pki/{name}"

    def kubeconfig(self, name: str) -> str:
        """Return the path of a component's kubeconfig."""
        return f"{self.config}/{name}.conf"


def fill(text: str, machine: Master | Node) -> str:
    """Replace `{name}` by the machine's name."""
    return text.replace("{name}", machine.name)

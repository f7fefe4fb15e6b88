"""What the tests of `seaway cluster` share: a cluster.toml, and secrets that are words."""

from __future__ import annotations

from seaway.cluster.certificates import AUTHORITIES, Pair, Secrets, list_certificates
from seaway.cluster.config import Cluster, parse_cluster

TOML = """\
name = "harbour"
kubernetes = "{version}"
operators = ["192.0.2.0/28", "198.51.100.7/32"]

[api]
address = "10.0.0.10"
names = ["k8s.example.com"]
interface = "ens3"

[[masters]]
name = "m1"
address = "10.0.0.11"
[[masters]]
name = "m2"
address = "10.0.0.12"
[[masters]]
name = "m3"
address = "10.0.0.13"
roles = ["etcd"]

[[nodes]]
name = "w1"
address = "10.0.0.21"

[paths]
root = "{root}"

[flags.kube-apiserver]
event-ttl = "30m"
"""


def make_cluster(version: str = "1.20.2", root: str = "") -> Cluster:
    """Return the reference cluster: two full masters, a third for etcd alone, one node."""
    return parse_cluster(TOML.format(version=version, root=root))


def make_secrets(cluster: Cluster) -> Secrets:
    """Return secrets whose PEM texts are their names."""
    return Secrets(
        authorities={name: Pair(f"<{name}.crt>\n", f"<{name}.key>\n") for name in AUTHORITIES},
        certificates={c.name: Pair(f"<{c.name}.crt>\n", f"<{c.name}.key>\n") for c in list_certificates(cluster)},
        account_key="<sa.key>\n",
        account_public="<sa.pub>\n",
        encryption_key="<encryption key>",
    )

"""nftables rules of a master: in come masters, nodes (the API only) and named operators, nothing else. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from seaway.cluster.config import Cluster, Master
from seaway.cluster.machine import File

PATH = "/etc/nftables.d/seaway-masters.nft"


def list_firewall_files(cluster: Cluster, master: Master) -> list[File]:
    """Return the rules of a master and the unit that loads them."""
    return [
        File(master.name, PATH, make_rules(cluster), 0o640),
        File(master.name, "/etc/systemd/system/seaway-firewall.service", make_unit()),
    ]


def make_rules(cluster: Cluster) -> str:
    """Return the table. Loading it again replaces it whole, in one step; other tables stay as they are."""
    api_ports = sorted({cluster.api.port, cluster.api.server_port})
    vrrp = "\n    ip protocol vrrp ip saddr @masters accept" if cluster.api.balancer == "keepalived" else ""
    masters_ports = sorted({2379, 2380, 10250, 10257, 10259, *api_ports})
    return f"""\
# Rendered by seaway from cluster.toml. Load: nft -f FILE. Remove: nft delete table inet seaway_masters.
table inet seaway_masters
delete table inet seaway_masters

table inet seaway_masters {{
  set masters {{
    type ipv4_addr
    elements = {{ {join(m.address for m in cluster.masters)} }}
  }}

  set operators {{
    type ipv4_addr
    flags interval
    auto-merge
    elements = {{ {join(cluster.operators)} }}
  }}

  set workers {{
    type ipv4_addr
    flags interval
    auto-merge
    elements = {{ {join([*(n.address for n in cluster.nodes), cluster.pod_range])} }}
  }}

  chain input {{
    type filter hook input priority filter; policy drop;
    ct state established,related accept
    ct state invalid drop
    iif lo accept
    ip protocol icmp icmp type {{ echo-request, destination-unreachable, time-exceeded }} limit rate 50/second accept
    ip6 nexthdr icmpv6 icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert }} accept{vrrp}
    ip saddr @masters tcp dport {{ {join(masters_ports)} }} accept
    ip saddr @workers tcp dport {{ {join(api_ports)} }} accept
    ip saddr @operators tcp dport {{ {join(sorted({22, *api_ports}))} }} accept
    limit rate 5/minute log prefix "seaway-masters dropped: " level info
  }}
}}
"""


def make_unit() -> str:
    """Return a unit that loads the rules before the network is up."""
    return f"""\
[Unit]
Description=Only masters and operators reach this master (rendered by seaway)
DefaultDependencies=no
After=local-fs.target
Before=network-pre.target
Wants=network-pre.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f {PATH}
ExecReload=/usr/sbin/nft -f {PATH}
ExecStop=/usr/sbin/nft delete table inet seaway_masters

[Install]
WantedBy=multi-user.target
"""


def join(values: Iterable[object]) -> str:
    """Return values as nft lists them."""
    return ", ".join(str(value) for value in values)

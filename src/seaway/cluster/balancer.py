"""What stands before the API servers: HAProxy, and keepalived to move its address. Pure."""

from __future__ import annotations

from seaway.cluster.config import Cluster, Master
from seaway.cluster.machine import File, Places, fill
from seaway.cluster.units import UNITS


def list_balancer_files(cluster: Cluster, master: Master, bundle: str) -> list[File]:
    """Return the balancer's files on a master; `bundle` is its client certificate and key, PEM, for health checks."""
    if cluster.api.balancer == "none" or "balancer" not in master.roles:
        return []
    at = Places.of(cluster, master)
    relative = at.config.removeprefix(at.root)
    files = [
        File(master.name, "/etc/haproxy/haproxy.cfg", make_haproxy(cluster, master), 0o640),
        File(master.name, f"{relative}/pki/balancer.pem", bundle, 0o600),
        File(master.name, f"{UNITS}/seaway-balancer.service", make_balancer_unit(cluster, master)),
    ]
    if cluster.api.balancer == "keepalived":
        files.append(File(master.name, "/etc/keepalived/keepalived.conf", make_keepalived(cluster, master), 0o640))
        files.append(File(master.name, "/etc/keepalived/check-api", make_check(cluster), 0o755))
    return files


def make_haproxy(cluster: Cluster, master: Master) -> str:
    """Return haproxy.cfg: TLS passes through untouched; a server gets connections while its /readyz says so.

    Trouble with etcd is not asked about: it meets all servers alike, and taking all out would make it an outage.
    """
    at = Places.of(cluster, master)
    servers = "\n".join(
        f"  server {m.name} {m.address}:{cluster.api.server_port} check check-ssl verify required "
        f"ca-file {at.pki('ca.crt')} crt {at.pki('balancer.pem')} verifyhost {m.name}"
        for m in cluster.with_role("api")
    )
    return f"""\
# Rendered by seaway from cluster.toml.
global
  maxconn 8000
  ssl-default-server-options ssl-min-ver TLSv1.2
  log stderr format short daemon warning

defaults
  mode tcp
  log global
  option dontlognull
  option clitcpka
  option srvtcpka
  srvtcpka-idle 6s
  srvtcpka-intvl 2s
  srvtcpka-cnt 3
  option redispatch 1
  retries 3
  timeout connect 2s
  timeout check 3s
  timeout client 4h
  timeout server 4h

frontend kube-api
  bind {cluster.api.address}:{cluster.api.port} transparent
  default_backend kube-api

backend kube-api
  balance leastconn
  option httpchk
  http-check send meth GET uri /readyz?exclude=etcd&exclude=etcd-readiness ver HTTP/1.1 hdr Host kube-api
  http-check expect status 200
  # A connection that is refused goes to a neighbour; nothing else may end it. So a refusal is no failed check (observe)
  # and a server found dead keeps its sessions (on-marked-down shutdown-sessions would end also those that are just
  # being refused). Idle ones to a machine that vanished end by srvtcpka, after 12 s. No tcp-ut for the others: it ends
  # also those whose server acknowledges but reads no more for a while (`kubectl exec -i` of what takes its time).
  default-server inter 1s fastinter 500ms downinter 1s fall 3 rise 2
{servers}
"""


def make_balancer_unit(cluster: Cluster, master: Master) -> str:
    """Return the unit that runs HAProxy on our file (Debian's own unit works as well; use one of the two)."""
    at = Places.of(cluster, master)
    program = fill(cluster.paths.haproxy, master)
    config = f"{at.root}/etc/haproxy/haproxy.cfg"
    return f"""\
[Unit]
Description=Balancer of the Kubernetes API (rendered by seaway)
After=network-online.target
Wants=network-online.target
Conflicts=haproxy.service
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStartPre={program} -c -q -f {config}
ExecStart={program} -Ws -f {config}
ExecReload={program} -c -q -f {config}
ExecReload=/bin/kill -USR2 $MAINPID
Restart=always
RestartSec=1
KillMode=mixed
LimitNOFILE=65536
NoNewPrivileges=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectHome=yes
ProtectSystem=full

[Install]
WantedBy=multi-user.target
"""


def make_keepalived(cluster: Cluster, master: Master) -> str:
    """Return keepalived.conf: unicast VRRP between the balancers; the one whose API answers holds the address."""
    balancers = cluster.with_role("balancer")
    peers = "\n".join(f"    {m.address}" for m in balancers if m != master)
    root = Places.of(cluster, master).root
    return f"""\
# Rendered by seaway from cluster.toml.
global_defs {{
  router_id {master.name}
  enable_script_security
  script_user nobody
  vrrp_garp_master_refresh 60
}}

vrrp_script check_api {{
  script "{root}/etc/keepalived/check-api"
  interval 2
  timeout 2
  fall 3
  rise 2
}}

vrrp_instance kube_api {{
  state BACKUP
  nopreempt
  interface {cluster.api.interface}
  virtual_router_id {cluster.api.router_id}
  priority {150 - 10 * balancers.index(master)}
  advert_int 1
  unicast_src_ip {master.address}
  unicast_peer {{
{peers}
  }}
  virtual_ipaddress {{
    {cluster.api.address}/32
  }}
  track_script {{
    check_api
  }}
}}
"""


def make_check(cluster: Cluster) -> str:
    """Return keepalived's check: this machine's HAProxy takes connections at the API's address.

    HAProxy itself asks the API servers; while none of them is ready, no machine would be better than this one.
    """
    return f"""\
#!/bin/sh
# Rendered by seaway from cluster.toml: is this machine's HAProxy listening on the API's port?
exec ss -Hltn "sport = :{cluster.api.port}" | grep -q .
"""

"""Names, addresses and sizes of the test cluster."""

from __future__ import annotations

from pathlib import Path

STATE = Path("/var/cache/seaway-kube")  # all that a running cluster writes, etcd's data aside
FAST = Path("/dev/shm/seaway-kube")  # etcd's data: in memory, so that nothing waits for a disk
RECORD = STATE / "record.json"
KUBECONFIG = STATE / "admin.conf"
LOGS = STATE / "logs"

CGROUP = "seaway-kube"
BRIDGE = "swkube0"
NETWORK = "10.171.0"  # /24
POD_RANGE = "10.172.0.0/16"
SERVICE_RANGE = "10.173.0.0/16"
API = f"{NETWORK}.1"  # the balancer's, and the registry's
REGISTRY = f"{API}:5000"
MASTERS = {"master1": f"{NETWORK}.2", "master2": f"{NETWORK}.3", "master3": f"{NETWORK}.4"}
ROLES = {
    "master1": ["etcd", "api", "controllers", "balancer"],
    "master2": ["etcd", "api", "controllers"],
    "master3": ["etcd"],
}
NODES = {f"node{n}": f"{NETWORK}.1{n}" for n in (1, 2, 3)}

PAUSE = f"{REGISTRY}/pause:1"
BUSYBOX = f"{REGISTRY}/busybox:1"
BASE = f"{REGISTRY}/base:1"

SYSCTLS = (  # what kubelets set for the whole machine; put back on the way down
    "vm.overcommit_memory",
    "vm.panic_on_oom",
    "kernel.panic",
    "kernel.panic_on_oops",
    "kernel.keys.root_maxkeys",
    "kernel.keys.root_maxbytes",
)


def pod_range(node: str) -> str:
    """Return the addresses of a node's pods."""
    return f"10.172.{node.removeprefix('node')}.0/24"


def make_cluster_toml(programs: Path, version: str) -> str:
    """Return the cluster.toml that the test cluster is rendered from."""
    masters = "\n".join(
        f'[[masters]]\nname = "{name}"\naddress = "{address}"\nroles = {ROLES[name]!r}'
        for name, address in MASTERS.items()
    )
    nodes = "\n".join(f'[[nodes]]\nname = "{name}"\naddress = "{address}"' for name, address in NODES.items())
    return f"""\
name = "seaway-lab"
kubernetes = "{version}"
pod_range = "{POD_RANGE}"
service_range = "{SERVICE_RANGE}"
operators = ["{NETWORK}.0/24"]

[api]
address = "{API}"
balancer = "haproxy"

[paths]
root = "{STATE}/{{name}}"
programs = "{programs}"

{masters}

{nodes}

[flags.etcd]
data-dir = "{FAST}/{{name}}"
heartbeat-interval = 300
election-timeout = 3000

[flags.kube-apiserver]
event-ttl = "15m"

[flags.kube-controller-manager]
allocate-node-cidrs = false  # each node's range is fixed
node-monitor-period = "2s"
node-monitor-grace-period = "16s"

[flags.kubelet]
housekeeping-interval = "20s"
pod-infra-container-image = "{PAUSE}"

[kubelet]
cgroupDriver = "cgroupfs"
cgroupRoot = "/{CGROUP}/{{name}}"
clusterDNS = []  # Debian has no DNS server for clusters
evictionHard = {{ "memory.available" = "100Mi", "nodefs.available" = "2%", "imagefs.available" = "2%" }}
failSwapOn = false
healthzPort = 0
imageGCHighThresholdPercent = 99
imageGCLowThresholdPercent = 98
nodeLeaseDurationSeconds = 20
nodeStatusUpdateFrequency = "4s"
resolvConf = "{STATE}/{{name}}/etc/resolv.conf"

[proxy]
conntrack = {{ maxPerCore = 0 }}
healthzBindAddress = "0.0.0.0:10256"
"""

"""Masters and nodes: a network and mount namespace each; a node has containerd, kubelet and kube-proxy inside.

The mount namespace has its own /run, /var/log and /var/lib, so that the programs use their usual paths, see nothing
of each other or of this machine's own container engine, and leave no mount behind: all go with the last process.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.kube.lab import machine
from tests.kube.lab.processes import alive, pid_of, start, start_unit, wait
from tests.kube.lab.settings import PAUSE, REGISTRY, STATE, pod_range

HOLD = """
d=$1
for p in run var/log var/lib; do mkdir -p "$d/$p"; mount --bind "$d/$p" "/$p"; done
mount --make-rshared /
hostname "${d##*/}"
echo >"$d/held"
exec sleep infinity
"""

CONTAINERD = """\
version = 2
oom_score = 0
[debug]
  level = "warn"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "{pause}"
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/etc/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".registry.mirrors."{registry}"]
    endpoint = ["http://{registry}"]
"""


def folder_of(node: str) -> Path:
    """Return the folder of a node's files."""
    return STATE / node


def inside(node: str) -> list[str]:
    """Return the words that put a command into the namespaces of a node or master."""
    return ["nsenter", "-t", str(pid_of(f"{node}-holder")), "-n", "-u", "-m"]


def make_namespaces(node: str) -> None:
    """Start the process that holds the namespaces of a node or master and connect it."""
    folder = folder_of(node)
    hold = ["unshare", "--net", "--uts", "--mount", "--propagation", "private", "sh", "-ec", HOLD, "sh", str(folder)]
    pid = start(f"{node}-holder", hold)
    wait(f"{node}'s namespaces", (folder / "held").exists, timeout=20, logs=[f"{node}-holder"])
    machine.connect(node, pid)


def write_configuration(node: str) -> None:
    """Write what `render` leaves to the node's owner: the container runtime, the pods' network, names."""
    folder = folder_of(node)
    (folder / "etc/cni").mkdir(parents=True, exist_ok=True)
    network = {
        "cniVersion": "0.4.0",
        "name": "lab",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "ipMasq": True,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": pod_range(node)}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": "/var/lib/cni/networks",
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
    (folder / "etc/cni/10-lab.conflist").write_text(json.dumps(network, indent=1))
    (folder / "etc/containerd.toml").write_text(CONTAINERD.format(pause=PAUSE, registry=REGISTRY, folder=folder))
    shutil.copyfile("/etc/resolv.conf", folder / "etc/resolv.conf")


def start_containerd(node: str) -> None:
    """Start a node's container runtime."""
    write_configuration(node)
    start(f"{node}-containerd", [*inside(node), "containerd", "-c", str(folder_of(node) / "etc/containerd.toml")])


def start_agents(node: str) -> None:
    """Start a node's kubelet and kube-proxy as their rendered units say, containerd's socket being there."""
    socket = folder_of(node) / "run/containerd/containerd.sock"
    wait(f"{node}'s containerd", socket.exists, timeout=30, logs=[f"{node}-containerd"])
    start_unit(node, "kubelet", inside(node))
    start_unit(node, "kube-proxy", inside(node))


def revive(node: str) -> None:
    """Start again what has died of a node."""
    if not alive(f"{node}-containerd"):
        start_containerd(node)
    for name in ("kubelet", "kube-proxy"):
        if not alive(f"{node}-{name}"):
            start_unit(node, name, inside(node))

"""This machine's network as the lab changes it: a bridge, a cable to each node, routes to the nodes' pods."""

from __future__ import annotations

import subprocess

from tests.kube.lab.errors import LabError
from tests.kube.lab.settings import API, BRIDGE, MASTERS, NODES, pod_range


def command(*words: str, check: bool = True) -> str:
    """Run a command and return what it printed; raises LabError with what it said."""
    done = subprocess.run(words, capture_output=True, text=True)
    if check and done.returncode:
        raise LabError(
            f"`{' '.join(words)}` ended with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}"
        )
    return done.stdout


def cable(name: str) -> str:
    """Return the name of a master's or node's link on this machine; taking it down makes that one vanish."""
    return f"swkube-{name}"  # 14 letters; 15 are allowed


def links() -> list[str]:
    """Return the names of every link that the lab makes on this machine."""
    return [BRIDGE, *(cable(name) for name in (*MASTERS, *NODES))]


def existing_links() -> list[str]:
    """Return those of the lab's links that are there."""
    return [name for name in links() if command("ip", "-o", "link", "show", name, check=False)]


def make_bridge() -> None:
    """Make the bridge with the address of the balancer and the registry."""
    command("ip", "link", "add", BRIDGE, "type", "bridge")
    command("ip", "addr", "add", f"{API}/24", "dev", BRIDGE)
    command("ip", "link", "set", BRIDGE, "up")


def connect(name: str, pid: int) -> None:
    """Lay the cable between the bridge and the network namespace of process `pid`; set up the far end.

    Every machine knows the way to every node's pods, so nothing is forwarded by this machine.
    """
    address = (MASTERS | NODES)[name]
    command("ip", "link", "add", cable(name), "type", "veth", "peer", "name", "eth0", "netns", str(pid))
    command("ip", "link", "set", cable(name), "master", BRIDGE, "up")
    setup = [
        "ip link set lo up",
        f"ip addr add {address}/24 dev eth0",
        "ip link set eth0 up",
        f"ip route add default via {API}",
        "ip route add unreachable 169.254.0.0/16",  # a kubelet looks for clouds there, and waits 11 s for none
        *(f"ip route add {pod_range(n)} via {a}" for n, a in NODES.items() if n != name),
        "echo 1 >/proc/sys/net/ipv4/ip_forward",
    ]
    command("nsenter", "-t", str(pid), "-n", "-m", "sh", "-ec", "\n".join(setup))
    if name in NODES:
        command("ip", "route", "replace", pod_range(name), "via", address)


def remove_links() -> None:
    """Remove the lab's links; their addresses and routes go with them."""
    for name in existing_links():
        command("ip", "link", "del", name, check=False)  # a cable goes by itself with its far end

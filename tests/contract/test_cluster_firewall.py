"""The firewall rules in a real kernel: network namespaces as master, second master, node, operator and stranger."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from seaway.cluster.firewall import make_rules
from tests.cluster_kit import make_cluster
from tests.namespace_kit import inside, namespace
from tests.packages import find_program

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
MASTER = "10.0.0.11"
PORTS = (22, 2379, 2380, 6443, 6444, 10250, 10257, 10259, 30080)
CALLERS = {  # by the addresses of tests/cluster_kit.py; all on one link, as in one data centre
    "10.0.0.12": {2379, 2380, 6443, 6444, 10250, 10257, 10259},  # the second master
    "10.0.0.21": {6443, 6444},  # the node
    "10.244.3.9": {6443, 6444},  # a pod
    "192.0.2.3": {22, 6443, 6444},  # an operator
    "198.51.100.7": {22, 6443, 6444},  # an operator by a single address
    "10.0.0.99": set(),  # a stranger beside the masters
    "198.51.100.8": set(),  # a stranger beside an operator
}
LISTEN = """
import socket, signal
held = [socket.create_server(("0.0.0.0", port)) for port in PORTS]
print("listening", flush=True)
signal.pause()
"""
TRY = """
import socket, sys
for port in PORTS:
    with socket.socket() as caller:
        caller.settimeout(0.25)
        caller.bind((sys.argv[1], 0))
        if caller.connect_ex((sys.argv[2], port)) == 0:
            print(port)
"""


def connect(master: int, callers: int) -> None:
    """Lay a cable between both namespaces; the callers' end has every caller's address."""
    there = ["peer", "name", "eth0", "netns", str(callers)]
    inside(master, "ip", "link", "add", "eth0", "type", "veth", *there)
    for pid, addresses in ((master, [MASTER]), (callers, list(CALLERS))):
        for address in addresses:
            inside(pid, "ip", "addr", "add", f"{address}/32", "dev", "eth0")
        inside(pid, "ip", "link", "set", "lo", "up")
        inside(pid, "ip", "link", "set", "eth0", "up")
        inside(pid, "ip", "route", "add", "default", "dev", "eth0")


def test_only_masters_nodes_and_operators_come_in(tmp_path: Path) -> None:
    """Every caller reaches exactly the ports meant for it; before the rules, all of them."""
    if not find_program("nft"):
        pytest.skip("nft is not installed")
    rules = tmp_path / "rules.nft"
    rules.write_text(make_rules(make_cluster()))
    with ExitStack() as stack:
        master = stack.enter_context(namespace(f"PORTS = {PORTS}\n{LISTEN}")).pid
        callers = stack.enter_context(namespace()).pid
        connect(master, callers)

        def reach(address: str) -> set[int]:
            said = inside(callers, "python3", "-c", f"PORTS = {PORTS}\n{TRY}", address, MASTER)
            return {int(word) for word in said.split()}

        assert reach("10.0.0.99") == set(PORTS)
        for _ in range(2):  # loading it again replaces it
            inside(master, "nft", "-f", str(rules))
        assert {address: reach(address) for address in CALLERS} == CALLERS
        own = inside(master, "python3", "-c", f"PORTS = {PORTS}\n{TRY}", "127.0.0.1", "127.0.0.1")
        assert {int(word) for word in own.split()} == set(PORTS)
        inside(master, "nft", "delete", "table", "inet", "seaway_masters")
        assert reach("10.0.0.99") == set(PORTS)

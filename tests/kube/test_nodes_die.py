"""Nodes of a real cluster vanish and return under load; a slow or lossy API takes nothing away."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.depth import choose
from tests.e2e.harness import wait_until
from tests.kube.fixture import Cluster
from tests.kube.lab.machine import cable
from tests.kube.lab.processes import pid_of
from tests.kube.lab.settings import NODES
from tests.kube.platform import KubePlatform
from tests.kube.test_platform import Shop
from tests.load.mix import Mix
from tests.load.report import Report

pytestmark = pytest.mark.timeout(400)

MIX = Mix(get=60, post=25, new=15, slow=0, stream=0)
INSTANCES = 3
IN_FLIGHT = 0.2  # seconds: by then a connection kept alive (0.1 s) to the node that vanished takes no more requests
LOSS = """\
table inet seaway_test_loss {{
  chain in {{
    type filter hook input priority 0;
    tcp dport 6443 numgen random mod 100 < {percent} drop
    tcp sport 6443 numgen random mod 100 < {percent} drop
  }}
}}
"""


@pytest.fixture(scope="module")
def deployed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """An app of three instances, behind two routers."""
    if not cluster.lab:
        pytest.skip("only nodes of this project's own cluster can be made to vanish")
    platform = KubePlatform(cluster, tmp_path_factory.mktemp("nodes"))
    try:
        platform.up()
        shop = Shop(platform)
        shop.create(INSTANCES)
        yield shop
    finally:
        platform.down()


@pytest.fixture
def shop(deployed: Shop) -> Shop:
    """The same with an instance on each node. The test that moves one is the last, so that none has to be put back."""
    wait_until(lambda: sorted(i["node"] for i in list_serving(deployed)) == sorted(NODES), "one on each node", 60)
    return deployed


def list_serving(shop: Shop) -> list[dict[str, Any]]:
    """Return the instances that are ready."""
    found = shop.platform.read("ps", "list", "-a", shop.name)
    return [i for i in found if i["state"] == "running" and i["ready"]]


def list_left(shop: Shop) -> list[dict[str, Any]]:
    """Return the instances that have not stopped."""
    return [i for i in shop.platform.read("ps", "list", "-a", shop.name) if i["state"] != "stopped"]


def list_events(shop: Shop, after: int = 0) -> list[str]:
    """Return the reasons of all events but the first `after`."""
    return [event["spec"]["reason"] for event in shop.platform.read("events", "-n", "1000")][after:]


def list_pods(shop: Shop) -> list[str]:
    """Return the pods that there are, those that are ending included."""
    found = shop.platform.cluster.get("-n", f"{shop.platform.prefix}{shop.platform.team}", "pods")
    return sorted(pod["metadata"]["name"] for pod in found)


@contextmanager
def cut(node: str) -> Iterator[float]:
    """Take the node's link down; yield when. It comes up again in the end."""
    subprocess.run(["ip", "link", "set", cable(node), "down"], check=True)
    try:
        yield time.time()
    finally:
        subprocess.run(["ip", "link", "set", cable(node), "up"], check=True)


@contextmanager
def lossy(percent: int) -> Iterator[None]:
    """Drop packets from and to the API servers."""
    subprocess.run(["nft", "-f", "-"], input=LOSS.format(percent=percent), text=True, check=True)
    try:
        yield
    finally:
        subprocess.run(["nft", "delete", "table", "inet", "seaway_test_loss"], check=True)


@contextmanager
def stalled() -> Iterator[None]:
    """Stop every API server; connections stay open."""
    pids = [pid_of(f"{master}-kube-apiserver") for master in ("master1", "master2")]
    subprocess.run(["kill", "-STOP", *map(str, pids)], check=True)
    try:
        yield
    finally:
        subprocess.run(["kill", "-CONT", *map(str, pids)], check=True)


def check_failures(report: Report, cut_at: float) -> None:
    """Nothing failed but what was in flight on the node when it vanished."""
    others = [f for f in report.unexplained() if f.sent_at > cut_at + IN_FLIGHT or f.ended_at < cut_at]
    assert not others, "\n".join(map(str, others))


def test_most_nodes_vanish(shop: Shop) -> None:
    """More than half at once: nothing is replaced, and that is said; when they are back all is as it was."""
    before, told = list_pods(shop), len(list_events(shop))
    with cut("node1"), cut("node2"):
        wait_until(lambda: "ReplacementsStopped" in list_events(shop, told), "it is said", 60)
        assert list_pods(shop) == before
    wait_until(lambda: "ReplacementsResumed" in list_events(shop, told), "it is over", 60)
    wait_until(lambda: len(list_serving(shop)) == INSTANCES, "all serve", 60)
    assert list_pods(shop) == before


def test_an_api_that_stalls_or_loses_packets_costs_nothing(shop: Shop) -> None:
    """15 s without an answer of any API server, then 30 % of packets lost: no eviction, no failed request."""
    before, told = list_pods(shop), len(list_events(shop))
    with shop.load(60, MIX) as load:
        with stalled():
            load.mark("stalled")
            time.sleep(15)
        load.mark("lossy")
        with lossy(30):
            time.sleep(choose(6, 15))
        load.mark("well")
        wait_until(lambda: list_pods(shop) == before, "the API answers")
        wait_until(lambda: len(list_serving(shop)) == INSTANCES, "all serve", 60)
        report = load.stop()
    print(report.describe())
    report.assert_clean()
    assert not {"NodeLost", "ReplacementsStopped"} & set(list_events(shop, told))
    assert set(NODES) == {i["node"] for i in list_serving(shop)}


def test_a_node_vanishes_and_returns(shop: Shop) -> None:
    """Its instances are replaced elsewhere; when it is back, nothing runs twice and nothing is lost."""
    node, told = "node2", len(list_events(shop))
    with shop.load(60, MIX) as load:
        time.sleep(2)
        with cut(node) as cut_at:
            load.mark("the node is gone")

            def replaced() -> bool:
                serving = list_serving(shop)
                return len(serving) == INSTANCES and all(i["node"] != node for i in serving)

            wait_until(replaced, "replaced", 60)
            print(f"replaced {time.time() - cut_at:.1f} s after the node vanished")
            load.mark("replaced")
            time.sleep(3)
        load.mark("the node is back")
        back_at = time.time()
        wait_until(lambda: "NodeBack" in list_events(shop, told), "the node is taken back", 60)
        print(f"taken back {time.time() - back_at:.1f} s after its return")
        wait_until(lambda: len(list_left(shop)) == INSTANCES, "what was replaced has ended on the node", 90)
        print(f"all in order {time.time() - back_at:.1f} s after its return")
        assert len(list_serving(shop)) == INSTANCES
        report = load.stop()
    print(report.describe())
    check_failures(report, cut_at)
    assert report.span("replaced").stats.failed == 0
    assert report.span("the node is back").stats.failed == 0
    assert "NodeLost" in list_events(shop, told)

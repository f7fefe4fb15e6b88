"""The test cluster itself: nothing of it stays, and one that was killed half-way is cleared away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.kube.fixture import ENVIRONMENT, Cluster, why_not
from tests.kube.lab import cgroups, record, trace
from tests.kube.lab.binaries import ensure_binaries
from tests.kube.lab.cluster import PACKAGES, down, running, up
from tests.kube.lab.errors import LabError
from tests.kube.lab.images import ensure_base
from tests.kube.lab.processes import PIDS
from tests.kube.lab.settings import KUBECONFIG, RECORD, REGISTRY, STATE
from tests.packages import ensure_packages

pytestmark = [
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.skipif(ENVIRONMENT in os.environ, reason=f"{ENVIRONMENT} is set: the lab is left alone"),
    pytest.mark.timeout(1800),
]


@pytest.fixture(scope="module")
def before() -> Iterator[trace.Trace]:
    """What this machine looks like without the cluster; the caches are warm."""
    ensure_packages(*PACKAGES)
    ensure_binaries()
    ensure_base()
    down()
    yield trace.look()
    down()


def start_pods(count: int) -> Cluster:
    """Have pods run, so that shims, mounts, veths and pods' namespaces are there to be left behind."""
    cluster = Cluster(KUBECONFIG, str(ensure_binaries() / "kubectl"), REGISTRY, lab=True)
    words = ("--image", cluster.busybox_image, f"--replicas={count}", "--", "sleep", "100000")
    cluster.kubectl("create", "deployment", "stays", *words)
    cluster.kubectl("rollout", "status", "deployment/stays", "--timeout=60s")
    return cluster


def test_one_that_died_half_way_down_is_cleared_away_and_leaves_no_trace(before: trace.Trace) -> None:
    """Processes, mounts, namespaces, groups, links, routes, rules, files, kernel settings: as they were.

    The record goes last, so a way down that was killed can be walked again; so can a way up over it. Before that, a
    second `make kube-up` does not restart what is in good health. (What `make test` does with a cluster of its own is
    compared as well: `python -m tests.kube.lab end`.)
    """
    began = time.monotonic()
    up()
    assert time.monotonic() - began < 60
    pids = set(cgroups.list_processes())
    up()
    assert pids <= set(cgroups.list_processes())
    start_pods(6)
    assert len(cgroups.list_processes()) > 30
    with record.alone():
        cgroups.kill_all()
    assert not running()
    up()
    assert running()
    down()
    assert trace.compare(before, trace.look()) == []
    assert not down()


@pytest.mark.parametrize("processes", [1, 8, 20])
def test_an_up_that_is_killed_is_cleared_away(before: trace.Trace, processes: int) -> None:
    """`kill -9` at several moments of the way up; the way down finds all of it by the record."""
    starting = subprocess.Popen([sys.executable, "-m", "tests.kube.lab", "up"], stdout=subprocess.DEVNULL)
    ends = time.monotonic() + 60
    while not (PIDS.exists() and len(list(PIDS.iterdir())) >= processes):
        assert starting.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < ends
        time.sleep(0.01)
    starting.send_signal(signal.SIGKILL)
    starting.wait()
    assert RECORD.exists()
    assert not running()
    assert down()
    assert trace.compare(before, trace.look()) == []


def test_two_at_a_time_are_refused() -> None:
    """The second says what to do, and touches nothing."""
    with record.alone(), pytest.raises(LabError, match="wait until it is done"):
        down()


def test_a_stranger_by_our_name_is_left_alone(before: trace.Trace) -> None:
    """A folder that no record tells of is not ours to remove."""
    down()
    STATE.mkdir()
    try:
        (STATE / "precious").write_text("not ours")
        with pytest.raises(LabError, match="remove it by hand"):
            up()
        assert (STATE / "precious").read_text() == "not ours"
    finally:
        (STATE / "precious").unlink()
        STATE.rmdir()

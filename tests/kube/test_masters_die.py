"""Masters made by `seaway cluster render`: one API server, one etcd member, the leading controllers die unnoticed."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from seaway.cluster.kubeconfig import read_kubeconfig
from seaway.cluster.probing import ask
from tests.kube.fixture import Cluster
from tests.kube.lab.cluster import restart
from tests.kube.lab.processes import PIDS, alive, kill
from tests.kube.lab.settings import API, MASTERS, ROLES, STATE

pytestmark = pytest.mark.timeout(300)
NAMESPACE = f"masters-die-{os.getpid()}"
CONTROLLERS = ("kube-controller-manager", "kube-scheduler")
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: web
          image: IMAGE
          command: [sh, -c, "echo ok >/www/index.html; exec httpd -f -p 8080 -h /www"]
          readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
"""


@dataclass
class Watcher:
    """Asks all pods and the API again and again; every failure is kept with its time."""

    cluster: Cluster
    pods: list[str]
    failures: list[str] = field(default_factory=list)
    began: list[float] = field(default_factory=list)  # of each failure
    asked: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        access = read_kubeconfig(self.cluster.kubeconfig)
        context = access.context()
        while not self.stop.wait(0.1):
            for address in self.pods:
                self.note(address, lambda a=address: ask(f"http://{a}:8080/", None).status)  # type: ignore[misc]
            self.note("API", lambda: ask(f"https://{API}:6443/api/v1/namespaces/{NAMESPACE}", context).status)

    def note(self, what: str, request: Callable[[], int]) -> None:
        self.asked += 1
        began = time.monotonic()
        status = request()
        if status != 200:
            self.failures.append(f"{what}: {status} after {time.monotonic() - began:.1f} s")
            self.began.append(began)

    def began_after(self, when: float) -> list[str]:
        """Return the failures of requests that began after a time (time.monotonic)."""
        return [failure for failure, began in zip(self.failures, self.began, strict=True) if began > when]


@pytest.fixture(scope="module")
def deployment(cluster: Cluster) -> Iterator[None]:
    """A deployment in a namespace of its own."""
    if not cluster.lab:
        pytest.skip("masters are killed in the project's own test cluster only")
    cluster.kubectl("create", "namespace", NAMESPACE)
    try:
        cluster.kubectl("-n", NAMESPACE, "apply", "-f", "-", stdin=DEPLOYMENT.replace("IMAGE", cluster.busybox_image))
        yield
    finally:
        cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture
def watcher(cluster: Cluster, deployment: None) -> Iterator[Watcher]:
    """Three pods that serve, watched; nothing is left of what was killed before."""
    for master in (name for name, roles in ROLES.items() if "api" in roles):
        wait_until(lambda master=master: is_quick(cluster, master))  # type: ignore[misc]
    revive_controllers(cluster)
    scale(cluster, 3)
    wait_until(lambda: len(list_pods(cluster)) == 3)
    made = Watcher(cluster, [pod["status"]["podIP"] for pod in list_pods(cluster)])
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        yield made
    finally:
        made.stop.set()
        thread.join()


def wait_until(condition: Callable[[], bool], timeout: float = 60) -> float:
    """Wait for a condition; return the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout
        time.sleep(0.2)
    return time.monotonic() - began


def revive_controllers(cluster: Cluster) -> None:
    """Start again what ended itself as it had lost its lease, as systemd does; wait until the leaders are alive."""
    for name in CONTROLLERS:
        for master in MASTERS:
            if (PIDS / f"{master}-{name}").exists() and not alive(f"{master}-{name}"):
                restart(master, name)
        wait_until(lambda name=name: alive(f"{leader_of(cluster, name)}-{name}"))  # type: ignore[misc]


def list_pods(cluster: Cluster) -> list[Any]:
    """Return the pods that are to stay; kubelet 1.20 clears others away a minute late if it missed their end."""
    found: list[Any] = cluster.get("-n", NAMESPACE, "pods", "-l", "app=web")
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def scale(cluster: Cluster, count: int) -> float:
    """Scale by kubectl through the balancer and wait until it is done; return the seconds that it took."""
    began = time.monotonic()
    cluster.kubectl("-n", NAMESPACE, "scale", "deployment/web", f"--replicas={count}")
    cluster.kubectl("-n", NAMESPACE, "rollout", "status", "deployment/web", "--timeout=60s")
    return time.monotonic() - began


def tell_pods(cluster: Cluster) -> str:
    """Return what happened to the pods and when, for a failure's message: who was slow."""
    events = cluster.kubectl("-n", NAMESPACE, "get", "events", "--sort-by=.metadata.creationTimestamp")
    pods = cluster.kubectl("-n", NAMESPACE, "get", "pods", "-o", "wide")
    leases = {name: leader_of(cluster, name) for name in CONTROLLERS}
    return f"{time.strftime('%T')}, leading: {leases}\n{pods}\n{events}"


def check_pods(cluster: Cluster, before: set[str]) -> None:
    """Those that ran still run, and never restarted."""
    pods = list_pods(cluster)
    assert before <= {pod["metadata"]["uid"] for pod in pods}
    assert {c["restartCount"] for pod in pods for c in pod["status"]["containerStatuses"]} == {0}


def uids(cluster: Cluster) -> set[str]:
    return {pod["metadata"]["uid"] for pod in list_pods(cluster)}


def listens(address: str, port: int) -> bool:
    """Return whether anything takes connections there."""
    try:
        socket.create_connection((address, port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def api_ready(cluster: Cluster, master: str) -> bool:
    context = read_kubeconfig(cluster.kubeconfig).context()
    return ask(f"https://{MASTERS[master]}:6444/readyz", context).status == 200


def is_quick(cluster: Cluster, master: str) -> bool:
    """Whether a read from etcd by this API server is answered at once.

    A member that asks a leader which dies never hears from it (etcd 3.3), and all of its readers wait with it for 7 s.
    """
    context, began = read_kubeconfig(cluster.kubeconfig).context(), time.monotonic()
    answer = ask(f"https://{MASTERS[master]}:6444/api/v1/namespaces/{NAMESPACE}", context)
    return answer.status == 200 and time.monotonic() - began < 1


def test_the_leading_controllers_die(cluster: Cluster, watcher: Watcher) -> None:
    """The others take over when the leases end, after 15 s; meanwhile all that runs runs."""
    before = uids(cluster)
    leaders = {name: leader_of(cluster, name) for name in CONTROLLERS}
    for name, master in leaders.items():
        kill(f"{master}-{name}")
    try:
        took = scale(cluster, 6)
        assert took < 60, tell_pods(cluster)
        check_pods(cluster, before)
        for name, master in leaders.items():
            assert leader_of(cluster, name) != master
    finally:
        for name, master in leaders.items():
            restart(master, name)
    assert watcher.failures == []


def test_the_leading_etcd_member_dies(cluster: Cluster, watcher: Watcher) -> None:
    """The others elect a new one; requests wait for it and do not fail, but for those that the dead one held."""
    before = uids(cluster)
    leader = find_etcd_leader()
    kill(f"{leader}-etcd")
    try:
        try:
            took = scale(cluster, 5)
        except AssertionError as error:  # the dead one held it: etcd refuses that as such, and a user asks again
            if "etcdserver: leader changed" not in str(error):
                raise
            took = scale(cluster, 5)
        assert took < 30, tell_pods(cluster)
        check_pods(cluster, before)
        assert find_etcd_leader() != leader
    finally:
        restart(leader, "etcd")
    wait_until(lambda: len(etcd_status()) == len(MASTERS))
    pods = [failure for failure in watcher.failures if not failure.startswith("API")]
    assert pods == []
    assert len(watcher.failures) <= 2, watcher.failures  # those under way to the dead member


def test_an_api_server_dies(cluster: Cluster, watcher: Watcher) -> None:
    """What it still took in while it died may fail; every request after that goes to its neighbour."""
    before = uids(cluster)
    kill("master1-kube-apiserver")
    wait_until(lambda: not listens(MASTERS["master1"], 6444))  # its threads end one after another
    gone_at = time.monotonic()
    try:
        took = scale(cluster, 4)
        assert took < 20, tell_pods(cluster)
        check_pods(cluster, before)
    finally:
        restart("master1", "kube-apiserver")
    wait_until(lambda: api_ready(cluster, "master1"))
    assert watcher.began_after(gone_at) == []
    assert not [failure for failure in watcher.failures if not failure.startswith("API")]
    assert watcher.asked > 50


def etcd_status() -> dict[str, Any]:
    """Return what each member that answers says of itself."""
    access = read_kubeconfig(STATE / "admin.conf")
    pki = STATE / "render/pki"
    texts = [
        (pki / name).read_text() for name in ("etcd/ca.crt", "people/etcd-operator.crt", "people/etcd-operator.key")
    ]
    context = type(access)("", *texts).context()
    found = {}
    for name, address in MASTERS.items():
        answer = ask(f"https://{address}:2379/v3/maintenance/status", context, method="POST", body={})
        if answer.status == 200:
            found[name] = answer.document()
    return found


def find_etcd_leader() -> str:
    """Return the master whose member leads."""
    return next(name for name, told in etcd_status().items() if told["leader"] == told["header"]["member_id"])


def leader_of(cluster: Cluster, name: str) -> str:
    """Return the master whose controller manager or scheduler holds the lease."""
    holder: str = cluster.get("-n", "kube-system", "lease", name)["spec"]["holderIdentity"]
    return holder.partition("_")[0]

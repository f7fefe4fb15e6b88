"""Seaway installed into a real cluster: its own image from its own builder, parts as pods, a balancer before them."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.harness import SEAWAY, wait_until
from tests.kube.build_images import push_build_images
from tests.kube.fixture import Cluster
from tests.load.mix import Mix
from tests.load.process import LoadProcess
from tests.ports import free_port

pytestmark = pytest.mark.timeout(600)

NAMESPACE = "seaway-install-test"
TEAM = "harbour"
PLAIN = Path(__file__).parents[1] / "e2e" / "apps" / "plain"
DOCKERFILE = """\
FROM small:1
RUN mkdir -p /srv && echo "built by $(id -u)" > /srv/index.html
EXPOSE 8000
ENTRYPOINT ["httpd"]
CMD ["-f", "-p", "8000", "-h", "/srv"]
"""
MIX = Mix(get=50, post=25, new=20, slow=1, stream=4, websockets=0)

BALANCER = """\
defaults
  mode tcp
  timeout connect 300ms
  timeout client 120s
  timeout server 120s
  retries 5
  option redispatch 1
frontend world
  bind 127.0.0.1:{port}
  default_backend routers
backend routers
  balance roundrobin
  option httpchk GET /healthz
"""
SERVER = "  server {name} {address}:{port} check port {health} inter 500ms fall 2 rise 2\n"


class Site:
    """The cluster with Seaway in it, and HAProxy before the nodes, which asks kube-proxy where a router is."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.http_port = free_port()
        self._balancer: subprocess.Popen[bytes] | None = None

    def list_shared(self) -> set[str]:
        """Return what belongs to the whole cluster."""
        kinds = "namespaces,crds,clusterroles,clusterrolebindings"
        return set(self.cluster.kubectl("get", kinds, "-o", "name").split())

    def run(
        self, *args: str, check: bool = True, stdin: str | None = None, home: str = "home", timeout: float = 500
    ) -> subprocess.CompletedProcess[str]:
        env = {"SEAWAY_HOME": str(self.folder / home), "KUBECONFIG": str(self.cluster.kubeconfig)}
        done = subprocess.run(
            [SEAWAY, *args], env=os.environ | env, input=stdin, capture_output=True, text=True, timeout=timeout
        )
        assert not check or done.returncode == 0, f"seaway {args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def install(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("install", "--namespace", NAMESPACE, *args, check=check)

    def first_install(self) -> subprocess.CompletedProcess[str]:
        return self.install(
            "--registry", f"{self.cluster.registry}/install", "--insecure-registry",
            "--base-image", self.cluster.base_image, "--balancer-wait", "3s",
            "--build-image", push_build_images(self.cluster, self.folder),
        )  # fmt: skip

    def read(self, *args: str) -> Any:
        return json.loads(self.run(*args, "-o", "json").stdout)

    def kubectl(self, *words: str) -> str:
        return self.cluster.kubectl("-n", NAMESPACE, *words, timeout=300)

    def start_balancer(self) -> None:
        service = self.cluster.get("-n", NAMESPACE, "service", "seaway-router")["spec"]
        assert service["externalTrafficPolicy"] == "Local"
        lines = [BALANCER.format(port=self.http_port)]
        for node in self.cluster.get("nodes"):
            (address,) = [a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"]
            lines.append(
                SERVER.format(
                    name=node["metadata"]["name"], address=address, port=service["ports"][0]["nodePort"],
                    health=service["healthCheckNodePort"],
                )
            )  # fmt: skip
        config = self.folder / "haproxy.cfg"
        config.write_text("".join(lines))
        with (self.folder / "haproxy.log").open("wb") as output:
            self._balancer = subprocess.Popen(["haproxy", "-db", "-f", config], stdout=output, stderr=output)

    def stop(self) -> None:
        if self._balancer is not None:
            self._balancer.kill()
            self._balancer.wait()

    def get(self, host: str) -> int:
        return self.ask(host)[0]

    def ask(self, host: str) -> tuple[int, str]:
        """Return status (0: no answer) and body."""
        command = ["curl", "-s", "-w", "\n%{http_code}", "-H", f"Host: {host}"]
        done = subprocess.run([*command, f"http://127.0.0.1:{self.http_port}/"], capture_output=True, text=True)
        body, _, status = done.stdout.rpartition("\n")
        return int(status or 0), body

    def list_own(self) -> set[str]:
        """Return the Jobs, pods and Secrets of Seaway's own namespace."""
        return set(self.kubectl("get", "jobs,pods,secrets", "-o", "name").split())

    def logs(self) -> str:
        """Return the last words of every part."""
        selector = "--selector=app.kubernetes.io/name=seaway"
        return self.cluster.kubectl("-n", NAMESPACE, "logs", selector, "--tail=200", "--prefix", check=False)

    def pods(self, part: str) -> set[str]:
        found = self.cluster.get("-n", NAMESPACE, "pods", "-l", f"app.kubernetes.io/component={part}")
        return {pod["metadata"]["name"] for pod in found}


@pytest.fixture(scope="module")
def site(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Installed once for all tests here, an app deployed; everything is removed at the end."""
    if not cluster.registry:
        pytest.skip("no registry is known for this cluster: set SEAWAY_TEST_REGISTRY")
    site = Site(cluster, tmp_path_factory.mktemp("site"))
    try:
        site.first_install()
        site.start_balancer()
        source = site.folder / "source"
        shutil.copytree(PLAIN, source)
        (source / "Procfile").write_text("web: python3 app.py --bind 0.0.0.0\n")
        site.run("apps", "create", "quay", "--team", TEAM)
        site.run("deploy", str(source), "-a", "quay")
        site.run("ps", "scale", "web=2", "-a", "quay")
        yield site
    except AssertionError:
        print(site.logs())
        raise
    finally:
        site.stop()
        site.run("uninstall", "--namespace", NAMESPACE, "--confirm", NAMESPACE, "--apps", "remove", check=False)


def test_an_app_is_served_through_the_front_door(site: Site) -> None:
    """Deployed by the command line through the API server, reached through a balancer and a node's port."""
    assert wait_until(lambda: site.get("quay.localhost") == 200, "the app answers")
    status = site.read("status")["api"]
    assert status["reachable"] is True
    assert "/proxy" in status["url"]
    assert {router["name"] for router in status["routers"] if router["connected"]} == site.pods("seaway-router")


def test_a_dockerfile_is_built_in_the_cluster_and_served(site: Site) -> None:
    """A Job of the control plane builds and pushes it; nothing of the build is left, and nothing of the app either."""
    before = site.list_own()
    source = site.folder / "dock"
    source.mkdir()
    (source / "Dockerfile").write_text(DOCKERFILE)
    site.run("apps", "create", "dock", "--team", TEAM)
    said = site.run("deploy", str(source), "-a", "dock")
    assert "STEP 2/5: RUN mkdir" in said.stdout + said.stderr
    assert wait_until(lambda: site.ask("dock.localhost") == (200, "built by 0\n"), "the app answers")
    assert site.cluster.get("-n", NAMESPACE, "jobs") == []
    wait_until(lambda: not site.pods("seaway-build"), "the build's pod is gone")
    site.run("apps", "destroy", "dock", "--confirm", "dock")
    wait_until(lambda: "dock" not in site.run("apps", "list").stdout, "the app is gone", timeout=60)
    wait_until(lambda: site.list_own() == before, "nothing of it is left", timeout=60)


def test_a_team_in_the_control_planes_namespace_is_refused(site: Site) -> None:
    """Nothing is made; the sentence says what to do."""
    team = NAMESPACE.removeprefix("seaway-")
    refused = site.run("apps", "create", "stray", "--team", team, check=False)
    assert refused.returncode != 0
    assert f"{NAMESPACE}, which is the control plane's own: choose another team" in refused.stderr
    assert "stray" not in site.run("apps", "list").stdout


def test_streams_come_at_once_through_the_api_server(site: Site) -> None:
    """Server-sent events are not held back by the proxy."""
    env = {"SEAWAY_HOME": str(site.folder / "home"), "KUBECONFIG": str(site.cluster.kubeconfig)}
    command = [str(SEAWAY), "events", "-f", "-o", "json"]
    with subprocess.Popen(command, env=os.environ | env, stdout=subprocess.PIPE, text=True) as following:
        try:
            assert following.stdout is not None
            first = json.loads(following.stdout.readline())  # what there was before
            assert first
            began = time.time()
            site.run("tokens", "create", "ci", "--role", "viewer")
            for line in following.stdout:
                if "ci" in json.loads(line)["spec"]["about"]:
                    break
            assert time.time() - began < 10
        finally:
            following.kill()


def make_user(site: Site, name: str) -> Path:
    """Return the kubeconfig of a user of the cluster who may do nothing yet."""
    site.kubectl("create", "serviceaccount", name)
    secret = wait_until(
        lambda: [s for s in site.cluster.get("-n", NAMESPACE, "secrets") if s["metadata"]["name"].startswith(name)],
        "a token for the user",
    )[0]
    config = yaml.safe_load(site.cluster.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": base64.b64decode(secret["data"]["token"]).decode()}
    file = site.folder / f"{name}.conf"
    file.write_text(yaml.safe_dump(config))
    return file


def test_a_user_of_the_cluster_needs_one_role_and_a_token(site: Site) -> None:
    """Bound to seaway-user he reaches the API, and his token says what he may do there; nothing else opens."""
    config = make_user(site, "ann")
    token = site.read("tokens", "create", "ann", "--role", "viewer")["secret"]
    login = ("login", "--cluster", "--namespace", NAMESPACE, "--kubeconfig", str(config))
    words = [*login, "--token-stdin"]
    refused = site.run(*words, stdin=token, check=False, home="ann")
    assert (refused.returncode, "seaway-user" in refused.stderr) == (4, True), refused.stderr
    account = f"--serviceaccount={NAMESPACE}:ann"
    site.kubectl("create", "rolebinding", "ann", "--role=seaway-user", account)
    site.run(*words, stdin=token, home="ann")
    assert "quay" in site.run("apps", "list", home="ann").stdout
    assert site.run("apps", "destroy", "quay", "--confirm", "quay", check=False, home="ann").returncode == 4
    assert site.run(*login, check=False, home="ann").returncode == 4  # the admin's token is not his to read


def test_a_second_run_changes_nothing(site: Site) -> None:
    """Not one object, and no pod is replaced."""
    before = site.pods("seaway-router") | site.pods("seaway-control")
    done = json.loads(site.install("-o", "json").stdout)
    assert {item["action"] for item in done["objects"]} == {"unchanged"}
    assert site.pods("seaway-router") | site.pods("seaway-control") == before


def test_replacing_every_router_drops_no_request(site: Site) -> None:
    """`kubectl rollout restart` of the routers, then of the control plane, under load that counts every answer."""
    before = site.pods("seaway-router")
    load = LoadProcess(f"http://127.0.0.1:{site.http_port}", host="quay.localhost", rate=50, mix=MIX)
    with load:
        load.mark("calm")
        wait_until(lambda: load.progress["ended"] > 100, "load")
        for part in ("seaway-router", "seaway-control"):
            load.mark(part)
            site.kubectl("rollout", "restart", f"deployment/{part}")
            site.kubectl("rollout", "status", f"deployment/{part}", "--timeout=240s")
            wait_until(lambda part=part: len(site.pods(part)) == 2, "the old ones are gone", timeout=120)  # type: ignore[misc]
        load.mark("after")
        report = load.stop()
    print(report.describe())
    assert not site.pods("seaway-router") & before
    said = site.kubectl("logs", "--selector=app.kubernetes.io/component=seaway-control", "--tail=-1")
    assert "forbidden" not in said.lower()
    report.assert_clean(least=500)


def test_an_image_that_cannot_be_pulled_is_told_and_stops_nothing(site: Site) -> None:
    """Exit code 5 and which image; the old ones serve; the next run puts it right."""
    good = json.loads(site.kubectl("get", "configmap", "seaway-install", "-o", "json"))["data"]["settings.json"]
    wrong = f"{site.cluster.registry}/install/none@sha256:{'0' * 64}"
    done = site.install("--image", wrong, "--timeout", "20s", check=False)
    assert done.returncode == 5, done.stderr
    assert f"cannot pull its image {wrong}" in done.stderr
    assert site.get("quay.localhost") == 200
    site.install("--image", json.loads(good)["image"])
    assert site.get("quay.localhost") == 200


def test_uninstall_keeps_apps_or_removes_all(site: Site) -> None:
    """Kept, they run on and are served again after an installation; removed, nothing is left in the cluster."""
    instances = [pod["metadata"]["name"] for pod in site.cluster.get("-n", f"seaway-{TEAM}", "pods")]
    site.run("uninstall", "--namespace", NAMESPACE, "--confirm", NAMESPACE)
    assert site.pods("seaway-router") == site.pods("seaway-control") == set()
    assert [pod["metadata"]["name"] for pod in site.cluster.get("-n", f"seaway-{TEAM}", "pods")] == instances
    site.install()
    site.stop()
    site.start_balancer()
    assert wait_until(lambda: site.get("quay.localhost") == 200, "the app answers again")
    assert [pod["metadata"]["name"] for pod in site.cluster.get("-n", f"seaway-{TEAM}", "pods")] == instances
    site.run("uninstall", "--namespace", NAMESPACE, "--confirm", NAMESPACE, "--apps", "remove")
    ours = {f"namespace/{NAMESPACE}", f"namespace/seaway-{TEAM}"}
    roles = {f"{kind}.rbac.authorization.k8s.io/seaway-control" for kind in ("clusterrole", "clusterrolebinding")}
    assert not (ours | roles) & site.list_shared()

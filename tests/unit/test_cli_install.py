"""seaway install, uninstall and login; and requests through a cluster's API server."""

from __future__ import annotations

import json
import socket
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from seaway.cli.client import Api
from seaway.cli.clusters import ClusterLogin, find_way, read_login, write_login
from seaway.cli.target import Target
from seaway.home import Home
from seaway.install.pki import issue, make_ca
from seaway.kube.names import api_proxy_path
from tests.unit.cli_recorded import TOKEN, Bench, bench, recorder

__all__ = ["bench", "recorder"]

KUBE_TOKEN = "kube-token-of-ann"


KUBECONFIG: dict[str, Any] = {
    "current-context": "t", "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t"}}],
    "clusters": [{"name": "t", "cluster": {"server": "https://127.0.0.1:1"}}],
    "users": [{"name": "t", "user": {"token": KUBE_TOKEN}}],
}  # fmt: skip


def test_install_takes_only_what_is_given(bench: Bench) -> None:
    """The rest stays as it was; afterwards the command line speaks to the cluster, with a token nobody saw."""
    Path("kc").write_text(json.dumps(KUBECONFIG))
    result = bench.run("install", "--registry", "r.example/apps", "--routers", "3", "--kubeconfig", "kc")
    assert result.exit_code == 0, result.stderr
    ((_, options),) = bench.calls
    given = {key: value for key, value in options.settings.items() if value is not None}
    assert given == {"namespace": "seaway-system", "registry": "r.example/apps", "routers": 3}
    assert "runs in namespace seaway-system; 1 object made or changed" in result.stdout
    assert TOKEN not in result.output
    login = read_login(Home(bench.home))
    assert login == ClusterLogin("seaway-system", TOKEN, str(Path.cwd() / "kc"), "t")
    assert stat.S_IMODE((bench.home / "cluster.json").stat().st_mode) == 0o600
    assert TOKEN not in repr(login)


def test_install_without_login(bench: Bench) -> None:
    result = bench.run("install", "--image", "x@sha256:1", "--no-login")
    assert "`seaway login --cluster`" in result.stdout
    assert read_login(Home(bench.home)) is None


def test_a_dry_run_prints_objects(bench: Bench) -> None:
    """As YAML or as sentences; nobody is logged in."""
    result = bench.run("install", "--dry-run", "-o", "yaml")
    assert list(yaml.safe_load_all(result.stdout)) == [
        {"kind": "Deployment", "metadata": {"name": "seaway-control"}},
    ]
    assert "Deployment seaway-control: would be created" in bench.run("install", "--dry-run").stdout
    assert json.loads(bench.run("install", "--dry-run", "-o", "json").stdout)["dry_run"] is True
    assert read_login(Home(bench.home)) is None


def test_uninstall_wants_the_namespace_once_more(bench: Bench) -> None:
    result = bench.run("uninstall", "--apps", "remove")
    assert (result.exit_code, bench.calls) == (2, [])
    assert "--confirm seaway-system" in result.stderr
    result = bench.run("uninstall", "--confirm", "seaway-system")
    assert result.exit_code == 0
    assert bench.calls[0][1].apps == "keep"


def test_login_says_what_it_needs(bench: Bench) -> None:
    assert bench.run("login").exit_code == 2
    assert bench.run("login", "--cluster", "--local").exit_code == 2
    result = bench.run("login", "--cluster", "--kubeconfig", "/nowhere")
    assert "cannot be read" in result.stderr
    write_login(Home(bench.home), ClusterLogin("seaway-system", TOKEN))
    assert bench.run("login", "--local").exit_code == 0
    assert read_login(Home(bench.home)) is None


@dataclass
class Gate:
    """Answers over TLS at the path of Seaway's API behind an API server, and keeps the headers that came."""

    folder: Path
    port: int = 0
    headers: list[dict[str, str]] = field(default_factory=list)
    answer: Response | None = None

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    async def status(self, request: Request) -> Response:
        self.headers.append(dict(request.headers))
        return self.answer or JSONResponse({"version": "0.1.0", "apps": 0})

    async def events(self, request: Request) -> Response:
        parts = [": still here\n\n", 'data: {"spec": {"message": "it happened"}}\n\n']
        return StreamingResponse(iter(parts), media_type="text/event-stream")

    def start(self) -> None:
        ca = make_ca("test", datetime.now(UTC))
        pair = issue(ca, "kube-apiserver", datetime.now(UTC), ["127.0.0.1"])
        for name, data in (("ca.crt", ca.certificate), ("tls.crt", pair.certificate), ("tls.key", pair.key)):
            (self.folder / name).write_bytes(data)
        start = api_proxy_path("seaway-system")
        app = Starlette(routes=[Route(f"{start}/v1/status", self.status), Route(f"{start}/v1/events", self.events)])
        files = {"ssl_certfile": self.folder / "tls.crt", "ssl_keyfile": self.folder / "tls.key"}
        self.server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", **files))  # type: ignore[arg-type]
        listening = socket.create_server(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listening]})
        self.thread.start()
        server = {"server": f"https://127.0.0.1:{self.port}", "certificate-authority": str(self.folder / "ca.crt")}
        content = KUBECONFIG | {"clusters": [{"name": "t", "cluster": server}]}
        self.kubeconfig.write_text(yaml.safe_dump(content))
        while not self.server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path)
    gate.start()
    yield gate
    gate.stop()


def run_logged_in(bench: Bench, gate: Gate, *args: str) -> Any:
    write_login(Home(bench.home), ClusterLogin("seaway-system", TOKEN, str(gate.kubeconfig)))
    return bench.run(*args, env={"SEAWAY_URL": None, "SEAWAY_TOKEN": None})


def test_requests_carry_both_tokens(bench: Bench, gate: Gate) -> None:
    """The cluster's in Authorization, Seaway's in its own header."""
    result = run_logged_in(bench, gate, "status", "-o", "json")
    api = json.loads(result.stdout)["api"]
    assert (api["reachable"], api["url"]) == (True, f"https://127.0.0.1:{gate.port}{api_proxy_path('seaway-system')}")
    (headers,) = gate.headers
    assert (headers["authorization"], headers["x-seaway-token"]) == (f"Bearer {KUBE_TOKEN}", TOKEN)
    assert TOKEN not in result.output


def test_login_is_kept_if_the_api_answers(bench: Bench, gate: Gate) -> None:
    """The token comes from standard input, and is not shown."""
    args = ("login", "--cluster", "--token-stdin", "--kubeconfig", str(gate.kubeconfig))
    result = bench.run(*args, stdin=f"{TOKEN}\n")
    assert result.exit_code == 0, result.stderr
    assert TOKEN not in result.output
    assert read_login(Home(bench.home)) == ClusterLogin("seaway-system", TOKEN, str(gate.kubeconfig), "t")


def test_what_kubectl_speaks_to_later_does_not_matter(bench: Bench, gate: Gate) -> None:
    """The cluster of KUBECONFIG and its context are kept, not looked up each time."""
    env = {"KUBECONFIG": str(gate.kubeconfig)}
    assert bench.run("login", "--cluster", "--token-stdin", stdin=TOKEN, env=dict(env)).exit_code == 0
    content = KUBECONFIG | yaml.safe_load(gate.kubeconfig.read_text())
    content["contexts"] += [{"name": "other", "context": {"cluster": "elsewhere", "user": "t"}}]
    gate.kubeconfig.write_text(yaml.safe_dump(content | {"current-context": "other"}))
    result = bench.run("status", "-o", "json", env={"SEAWAY_URL": None, "SEAWAY_TOKEN": None, "KUBECONFIG": "/nowhere"})
    assert json.loads(result.stdout)["api"]["reachable"] is True


async def test_streams_come_through(gate: Gate) -> None:
    """Server-sent events, until the API ends them."""
    way = find_way(ClusterLogin("seaway-system", TOKEN, str(gate.kubeconfig)))
    async with Api(Target(way.url, TOKEN, local=False, way=way)) as api:
        seen = [item.json() async for item in api.stream("/events")]
    assert seen == [{"spec": {"message": "it happened"}}]


@pytest.mark.parametrize(
    ("status", "code", "hint"), [(403, 4, "seaway-user"), (503, 1, "control plane"), (404, 3, "install")]
)
def test_what_the_api_server_says_is_told(bench: Bench, gate: Gate, status: int, code: int, hint: str) -> None:
    """Not "is it Seaway's API?"."""
    gate.answer = JSONResponse({"kind": "Status", "message": "no endpoints available", "code": status}, status)
    write_login(Home(bench.home), ClusterLogin("seaway-system", TOKEN, str(gate.kubeconfig)))
    args = ("login", "--cluster", "--token-stdin", "--kubeconfig", str(gate.kubeconfig))
    result = bench.run(*args, stdin=f"{TOKEN}\n")
    assert result.exit_code == code
    assert "no endpoints available" in result.stderr
    assert hint in result.stderr


def test_a_kubeconfig_that_is_gone_is_told(bench: Bench, gate: Gate) -> None:
    gate.kubeconfig.unlink()
    result = run_logged_in(bench, gate, "apps", "list")
    assert result.exit_code == 2
    assert "seaway login --local" in result.stderr


def test_the_gate_is_verified(bench: Bench, gate: Gate) -> None:
    """A server that another authority vouches for gets no token."""
    (gate.folder / "ca.crt").write_bytes(make_ca("other", datetime.now(UTC)).certificate)
    result = run_logged_in(bench, gate, "apps", "list")
    assert result.exit_code == 1
    assert gate.headers == []

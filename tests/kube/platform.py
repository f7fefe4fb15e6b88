"""Seaway on a real cluster, its own parts as processes of this machine: killed and restarted at will."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import psutil

from seaway.api import ensure_admin_token
from seaway.home import Home
from seaway.install.pki import Pair, issue, make_ca
from seaway.kube.client import KubeClient
from seaway.kube.config import load_config
from seaway.kube.installing import install_crds
from seaway.router.tls import ROUTER_NAME, SERVER_NAME
from seaway.store.kubernetes.store import KubernetesStore
from tests.command_line import COMMANDS
from tests.e2e.harness import SEAWAY, ask, kill_router, wait_until
from tests.kube.fixture import Cluster
from tests.load.report import Kill
from tests.ports import free_port

LEASE = "lease/seaway-control"


@dataclass
class Part:
    """One process: a replica of the control plane, or a router."""

    name: str
    command: tuple[str, ...]
    env: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    ports: dict[str, int] = field(default_factory=dict)

    def start(self) -> None:
        """Start it; what it says goes to its log."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(self.command, env=os.environ | self.env, stdout=output, stderr=output)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it and wait for it."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(30)


class KubePlatform:
    """A namespace of its own in the cluster, replicas of the control plane, routers on one shared port."""

    def __init__(self, cluster: Cluster, folder: Path, controls: int = 2, routers: int = 2) -> None:
        self.cluster, self.folder = cluster, folder
        self.namespace = f"seaway-test-{secrets.token_hex(3)}"
        self.team, self.prefix = "harbour", f"sw{secrets.token_hex(3)}-"
        self.http_port = free_port()
        self.controls = [self._make_control(n) for n in range(controls)]
        self.routers = [self._make_router(n) for n in range(routers)]
        self.home = Home(folder / "admin").create()
        self.front = self.controls[0]  # the replica that the command line talks to

    def up(self) -> None:
        """Put the kinds, the namespace and a token into the cluster, start everything, wait until it is whole."""
        self._write_certificates()
        asyncio.run(self._prepare())
        for part in (*self.controls, *self.routers):
            part.start()
        self.wait_whole()

    async def _prepare(self) -> None:
        client = KubeClient(load_config(self.cluster.kubeconfig))
        try:
            await install_crds(client)
            await client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}})
            await ensure_admin_token(KubernetesStore(client, self.namespace), self.home, datetime.now(UTC))
        finally:
            await client.close()

    def down(self) -> None:
        """Destroy the apps, end everything, remove the namespaces."""
        for part in (*self.routers, *self.controls):
            part.kill()
        for process in self._find_envoys():
            with suppress(psutil.NoSuchProcess):  # it ends with its router, too
                process.kill()
        patch = '{"metadata":{"finalizers":null}}'
        for app in self.cluster.kubectl("-n", self.namespace, "get", "apps.seaway.dev", "-o", "name").split():
            self.cluster.kubectl("-n", self.namespace, "patch", app, "--type=merge", "-p", patch)
        for namespace in (self.namespace, f"{self.prefix}{self.team}"):
            self.cluster.kubectl("delete", "namespace", namespace, "--ignore-not-found", "--wait=false")

    def wait_whole(self) -> None:
        """Wait until every replica answers and sees every router."""
        for control in self.controls:
            wait_until(lambda c=control: self._is_whole(c), f"{control.name} is whole", timeout=60)  # type: ignore[misc]

    def _is_whole(self, control: Part) -> bool:
        done = self.run("status", "-o", "json", check=False, control=control)
        try:
            api = json.loads(done.stdout)["api"]
        except (ValueError, KeyError):
            return False
        connected = {router["name"] for router in api.get("routers", ()) if router["connected"]}
        return connected >= {router.name for router in self.routers}

    def run(
        self,
        *args: str,
        check: bool = True,
        control: Part | None = None,
        timeout: float = 150,
        stdin: IO[bytes] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line before one replica (default: `front`); it reads the file `stdin`."""
        env = os.environ | self.find_env(control)
        done = COMMANDS.run(args, env=env, cwd=self.folder, stdin=stdin, timeout=timeout)
        assert not check or done.returncode == 0, f"seaway {args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def find_env(self, control: Part | None = None) -> dict[str, str]:
        """Return what a command needs to speak to one replica (default: `front`)."""
        return {
            "SEAWAY_URL": f"https://127.0.0.1:{(control or self.front).ports['api']}",
            "SEAWAY_HOME": str(self.home.root),
            "SEAWAY_CA": str(self.authority),
        }

    @property
    def url(self) -> str:
        """Where the API of the replica in front is."""
        return f"https://127.0.0.1:{self.front.ports['api']}"

    @property
    def authority(self) -> Path:
        """The file of the authority to trust for that."""
        return self.folder / "control-tls" / "ca.crt"

    def get(self, host: str, path: str = "/") -> tuple[int, str]:
        """Ask the routers; return status and body (0: no connection)."""
        return ask(self.http_port, host, path)

    def read(self, *args: str) -> Any:
        """Run a command and return what it says in JSON."""
        return json.loads(self.run(*args, "-o", "json").stdout)

    def find_leader(self) -> Part | None:
        """Return the replica that holds the Lease."""
        found = json.loads(self.cluster.kubectl("-n", self.namespace, "get", LEASE, "-o", "json", check=False) or "{}")
        holder = found.get("spec", {}).get("holderIdentity") or ""
        return next((c for c in self.controls if holder.startswith(f"{c.name}_")), None)

    def kill_router(self, router: Part) -> Kill:
        """Kill -9 a router with its Envoy, and start it again."""
        (envoy,) = self._find_envoys(router)
        killed = kill_router(router.name, router.pid, envoy, self.http_port)
        assert router.process is not None
        router.process.wait(10)
        router.start()
        return killed

    def _find_envoys(self, router: Part | None = None) -> list[psutil.Process]:
        mark = str(self.folder / router.name if router else self.folder)
        found = []
        for process in psutil.process_iter():
            try:
                line = process.cmdline()
            except psutil.Error:
                continue
            if "--config-path" in line and mark in " ".join(line):
                found.append(process)
        return found

    def _make_control(self, number: int) -> Part:
        ports = {"api": free_port(), "xds": free_port()}
        env = {"SEAWAY_API_PORT": str(ports["api"]), "SEAWAY_XDS_PORT": str(ports["xds"])}
        part = self._make_part(f"control-{number}", ("control",), env, "control-tls")
        part.ports = ports
        return part

    def _make_router(self, number: int) -> Part:
        replicas = ",".join(f"127.0.0.1:{control.ports['xds']}" for control in self.controls)
        env = {"SEAWAY_CONTROL": replicas, "SEAWAY_READY_PORT": str(free_port()), "SEAWAY_BALANCER_WAIT": "0"}
        name = f"router-{number}"
        return self._make_part(name, ("router", name), env, "router-tls")

    def _make_part(self, name: str, words: tuple[str, ...], env: dict[str, str], tls: str) -> Part:
        common = {
            "SEAWAY_HOME": str(self.folder / name),
            "SEAWAY_NAMESPACE": self.namespace,
            "SEAWAY_POD": name,
            "SEAWAY_ADDRESS": "127.0.0.1",
            "SEAWAY_HTTP_PORT": str(self.http_port),
            "SEAWAY_TLS_FOLDER": str(self.folder / tls),
            "SEAWAY_TEAM_PREFIX": self.prefix,
            "SEAWAY_REGISTRY": f"{self.cluster.registry}/{self.namespace}",
            "SEAWAY_INSECURE_REGISTRY": "true",
            "SEAWAY_BASE_IMAGE": self.cluster.base_image,
            "KUBECONFIG": str(self.cluster.kubeconfig),
        }
        return Part(name, (str(SEAWAY), *words), common | env, self.folder / f"{name}.log")

    def _write_certificates(self) -> None:
        now = datetime.now(UTC)
        ca = make_ca("Seaway's tests", now)
        self._write_pair("control-tls", ca, issue(ca, SERVER_NAME, now, (SERVER_NAME, "127.0.0.1")))
        self._write_pair("router-tls", ca, issue(ca, ROUTER_NAME, now))

    def _write_pair(self, name: str, ca: Pair, pair: Pair) -> None:
        folder = self.folder / name
        folder.mkdir()
        for file, data in (("ca.crt", ca.certificate), ("tls.crt", pair.certificate), ("tls.key", pair.key)):
            (folder / file).write_bytes(data)

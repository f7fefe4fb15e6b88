"""One etcd and one kube-apiserver on free ports: enough for the store and the client, ready in 3 s.

For tests that stop, kill and restart the API server; the whole cluster with nodes is another fixture's.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.kube.fixture import why_not
from tests.kube.lab.binaries import ensure_binaries
from tests.packages import ensure_packages
from tests.ports import free_port

USER = "seaway-tests"


@contextmanager
def run_api_server(folder: Path) -> Iterator[ApiServer]:
    """Yield a new API server, and stop it. Skips, saying why, where this machine cannot run one."""
    if reason := why_not():
        pytest.skip(reason)
    server = ApiServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()


class ApiServer:
    """A running API server; `kubeconfig` is an administrator's. Stop it with `stop`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ensure_packages("cluster", "cluster-files")
        self.binaries = ensure_binaries()
        self.kubeconfig = folder / "kubeconfig"
        self.port = free_port()
        self._etcd_port = free_port()
        self._token = secrets.token_hex(16)
        self._etcd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start both, write the kubeconfig, wait until the API server is ready."""
        self.folder.mkdir(parents=True, exist_ok=True)
        key = self.folder / "sa.key"
        command = ["openssl", "genrsa", "-out", str(key), "2048"]
        subprocess.run(command, check=True, capture_output=True)
        (self.folder / "tokens.csv").write_text(f'{self._token},{USER},1,"system:masters"\n')
        self.start_etcd()
        self.start_server()

    def start_etcd(self) -> None:
        client, peer = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{free_port()}"
        command = [
            "etcd", "--data-dir", str(self.folder / "etcd"), "--listen-client-urls", client,
            "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", f"default={peer}", "--log-level", "error", "--unsafe-no-fsync",
        ]  # fmt: skip
        self._etcd = self._spawn("etcd", command)

    def start_server(self) -> None:
        command = [
            str(self.binaries / "kube-apiserver"), f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1", f"--secure-port={self.port}", "--service-cluster-ip-range=10.96.0.0/16",
            f"--cert-dir={self.folder / 'certs'}", f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.folder / 'sa.key'}",
            f"--service-account-signing-key-file={self.folder / 'sa.key'}",
            "--authorization-mode=RBAC", "--anonymous-auth=false", "--max-requests-inflight=800",
            "--disable-admission-plugins=ServiceAccount", "--shutdown-delay-duration=0s",
        ]  # fmt: skip
        self._server = self._spawn("kube-apiserver", command)
        self.wait_ready()
        self._write_kubeconfig()

    def wait_ready(self, within: float = 60.0) -> None:
        """Wait until /readyz says ok."""
        authority = self.folder / "certs" / "apiserver.crt"
        deadline = time.monotonic() + within
        request = urllib.request.Request(f"{self.url}/readyz", headers={"Authorization": f"Bearer {self._token}"})
        while True:
            assert self._server is not None
            if self._server.poll() is not None:
                raise RuntimeError((self.folder / "kube-apiserver.log").read_text()[-2000:])
            try:
                context = ssl.create_default_context(cafile=str(authority))
                with urllib.request.urlopen(request, timeout=2, context=context) as answer:
                    if answer.status == 200:
                        return
            except (OSError, urllib.error.URLError):
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.05)

    def _write_kubeconfig(self) -> None:
        certificate = str(self.folder / "certs" / "apiserver.crt")
        content = {
            "apiVersion": "v1", "kind": "Config", "current-context": "t",
            "clusters": [{"name": "t", "cluster": {"server": self.url, "certificate-authority": certificate}}],
            "users": [{"name": USER, "user": {"token": self._token}}],
            "contexts": [{"name": "t", "context": {"cluster": "t", "user": USER, "namespace": "default"}}],
        }  # fmt: skip
        self.kubeconfig.write_text(yaml.safe_dump(content))
        self.kubeconfig.chmod(0o600)

    def kubectl(self, *args: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run kubectl with `text` as its input; never raises for its exit code."""
        command = [str(self.binaries / "kubectl"), f"--kubeconfig={self.kubeconfig}", *args]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=30)

    def pause(self) -> None:
        """Stop the API server from answering, its connections stay open (SIGSTOP)."""
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._server is not None
        self._server.send_signal(signal.SIGCONT)

    def kill_server(self) -> None:
        """kill -9 the API server."""
        assert self._server is not None
        self._server.kill()
        self._server.wait()

    def compact(self) -> None:
        """Forget all history in etcd before now, as etcd does every 5 minutes."""
        env = os.environ | {"ETCDCTL_API": "3"}
        endpoint = f"--endpoints=http://127.0.0.1:{self._etcd_port}"
        command = ["etcdctl", endpoint, "get", "x", "-w", "json"]
        seen = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=10).stdout
        revision = int(seen.partition('"revision":')[2].split(",")[0].rstrip("}"))
        command = ["etcdctl", endpoint, "compact", str(revision)]
        subprocess.run(command, env=env, capture_output=True, check=True, timeout=10)

    def stop(self) -> None:
        """Stop everything and remove the data; the logs stay."""
        for process in (self._server, self._etcd):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder / "etcd", ignore_errors=True)  # pytest clears the logs away

    def _spawn(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as output:
            return subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)

"""`seaway cluster check` against live control planes: one as `render` makes it, one that does everything wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import yaml

from seaway.cluster.certificates import Certificate
from seaway.cluster.config import Certificates
from seaway.cluster.issuing import Issuer
from seaway.cluster.kubeconfig import read_kubeconfig
from seaway.cluster.policies import make_kubeconfig
from seaway.cluster.probing import ask
from tests.cluster_kit import make_cluster
from tests.kube.fixture import Cluster
from tests.kube.lab import nodes
from tests.kube.lab.binaries import ensure_binaries
from tests.kube.lab.machine import command
from tests.kube.lab.processes import PIDS, forget, start, wait
from tests.kube.lab.settings import FAST, MASTERS, NETWORK, STATE

pytestmark = pytest.mark.timeout(180)
BAD = f"{NETWORK}.9"


def run_check(*words: str) -> tuple[int, dict[str, Any]]:
    """Run the command as a user does; return its exit code and what it found."""
    call = [sys.executable, "-m", "seaway", "cluster", "check", "-o", "json", *words]
    done = subprocess.run(call, capture_output=True, text=True, timeout=90)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture
def lab(cluster: Cluster) -> Cluster:
    """The project's own cluster."""
    if not cluster.lab:
        pytest.skip("looks at the project's own test cluster only: it knows how that one was made")
    return cluster


def test_what_render_makes_passes(lab: Cluster) -> None:
    """Everything can be looked at, and nothing is found (but what other tests' pods do with their tokens)."""
    words = ("--kubeconfig", str(lab.kubeconfig), "-f", str(STATE / "cluster.toml"), "-d", str(STATE / "render"))
    _, seen = run_check(*words)
    assert [finding for finding in seen["findings"] if finding["check"] != "default-tokens"] == []
    assert seen["not_checked"] == []


def test_a_default_token_in_a_pod_is_found(lab: Cluster) -> None:
    """And the exit code says so."""
    lab.kubectl("run", "check-token", f"--image={lab.busybox_image}", "--restart=Never", "--", "true")
    try:
        code, seen = run_check("--kubeconfig", str(lab.kubeconfig))
    finally:
        lab.kubectl("delete", "pod", "check-token", "--wait=false")
    assert code == 1
    found = next(finding for finding in seen["findings"] if finding["check"] == "default-tokens")
    assert "automountServiceAccountToken: false" in found["advice"]


@dataclass(frozen=True)
class Bad:
    """A control plane that does everything wrong."""

    kubeconfig: Path
    toml: Path
    mode: str


@pytest.fixture
def host(lab: Cluster) -> Iterator[list[str]]:
    """An address of its own for bad servers, in a master's network; the words that put a command there."""
    inside = nodes.inside("master3")
    command(*inside, "ip", "addr", "add", f"{BAD}/24", "dev", "eth0")
    try:
        yield inside
    finally:
        for name in ("bad-etcd", "bad-apiserver"):
            forget(name)
        command(*inside, "ip", "addr", "del", f"{BAD}/24", "dev", "eth0")
        shutil.rmtree(FAST / "bad", ignore_errors=True)


@pytest.fixture(params=["AlwaysAllow", "RBAC"])
def bad(lab: Cluster, host: list[str], tmp_path: Path, request: pytest.FixtureRequest) -> Bad:
    """A single etcd on plain HTTP; an API server that lets users do anything, or lets anybody in (it refuses both)."""
    url, peer = f"http://{BAD}:2379", f"http://{BAD}:2380"
    flags = {
        "name": "bad",
        "data-dir": f"{FAST}/bad",
        "listen-client-urls": url,
        "advertise-client-urls": url,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"bad={peer}",
    }
    start("bad-etcd", [*host, "etcd", *(f"--{name}={value}" for name, value in flags.items())])
    return start_apiserver(lab, host, tmp_path, request.param, f"--etcd-servers={url}")


def start_apiserver(lab: Cluster, host: list[str], folder: Path, mode: str, *etcd: str) -> Bad:
    """Start an API server that asks for anonymous access, restricts no node and encrypts nothing."""
    pki = STATE / "master1/etc/kubernetes/pki"
    flags = {
        "bind-address": BAD,
        "secure-port": "6444",
        "client-ca-file": f"{pki}/ca.crt",
        "authorization-mode": mode,
        "anonymous-auth": "true",
        "service-account-issuer": "bad",
        "service-account-key-file": f"{pki}/sa.pub",
        "service-account-signing-key-file": f"{pki}/sa.key",
        "service-cluster-ip-range": "10.173.0.0/16",
        "endpoint-reconciler-type": "none",  # nobody is to be sent here
    }
    program = str(ensure_binaries() / "kube-apiserver")
    words = [*host, program, *etcd, *serve_with(folder), *(f"--{name}={value}" for name, value in flags.items())]
    start("bad-apiserver", words)
    made = describe_bad(lab, folder, mode)
    access = read_kubeconfig(made.kubeconfig)
    context = access.context()
    logs = [name for name in ("bad-etcd", "bad-apiserver") if (PIDS / name).exists()]  # not every one has its own etcd
    wait("the bad API server", lambda: ask(f"{access.server}/readyz", context).status == 200, logs=logs)
    return made


def serve_with(folder: Path) -> list[str]:
    """Make a certificate by the lab's own authority that ends in 10 days; return the flags that use it."""
    store = folder / "pki"
    store.mkdir(mode=0o700)
    for name in ("ca.crt", "ca.key"):
        shutil.copy(STATE / "render/pki" / name, store / name)
    spec = Certificate("bad", "apiserver", "ca", "bad", addresses=(IPv4Address(BAD),), server=True, client=False)
    Issuer(store, Certificates(days=10, renew_before=1)).ensure([spec])
    return [f"--tls-cert-file={store}/bad/apiserver.crt", f"--tls-private-key-file={store}/bad/apiserver.key"]


def describe_bad(lab: Cluster, folder: Path, mode: str) -> Bad:
    """Write a kubeconfig and a cluster.toml for it."""
    access = read_kubeconfig(lab.kubeconfig)
    described = make_cluster()
    described = described.model_copy(update={"api": described.api.model_copy(update={"address": BAD, "port": 6444})})
    text = make_kubeconfig(described, "admin", access.authority, access.certificate, access.key)
    (folder / "bad.conf").write_text(text)
    (folder / "bad.toml").write_text(
        f'kubernetes = "1.20.2"\noperators = ["{BAD}/32"]\n[api]\naddress = "{BAD}"\nport = 6444\nbalancer = "none"\n'
        f'[[masters]]\nname = "bad"\naddress = "{BAD}"\n'
    )
    return Bad(folder / "bad.conf", folder / "bad.toml", mode)


def test_what_is_wrong_is_found(bad: Bad) -> None:
    """Each fault by its own check, on a real server that has it."""
    code, seen = run_check("--kubeconfig", str(bad.kubeconfig), "-f", str(bad.toml))
    told = {(finding["check"], finding["subject"]): finding["problem"] for finding in seen["findings"]}
    assert code == 1
    if bad.mode == "AlwaysAllow":
        assert told["authorization", "api"] == "a node may list all secrets"
        assert told["admission", "api"] == "a node may create other nodes"
    else:
        assert told["anonymous", "api bad"] == "answers 200 to a request without credentials"
    assert told["expiry", "api bad"] == "its certificate ends in 9 days"
    assert told["tls", "etcd bad"] == f"answers plain HTTP at {BAD}:2379"
    assert told["members", "api"] == "there is only one API server"
    assert told["members", "scheduler bad"] == f"does not answer at {BAD}:10259"
    assert any(line.startswith("etcd's members and encryption") for line in seen["not_checked"])
    assert all(finding["advice"] for finding in seen["findings"])


def test_a_secret_in_plain_text_is_found(lab: Cluster, host: list[str], tmp_path: Path) -> None:
    """One master that reads what the others encrypt, but writes plain text; it is found where it lies, in etcd."""
    encryption = yaml.safe_load((STATE / "master1/etc/kubernetes/encryption.yaml").read_text())
    encryption["resources"][0]["providers"].reverse()  # the first one writes
    (tmp_path / "encryption.yaml").write_text(yaml.safe_dump(encryption))
    pki = STATE / "master1/etc/kubernetes/pki"
    flags = (
        f"--etcd-servers=https://{MASTERS['master1']}:2379",
        f"--etcd-cafile={pki}/etcd/ca.crt",
        f"--etcd-certfile={pki}/apiserver-etcd-client.crt",
        f"--etcd-keyfile={pki}/apiserver-etcd-client.key",
        f"--encryption-provider-config={tmp_path}/encryption.yaml",
    )
    careless = start_apiserver(lab, host, tmp_path, "RBAC", *flags)
    access = read_kubeconfig(careless.kubeconfig)
    secret = {"metadata": {"name": "shown"}, "stringData": {"password": "correct horse"}}
    url = f"{access.server}/api/v1/namespaces/kube-public/secrets"
    words = ("--kubeconfig", str(lab.kubeconfig), "-f", str(STATE / "cluster.toml"), "-d", str(STATE / "render"))
    try:
        assert ask(url, access.context(), method="POST", body=secret).status == 201
        code, seen = run_check(*words)
    finally:
        lab.kubectl("-n", "kube-public", "delete", "secret", "shown", "--ignore-not-found")
    found = next(finding for finding in seen["findings"] if finding["check"] == "encryption")
    assert code == 1
    assert "are plain text, such as kube-public/shown" in found["problem"]
    assert "correct horse" not in json.dumps(seen)

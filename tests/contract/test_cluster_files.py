"""Rendered files before the programs that read them: haproxy, keepalived, nft, systemd, openssl."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from seaway.cluster.certificates import list_certificates
from seaway.cluster.config import Cluster
from seaway.cluster.issuing import Issuer
from seaway.cluster.render import render
from seaway.cluster.writing import write_files
from tests.cluster_kit import make_cluster
from tests.packages import find_program


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference cluster, rendered with real keys; each machine's files lie below its own root."""
    folder = tmp_path_factory.mktemp("cluster")
    folder.chmod(0o755)
    return write(folder, make_cluster(root=f"{folder}/machines/{{name}}"))


def write(folder: Path, cluster: Cluster) -> Path:
    secrets = Issuer(folder / "pki", cluster.certificates).ensure(list_certificates(cluster))
    write_files(folder, render(cluster, secrets))
    return folder


def need(program: str) -> str:
    """Return a program's path, or skip saying that it is not there."""
    found = find_program(program)
    if not found:
        pytest.skip(f"{program} is not installed (scripts/packages.toml says by which package it comes)")
    return found


def run(*words: str) -> tuple[int, str]:
    """Run a program; return its exit code and all it said."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    return done.returncode, done.stdout


@pytest.mark.parametrize("master", ["m1", "m2"])
def test_haproxy_takes_its_file(rendered: Path, master: str) -> None:
    """`haproxy -c` reads the certificates too."""
    config = rendered / f"machines/{master}/etc/haproxy/haproxy.cfg"
    code, said = run(need("haproxy"), "-c", "-f", str(config))
    assert code == 0, said
    assert "WARNING" not in said
    broken = config.with_name("broken.cfg")
    broken.write_text(config.read_text().replace("balance leastconn", "balance mostconn"))
    assert run(need("haproxy"), "-c", "-f", str(broken))[0] != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="gives keepalived an interface of its own, which needs root")
@pytest.mark.parametrize("master", ["m1", "m2"])
def test_keepalived_takes_its_file(rendered: Path, master: str) -> None:
    """It says nothing about a sound file (and ends itself by a signal, for it has a script).

    It insists on an interface that is there.
    """
    program = need("keepalived")
    script = 'ip link add ens3 type veth peer name ens4 && exec "$1" -t -f "$2"'
    words = ("unshare", "--net", "sh", "-ec", script, "sh", program)
    config = rendered / f"machines/{master}/etc/keepalived/keepalived.conf"
    code, said = run(*words, str(config))
    assert code in {0, -15, 143}, said
    assert said.replace("Terminated", "").strip() == ""
    broken = config.with_name("broken.conf")
    broken.write_text(config.read_text().replace("virtual_router_id 51", "virtual_router_id 999"))
    assert "VRID '999' not valid" in run(*words, str(broken))[1]


def test_systemd_takes_every_unit(rendered: Path, tmp_path: Path) -> None:
    """`systemd-analyze verify`, with stand-ins where a program is not on this machine (only its path is looked at)."""
    program = need("systemd-analyze")
    units = sorted(rendered.glob("machines/*/etc/systemd/system/*.service"))
    assert len(units) == 6 + 6 + 2 + 2  # full masters, one for etcd alone, a node
    for unit in units:
        text = unit.read_text().replace("/usr/local/bin/kube", f"{tmp_path}/kube")
        for path in ("/usr/bin/etcd", "/usr/sbin/haproxy", "/usr/sbin/nft"):
            text = text if Path(path).exists() else text.replace(path, "/bin/true")
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"):
            (tmp_path / name).write_text("#!/bin/sh\n")
            (tmp_path / name).chmod(0o755)
        copy = tmp_path / unit.name
        copy.write_text(text)
        code, said = run(program, "verify", "--recursive-errors=no", str(copy))
        assert code == 0, said
        assert "Unknown key" not in said
        assert unit.name not in said, said


@pytest.mark.skipif(os.geteuid() != 0, reason="nft -c needs root")
def test_nft_takes_the_rules(rendered: Path) -> None:
    """Also on top of themselves: a second load replaces the first."""
    rules = rendered / "machines/m1/etc/nftables.d/seaway-masters.nft"
    code, said = run(need("nft"), "-c", "-f", str(rules))
    assert (code, said) == (0, "")


def test_openssl_verifies_every_chain(rendered: Path) -> None:
    """With the purpose that each is for, strictly."""
    program = need("openssl")
    cluster = make_cluster()
    specs = list(list_certificates(cluster))
    assert len(specs) > 20
    for spec in specs:
        authority = str(rendered / f"pki/{spec.authority}.crt")
        certificate = str(rendered / f"pki/{spec.name}.crt")
        purposes = ["sslserver"] * spec.server + ["sslclient"] * spec.client
        for purpose in purposes:
            words = ("verify", "-x509_strict", "-purpose", purpose, "-CAfile", authority, certificate)
            assert run(program, *words) == (0, f"{certificate}: OK\n")

"""The rendered kubeadm configuration before the real kubeadm."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from seaway.cluster.certificates import list_certificates
from seaway.cluster.issuing import Issuer
from seaway.cluster.render import render
from seaway.cluster.writing import write_files
from tests.cluster_kit import make_cluster
from tests.kube.fixture import why_not
from tests.kube.lab.binaries import ensure_extra

KUBEADM = """
set -e
cp /etc/passwd out/passwd && mount -t tmpfs none /etc && cp out/passwd /etc/passwd
cp -a machines/m1/etc/. /etc/ && cp admin.conf /etc/kubernetes/
for phase in "certs all" "kubeconfig all" "control-plane all --experimental-patches $PWD/kubeadm/patches"; do
  "$1" init phase $phase --config kubeadm/m1.yaml
done
cp -a /etc/kubernetes/manifests out/
"""


@pytest.mark.skipif(bool(why_not()), reason=f"kubeadm needs an /etc of its own: {why_not()}")
def test_kubeadm_takes_its_configuration(tmp_path: Path) -> None:
    """The real kubeadm 1.20 finds every certificate, makes none, and writes manifests with our flags and probes."""
    program = ensure_extra("kubeadm")
    cluster = make_cluster()
    secrets = Issuer(tmp_path / "pki", cluster.certificates).ensure(list_certificates(cluster))
    write_files(tmp_path, render(cluster, secrets))
    (tmp_path / "out").mkdir()
    words = ["unshare", "--mount", "sh", "-c", KUBEADM, "sh", str(program)]
    done = subprocess.run(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=90)
    assert done.returncode == 0, done.stdout
    assert "Generating" not in done.stdout
    assert "External CA mode: Using user provided scheduler.conf" in done.stdout
    manifests = {path.stem: yaml.safe_load(path.read_text()) for path in (tmp_path / "out/manifests").iterdir()}
    assert set(manifests) == {"kube-apiserver", "kube-controller-manager", "kube-scheduler"}
    container = manifests["kube-apiserver"]["spec"]["containers"][0]
    for flag in ("anonymous-auth=false", "authorization-mode=Node,RBAC", "event-ttl=30m",
                 "encryption-provider-config=/etc/kubernetes/encryption.yaml"):  # fmt: skip
        assert f"--{flag}" in container["command"]
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        assert "httpGet" not in container[probe]
        assert f"--secure-port={container[probe]['tcpSocket']['port']}" in container["command"]

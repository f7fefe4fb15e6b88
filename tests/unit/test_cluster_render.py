"""`seaway cluster render`: every file against a golden one, and the rules that hold for any cluster."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import yaml

from seaway.cluster.certificates import list_certificates
from seaway.cluster.machine import File
from seaway.cluster.render import render
from seaway.cluster.writing import write_file, write_files
from tests.cluster_kit import make_cluster, make_secrets
from tests.golden import compare

GOLDEN = Path(__file__).parent / "golden"


def render_text(version: str, wanted: tuple[str, ...]) -> str:
    """Return the files whose machine and path start with one of `wanted`, one after the other."""
    cluster = make_cluster(version)
    shown = [
        f"=== {file.machine}:{file.path} {file.mode:o}\n{file.text}"
        for file in render(cluster, make_secrets(cluster))
        if f"{file.machine}:{file.path}".startswith(wanted)
    ]
    return "".join(shown)


@pytest.mark.parametrize(
    ("name", "version", "wanted"),
    [
        ("cluster-1.20.txt", "1.20.2", ("m1:", "w1:", ":kubeadm")),
        ("cluster-etcd-only.txt", "1.20.2", ("m3:",)),
        (
            "cluster-1.33.txt",
            "1.33.1",
            ("m1:/etc/systemd/system/kube", "w1:/etc/kubernetes/kubelet", ":kubeadm/m1"),
        ),
    ],
)
def test_files_are_as_before(name: str, version: str, wanted: tuple[str, ...]) -> None:
    """A change of any rendered byte has to be meant: SEAWAY_UPDATE_GOLDEN=1 writes the files anew."""
    compare(GOLDEN / name, render_text(version, wanted))


def all_files(version: str = "1.20.2") -> list[File]:
    cluster = make_cluster(version)
    return list(render(cluster, make_secrets(cluster)))


def test_what_holds_a_key_is_for_its_owner_only() -> None:
    """Any file with a private key, an encryption key or a kubeconfig's key in it has mode 0600."""
    for file in all_files():
        secret = ".key>" in file.text or "<encryption key>" in file.text or "client-key-data" in file.text
        assert (file.mode == 0o600) == secret, file.path


def test_no_machine_gets_an_authority_key_or_another_machine_s_key() -> None:
    """The authorities' keys stay where they were made; a stolen master cannot sign."""
    for file in all_files():
        assert "ca.key>" not in file.text, file.path
        for other in {"m1", "m2", "m3", "w1"} - {file.machine}:
            assert f"<{other}/" not in file.text, file.path


def test_every_file_that_a_flag_names_is_there() -> None:
    """Flags and files come from different places; here they meet."""
    cluster = make_cluster(root="/R")
    files = list(render(cluster, make_secrets(cluster)))
    there = {(file.machine, f"/R{file.path}") for file in files}
    for file in files:
        if not file.path.endswith(".service"):
            continue
        for word in file.text.split():
            path = word.partition("=")[2]
            if path.startswith("/R/etc/"):
                assert (file.machine, path) in there, f"{file.path}: {word}"


def test_yaml_files_hold_no_anchors() -> None:
    """kubeadm and people read them; each document stands for itself."""
    for file in all_files("1.33.1"):
        if file.path.endswith((".yaml", ".conf")) and "keepalived" not in file.path:
            assert list(yaml.safe_load_all(file.text)), file.path
            assert "&id" not in file.text


@pytest.mark.parametrize(
    ("version", "api", "kind"),
    [("1.20.2", "v1beta2", dict), ("1.22.0", "v1beta3", dict), ("1.31.0", "v1beta4", list)],
)
def test_kubeadm_gets_the_api_of_its_version(version: str, api: str, kind: type) -> None:
    """v1beta4 wants its arguments as a list."""
    text = next(file.text for file in all_files(version) if file.path == "kubeadm/m1.yaml")
    documents = {document["kind"]: document for document in yaml.safe_load_all(text)}
    assert documents["ClusterConfiguration"]["apiVersion"] == f"kubeadm.k8s.io/{api}"
    assert isinstance(documents["ClusterConfiguration"]["apiServer"]["extraArgs"], kind)


@pytest.mark.parametrize(("version", "there"), [("1.20.2", True), ("1.22.9", True), ("1.23.0", False)])
def test_plain_http_ports_are_closed_where_they_exist(version: str, there: bool) -> None:
    """Old versions of both open one unless told otherwise; newer ones refuse the flag."""
    for name in ("kube-controller-manager", "kube-scheduler"):
        unit = next(file.text for file in all_files(version) if file.path.endswith(f"/{name}.service"))
        assert ("--port=0 " in unit) == there


def test_the_serving_certificate_names_all_ways_to_the_api() -> None:
    """Balancer, master, first service address, extra names."""
    spec = next(c for c in list_certificates(make_cluster()) if c.name == "m2/apiserver")
    assert {str(a) for a in spec.addresses} == {"10.96.0.1", "10.0.0.10", "10.0.0.12", "127.0.0.1"}
    assert {"k8s.example.com", "m2", "kubernetes.default.svc.cluster.local"} <= set(spec.dns)


def test_files_are_written_with_their_modes(tmp_path: Path) -> None:
    """A secret is never wider than 0600, not even when the file was there with a wider mode."""
    old = tmp_path / "machines/m1/etc/secret"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    old.chmod(0o644)
    assert write_files(tmp_path, [File("m1", "/etc/secret", "new", 0o600), File("", "admin.conf", "x", 0o600)]) == 2
    assert old.read_text() == "new"
    assert stat.S_IMODE(old.stat().st_mode) == 0o600
    assert [path.name for path in old.parent.iterdir()] == ["secret"]


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    """Neither half a file nor a temporary one."""
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write_file(tmp_path / "taken", "text", 0o600)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]

"""Keys and certificates: made once, renewed in time, refused when broken."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from seaway.cluster.certificates import Certificate, Secrets
from seaway.cluster.config import Certificates, ClusterError
from seaway.cluster.issuing import Issuer, load

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAYS = Certificates(ca_days=3650, days=365, renew_before=60)
SERVER = Certificate(
    "m1", "apiserver", "ca", "kube-apiserver", dns=("api.local",), addresses=(IPv4Address("10.0.0.1"),), server=True,
    client=False,
)  # fmt: skip
CLIENT = Certificate("m1", "kubelet", "ca", "system:node:m1", "system:nodes")


@pytest.fixture(scope="module")
def account_key(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What an issuer makes for itself, once: an RSA key takes a while."""
    store = tmp_path_factory.mktemp("first")
    assert "made sa.key, which signs service account tokens" in ensure(store, CLIENT).log
    return (store / "sa.key").read_bytes()


@pytest.fixture(autouse=True)
def _keep_account_key(tmp_path: Path, account_key: bytes) -> None:
    (tmp_path / "sa.key").write_bytes(account_key)


def ensure(store: Path, *wanted: Certificate, now: datetime = NOW, days: Certificates = DAYS) -> Secrets:
    """Return what an issuer makes at a time."""
    return Issuer(store, days, now).ensure(wanted)


def test_a_server_s_chain_verifies(tmp_path: Path) -> None:
    """As a strict client checks it: name, address, purpose, dates, authority."""
    secrets = ensure(tmp_path, SERVER)
    leaf = load(secrets.certificates[SERVER.name])
    store = Store([load(secrets.authorities["ca"])])
    for subject in (x509.DNSName("api.local"), x509.IPAddress(IPv4Address("10.0.0.1"))):
        verifier = PolicyBuilder().store(store).time(NOW + timedelta(days=1)).build_server_verifier(subject)
        assert len(verifier.verify(leaf, [])) == 2
    with pytest.raises(x509.verification.VerificationError):
        PolicyBuilder().store(store).time(NOW).build_server_verifier(x509.DNSName("other.local")).verify(leaf, [])


def test_a_client_is_who_kubernetes_reads(tmp_path: Path) -> None:
    """User from CN, group from O; good for calling only."""
    leaf = load(ensure(tmp_path, CLIENT).certificates[CLIENT.name])
    assert leaf.subject.rfc4514_string() == "CN=system:node:m1,O=system:nodes"
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [purpose.dotted_string for purpose in usage] == ["1.3.6.1.5.5.7.3.2"]


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    """Every byte stays, and nothing is told."""
    first = ensure(tmp_path, SERVER, CLIENT)
    second = ensure(tmp_path, SERVER, CLIENT, now=NOW + timedelta(days=300))
    assert second == first
    assert second.log == ()


def test_what_ends_soon_is_renewed_alone(tmp_path: Path) -> None:
    """At 59 days before the end; authorities, account key and encryption key stay."""
    first = ensure(tmp_path, CLIENT)
    second = ensure(tmp_path, CLIENT, now=NOW + timedelta(days=306))
    assert second.log == ("renewed (59 days were left) m1/kubelet",)
    assert second.certificates[CLIENT.name].key != first.certificates[CLIENT.name].key
    assert second.authorities == first.authorities
    assert (second.account_key, second.encryption_key) == (first.account_key, first.encryption_key)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (Certificate("m1", "kubelet", "ca", "system:node:m1", "system:masters"), "its subject changed"),
        (Certificate("m1", "kubelet", "etcd/ca", "system:node:m1", "system:nodes"), "another authority signed it"),
        (
            Certificate("m1", "kubelet", "ca", "system:node:m1", "system:nodes", dns=("n",)),
            "its SubjectAlternativeName changed",
        ),
        (
            Certificate("m1", "kubelet", "ca", "system:node:m1", "system:nodes", server=True),
            "its ExtendedKeyUsage changed",
        ),
    ],
)
def test_what_no_longer_fits_is_made_anew(tmp_path: Path, changed: Certificate, why: str) -> None:
    """A new address in cluster.toml reaches the certificate without anyone deleting files."""
    ensure(tmp_path, CLIENT)
    assert ensure(tmp_path, changed).log == (f"renewed ({why}) m1/kubelet",)


def test_an_authority_near_its_end_is_told(tmp_path: Path) -> None:
    """It is not replaced silently: that would cut off everyone at once."""
    first = ensure(tmp_path, CLIENT)
    late = ensure(tmp_path, CLIENT, now=NOW + timedelta(days=3400))
    assert late.authorities == first.authorities
    assert any(line.startswith("authority ca ends on 2039-12-30") for line in late.log)
    assert load(late.certificates[CLIENT.name]).not_valid_after_utc <= load(late.authorities["ca"]).not_valid_after_utc


def test_private_keys_are_0600(tmp_path: Path) -> None:
    """Also those whose mode someone has widened since."""
    ensure(tmp_path, SERVER)
    for path in tmp_path.rglob("*.key"):
        path.chmod(0o644)
    ensure(tmp_path, SERVER)
    for path in tmp_path.rglob("*.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


@pytest.mark.parametrize("name", ["ca.key", "m1/kubelet.key", "m1/kubelet.crt", "sa.key"])
def test_a_broken_file_stops_it(tmp_path: Path, name: str) -> None:
    """A damaged store is a matter for people; nothing is made over it."""
    ensure(tmp_path, CLIENT)
    (tmp_path / name).write_text("garbage")
    with pytest.raises(ClusterError, match="restore"):
        ensure(tmp_path, CLIENT)
    assert (tmp_path / name).read_text() == "garbage"


def test_a_key_of_another_certificate_stops_it(tmp_path: Path) -> None:
    """Both are sound files, but not a pair."""
    ensure(tmp_path, CLIENT, SERVER)
    (tmp_path / "m1/kubelet.key").write_text((tmp_path / "m1/apiserver.key").read_text())
    with pytest.raises(ClusterError, match="do not belong together"):
        ensure(tmp_path, CLIENT, SERVER)

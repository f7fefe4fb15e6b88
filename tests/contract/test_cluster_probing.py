"""What `seaway cluster check` sees of real TLS servers: openssl as a server with one fault each."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from seaway.cluster.certificates import Certificate, Pair
from seaway.cluster.config import Certificates
from seaway.cluster.issuing import Issuer
from seaway.cluster.kubeconfig import Access
from seaway.cluster.probing import connects, see_server, see_tls, why_refused
from tests.packages import find_program
from tests.ports import free_port

pytestmark = pytest.mark.skipif(not find_program("openssl"), reason="openssl is not installed")
HOME = IPv4Address("127.0.0.1")


def issue(folder: Path, address: IPv4Address = HOME, now: datetime | None = None) -> tuple[Pair, Pair]:
    """Return an authority and a server's pair that it signed."""
    spec = Certificate("m1", "server", "ca", "server", addresses=(address,), server=True, client=False)
    secrets = Issuer(folder, Certificates(), now).ensure([spec])
    return secrets.authorities["ca"], secrets.certificates[spec.name]


@contextmanager
def serve(folder: Path, pair: Pair, *options: str) -> Iterator[int]:
    """Run `openssl s_server -www` with a pair; yield its port."""
    port = free_port()
    (folder / "pair.pem").write_text(pair.certificate + pair.key)
    words = ["openssl", "s_server", "-quiet", "-www", "-accept", f"127.0.0.1:{port}", "-cert", str(folder / "pair.pem")]
    process = subprocess.Popen([*words, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        ends = time.monotonic() + 10
        while not connects("127.0.0.1", port):
            assert process.poll() is None
            assert time.monotonic() < ends
        yield port
    finally:
        process.kill()
        process.wait()


def test_a_sound_server(tmp_path: Path) -> None:
    """Nothing to find; the end of its certificate is read."""
    authority, pair = issue(tmp_path)
    with serve(tmp_path, pair) as port:
        seen = see_server("api", "m1", ("127.0.0.1", port), Access("", authority.certificate))
    assert seen.tls is not None
    assert (seen.tls.problem, seen.tls.old_protocols, seen.plain, seen.healthy) == ("", (), False, True)
    assert timedelta(days=364) < seen.tls.ends - datetime.now(UTC) < timedelta(days=366)


@pytest.mark.parametrize(("option", "name"), [("-tls1", "TLS 1.0"), ("-tls1_1", "TLS 1.1")])
def test_an_outdated_protocol(tmp_path: Path, option: str, name: str) -> None:
    """Spoken by a server that speaks nothing else."""
    authority, pair = issue(tmp_path)
    with serve(tmp_path, pair, option, "-cipher", "ALL:@SECLEVEL=0") as port:
        seen = see_server("etcd", "m1", ("127.0.0.1", port), Access("", authority.certificate))
    assert seen.tls is not None
    assert seen.tls.old_protocols == (name,)
    assert seen.tls.problem == f"it speaks {name} and nothing newer"
    assert not seen.plain


@pytest.mark.parametrize(
    ("address", "ago", "problem"),
    [
        (IPv4Address("127.0.0.2"), 0, "IP address mismatch, certificate is not valid for '127.0.0.1'."),
        (HOME, 400, "certificate has expired"),
    ],
)
def test_a_certificate_that_a_strict_client_refuses(
    tmp_path: Path, address: IPv4Address, ago: int, problem: str
) -> None:
    """Wrong address, past its end: each named as openssl names it."""
    authority, pair = issue(tmp_path, address, datetime.now(UTC) - timedelta(days=ago))
    with serve(tmp_path, pair) as port:
        access = Access("", authority.certificate)
        seen = see_tls("127.0.0.1", port, access)
        assert seen is not None
        assert seen.problem == problem
        assert problem in why_refused("127.0.0.1", port, access)


def test_a_stranger_s_authority(tmp_path: Path) -> None:
    """Signed well, by somebody else; and no token goes to such a server."""
    _, pair = issue(tmp_path / "theirs")
    authority, _ = issue(tmp_path / "ours")
    with serve(tmp_path, pair) as port:
        seen = see_tls("127.0.0.1", port, Access("", authority.certificate))
    assert seen is not None
    assert "issuer certificate" in seen.problem or "self-signed" in seen.problem


def test_nobody_there() -> None:
    """Told apart from a server that refuses."""
    assert not see_server("etcd", "m1", ("127.0.0.1", 1), Access("", "")).reachable
    assert why_refused("127.0.0.1", 1, Access("", "")) == "Connection refused"

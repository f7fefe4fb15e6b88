"""cluster.toml: what is wrong is named by its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from seaway.cluster.config import ClusterError, parse_cluster, read_cluster

GOOD = """\
kubernetes = "1.29.3"
operators = ["192.0.2.0/28"]
[api]
address = "10.0.0.10"
balancer = "none"
[[masters]]
name = "m1"
address = "10.0.0.11"
"""


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('kubernetes = "1.29.3"', "", "kubernetes: is missing"),
        ("1.29.3", "1.19.0", "kubernetes: '1.19.0' is not a version from 1.20 on"),
        ("192.0.2.0/28", "home", "operators[0]: Input is not a valid IPv4 network (it is 'home')"),
        ('operators = ["192.0.2.0/28"]', "operators = []", "operators: "),
        ('address = "10.0.0.10"', 'adress = "10.0.0.10"', "api.address: is missing"),
        ('address = "10.0.0.10"', 'adress = "10.0.0.10"', "api.adress: there is no such key"),
        ("10.0.0.11", "10.0.0.300", "masters[0].address: "),
        ('name = "m1"', 'name = "M 1"', "masters[0].name: "),
        ('"none"', '"lvs"', "api.balancer: "),
        ("[api]", '[flags.kube-dns]\na = "b"\n[api]', "flags: there is no component 'kube-dns': it is one of etcd"),
        ("[api]", "[certificates]\ndays = 30\n[api]", "certificates: renew_before has to be less than days"),
        ("[api]", 'pod_range = "10.96.0.0/12"\n[api]', "pod_range 10.96.0.0/12 and service_range"),
        ('balancer = "none"', "", "api.balancer: keepalived needs two masters"),
        ('balancer = "none"', 'balancer = "haproxy"\nserver_port = 6443', "api.server_port: balancer and API server"),
        ("kubernetes =", "kubernetes", "is not TOML"),
    ],
)
def test_an_error_names_the_key(old: str, new: str, told: str) -> None:
    """And says what would be right."""
    assert old in GOOD
    with pytest.raises(ClusterError) as caught:
        parse_cluster(GOOD.replace(old, new, 1))
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ('[[masters]]\nname = "m1"\naddress = "10.0.0.12"', "two machines have the name m1"),
        ('[[nodes]]\nname = "w1"\naddress = "10.0.0.11"', "two machines have the address 10.0.0.11"),
        ('[[masters]]\nname = "m2"\naddress = "10.0.0.12"', "masters: 2 members of etcd survive no more"),
        ('[[masters]]\nname = "m2"\naddress = "10.0.0.12"\nroles = ["eat"]', "masters[1].roles[0]: "),
    ],
)
def test_machines_have_to_fit_together(more: str, told: str) -> None:
    """Names and addresses once each, an odd number of members."""
    with pytest.raises(ClusterError) as caught:
        parse_cluster(GOOD + more)
    assert told in str(caught.value)


def test_the_smallest_file_is_enough() -> None:
    """Everything else has a default."""
    cluster = parse_cluster(GOOD)
    assert cluster.api_url == "https://10.0.0.10:6443"
    assert cluster.minor == 29


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """With what the system said."""
    with pytest.raises(ClusterError, match=r"none\.toml cannot be read: No such file"):
        read_cluster(tmp_path / "none.toml")

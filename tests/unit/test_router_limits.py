"""What Envoy is told, against golden files, and how many connections a router takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration
from google.protobuf.json_format import MessageToDict

from seaway.router.bootstrap import RouterConfig, build_bootstrap
from seaway.router.envoy import CLUSTER, ENDPOINTS, SCOPE, translate_app, translate_host
from seaway.router.limits import MOST_CONNECTIONS, count_connections
from seaway.router.table import build_app_table, build_hosts
from tests.contract.router_lab import make_app, make_instance
from tests.golden import compare

GOLDEN = Path(__file__).parent / "golden"
TYPES = {CLUSTER: Cluster, ENDPOINTS: ClusterLoadAssignment, SCOPE: ScopedRouteConfiguration}


def make_resources() -> dict[str, Any]:
    """Return the resources of one app with a release of two instances, by kind and name."""
    table = build_app_table(
        make_app("shop", {1: 100}), {}, [make_instance("shop", 1, port) for port in (1, 2)], "localhost"
    )
    resources = translate_app(table)
    for host, rules in build_hosts([table]).items():
        resources |= translate_host(host, rules)
    return {
        f"{TYPES[kind].DESCRIPTOR.name} {name}": MessageToDict(
            TYPES[kind].FromString(body), preserving_proto_field_name=True
        )
        for (kind, name), body in resources.items()
    }


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("router-bootstrap", build_bootstrap(RouterConfig("r1", "127.0.0.1", 8080, "/run/relay", "/run/admin", 384))),
        ("router-app", make_resources()),
    ],
)
def test_resources_are_as_before(name: str, made: dict[str, Any]) -> None:
    """A change has to be meant: SEAWAY_UPDATE_GOLDEN=1 writes the files anew."""
    compare(GOLDEN / f"{name}.json", json.dumps(made, indent=1, sort_keys=True) + "\n")


@pytest.mark.parametrize(("files", "connections"), [(1, 1), (1024, 384), (20_000, 7_500), (1 << 20, MOST_CONNECTIONS)])
def test_connections_by_files(files: int, connections: int) -> None:
    """Each needs another file for its request, and a quarter is left."""
    assert count_connections(files) == connections

"""What a router tells the control plane, message by message."""

from __future__ import annotations

import json
from typing import Any

from envoy.config.endpoint.v3.load_report_pb2 import ClusterStats
from envoy.service.load_stats.v3.lrs_pb2 import LoadStatsRequest

from seaway.router.envoy import CLUSTER
from seaway.router.reports import Outbox, Reporter

SHOP = "shop:v1"


def count(reporter: Reporter, requests: int) -> None:
    stats = ClusterStats(cluster_name=SHOP)
    stats.upstream_locality_stats.add(total_issued_requests=requests, total_successful_requests=requests)
    reporter.note_load(LoadStatsRequest(cluster_stats=[stats]), {SHOP})


def take(outbox: Outbox) -> tuple[list[str], dict[str, Any]]:
    message = json.loads(outbox.take())
    return message["forgotten"], message["totals"]


def test_what_a_cluster_has_counted_goes_with_it() -> None:
    """Each reader is told, whatever it has been told before; one of the same name begins at nothing."""
    reporter = Reporter()
    told, slow = reporter.open(), reporter.open()
    reporter.set_acked((CLUSTER, SHOP), "1")
    count(reporter, 3)
    assert take(told) == ([], {SHOP: [3, 3, 0]})
    reporter.set_acked((CLUSTER, SHOP), None)
    assert take(told) == ([SHOP], {})
    assert take(reporter.open()) == ([], {})
    reporter.set_acked((CLUSTER, SHOP), "1")
    count(reporter, 2)
    assert take(told) == ([], {SHOP: [2, 2, 0]})
    assert take(slow) == ([SHOP], {SHOP: [2, 2, 0]})

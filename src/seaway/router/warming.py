"""Holds routes back while Envoy warms a new cluster that they name.

Usually the control plane has waited for healthy endpoints before it sends such a route. A router that was cut off
gets cluster and route at once, and would answer 503 for the moment until the first health check.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration

from seaway.router.base import ResourceKey
from seaway.router.envoy import CLUSTER, ENDPOINTS, SCOPE
from seaway.router.reports import Reporter

WARM_LIMIT = 2.0  # seconds; a release without a healthy endpoint holds nothing back longer


class Warming:
    """Knows which clusters are new and not seen healthy yet; calls `poke` whenever there is one less."""

    def __init__(self, reporter: Reporter, poke: Callable[[], None]) -> None:
        self._reporter = reporter
        self._poke = poke
        self._clusters: set[str] = set()
        self._named: dict[str, frozenset[str]] = {}  # scope -> the clusters it names, while any warms
        reporter.on_health = self._hear

    def note(self, key: ResourceKey, body: bytes, is_new: bool) -> None:
        """Take note of a resource before Envoy gets it."""
        kind, name = key
        if kind == CLUSTER and is_new and name not in self._reporter.healthy:
            self._clusters.add(name)
            asyncio.get_running_loop().call_later(WARM_LIMIT, self.finish, name)
        elif kind == ENDPOINTS and name in self._clusters and not _takes_requests(body):
            self.finish(name)
        elif kind == SCOPE and self._clusters:
            self._named[name] = frozenset(find_clusters(body))

    def allows(self, key: ResourceKey) -> bool:
        """Return whether a resource may be sent now."""
        return key[0] != SCOPE or self._clusters.isdisjoint(self._named.get(key[1], ()))

    def _hear(self, cluster: str) -> None:
        if cluster in self._reporter.healthy:
            self.finish(cluster)

    def finish(self, cluster: str) -> None:
        """Hold nothing back for this cluster any more."""
        if cluster in self._clusters:
            self._clusters.remove(cluster)
            if not self._clusters:
                self._named.clear()
            self._poke()


def _takes_requests(body: bytes) -> bool:
    unknown, degraded = 0, 5
    assignment = ClusterLoadAssignment.FromString(body)
    return any(
        endpoint.health_status in (unknown, degraded)
        for group in assignment.endpoints
        for endpoint in group.lb_endpoints
    )


def find_clusters(body: bytes) -> Iterator[str]:
    """Yield the names of the clusters in a serialised ScopedRouteConfiguration."""
    for host in ScopedRouteConfiguration.FromString(body).route_configuration.virtual_hosts:
        for route in host.routes:
            if route.route.cluster:
                yield route.route.cluster
            yield from (entry.name for entry in route.route.weighted_clusters.clusters)

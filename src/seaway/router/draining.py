"""Endpoints keep taking requests at a client until the routes that name them have been replaced there.

Usually the control plane drains instances once all routers have acknowledged the routes to others. A router that was
cut off gets both at once; clusters and endpoints come before routes in the order of making, so an update that leaves
a cluster without an endpoint that takes requests has to wait, as a removal does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache

from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration

from seaway.router.base import ResourceKey
from seaway.router.catalog import Catalog, Resource
from seaway.router.envoy import CLUSTER, ENDPOINTS, SCOPE
from seaway.router.xds import Session


class RouteCatalog(Catalog):
    """A catalog that keeps in mind which scopes name or once named each cluster, as long as the cluster is there."""

    def __init__(self, is_open: bool = True, holds: Callable[[ResourceKey], bool] = lambda _: False) -> None:
        super().__init__(is_open, holds)
        self._scopes: dict[str, set[str]] = {}

    def apply(self, puts: Mapping[ResourceKey, Resource], removals: Iterable[ResourceKey] = ()) -> None:
        """Put and remove resources in one step."""
        removals = tuple(removals)
        for (kind, name), resource in puts.items():
            for cluster in find_clusters(resource.body) if kind == SCOPE else ():
                self._scopes.setdefault(cluster, set()).add(name)
        for kind, name in removals:
            if kind == CLUSTER:
                self._scopes.pop(name, None)
        super().apply(puts, removals)

    def allows(self, session: Session, key: ResourceKey) -> bool:
        """Return whether a resource may be sent now; `session` is asked again after each of its client's answers."""
        resource = self.get(key)
        return (
            resource is None
            or key[0] != ENDPOINTS
            or bool(find_takers(resource.body))
            or self._is_left(session, key[1])
        )

    def _is_left(self, session: Session, cluster: str) -> bool:
        """Return whether no route that the client has, or may have, differs from now and may name the cluster."""
        if not session.has_met(SCOPE):
            return False  # it has just connected and says in a moment which routes it has
        scopes = (*self._scopes.get(cluster, ()), *session.find_inherited(SCOPE))
        return not any(session.is_behind((SCOPE, scope)) for scope in scopes)


@lru_cache(maxsize=1024)
def find_takers(body: bytes) -> frozenset[str]:
    """Return the addresses ("ip:port") in a serialised ClusterLoadAssignment that take new requests if healthy."""
    unknown, degraded = 0, 5
    return frozenset(
        f"{endpoint.endpoint.address.socket_address.address}:{endpoint.endpoint.address.socket_address.port_value}"
        for group in ClusterLoadAssignment.FromString(body).endpoints
        for endpoint in group.lb_endpoints
        if endpoint.health_status in (unknown, degraded)
    )


@lru_cache(maxsize=1024)
def find_clusters(body: bytes) -> frozenset[str]:
    """Return the names of the clusters in a serialised ScopedRouteConfiguration."""
    return frozenset(_list_clusters(body))


def _list_clusters(body: bytes) -> Iterator[str]:
    for host in ScopedRouteConfiguration.FromString(body).route_configuration.virtual_hosts:
        for route in host.routes:
            if route.route.cluster:
                yield route.route.cluster
            yield from (entry.name for entry in route.route.weighted_clusters.clusters)

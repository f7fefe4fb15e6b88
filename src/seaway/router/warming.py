"""Routes wait at the relay until Envoy can serve the clusters that they name.

Usually the control plane goes step by step and waits for healthy endpoints before it sends a route to them. A router
that was cut off gets it all at once, and would answer 503 until the first health check.

The laws:
- A route that names a cluster waits until Envoy has acknowledged the cluster and its endpoints and one of these is
  seen healthy. An acknowledgement alone says nothing about health: Envoy asks for endpoints as soon as it has the
  cluster, maybe before the relay was told of any, and takes "none" for an answer; or a first check has failed.
- It waits no longer than WARM_LIMIT from when Envoy has acknowledged both: such a release is sick. Until then Envoy
  was slow, which says nothing about the release.
- A cluster that was healthy before and is not now holds nothing back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from seaway.router.base import ResourceKey
from seaway.router.draining import RouteCatalog, find_clusters, find_takers
from seaway.router.envoy import CLUSTER, ENDPOINTS, SCOPE
from seaway.router.reports import Reporter
from seaway.router.xds import Session

WARM_LIMIT = 2.0  # seconds; a release without a healthy endpoint holds nothing back longer


class Warming:
    """Says what may be sent to Envoy now; calls `poke` whenever that may have changed. Belongs to one event loop."""

    def __init__(self, catalog: RouteCatalog, reporter: Reporter, poke: Callable[[], None]) -> None:
        self._catalog = catalog
        self._reporter = reporter
        self._poke = poke
        self._session = Session(catalog)
        self._since: dict[str, float] = {}  # cluster not seen healthy yet -> when Envoy had it and its endpoints
        reporter.on_health = self._hear_health

    def begin(self, session: Session) -> None:
        """Forget the Envoy before: `session` is with a new one, or the same one again."""
        self._session = session
        self._since.clear()

    def hear(self, keys: Collection[ResourceKey]) -> None:
        """Take note of what Envoy said about resources: when it connected (what it has), and since (answers)."""
        for kind, name in keys:
            if kind == CLUSTER and (kind, name) not in self._session.ledger.acked:
                self._since.pop(name, None)
            elif kind != SCOPE:
                self._begin_waiting(name)
        self._poke()

    def _begin_waiting(self, cluster: str) -> None:
        new = cluster not in self._since and not self._is_healthy(cluster)
        if new and self._has(CLUSTER, cluster) and self._has(ENDPOINTS, cluster):
            loop = asyncio.get_running_loop()
            self._since[cluster] = loop.time()
            loop.call_later(WARM_LIMIT, self._poke)

    def _hear_health(self, cluster: str) -> None:
        if self._is_healthy(cluster):
            self._since.pop(cluster, None)
            self._poke()

    def allows(self, session: Session, key: ResourceKey) -> bool:
        """Return whether a resource may be sent now."""
        if key[0] == SCOPE and (resource := self._catalog.get(key)):
            return all(map(self._is_ready, find_clusters(resource.body)))
        return self._catalog.allows(session, key)

    def _is_ready(self, cluster: str) -> bool:
        """Return whether routes to a cluster may be sent."""
        if self._catalog.get((CLUSTER, cluster)) is None:
            return True  # nothing to wait for
        if not self._has(CLUSTER, cluster):
            return (CLUSTER, cluster) in self._session.ledger.rejected
        endpoints = self._catalog.get((ENDPOINTS, cluster))
        if endpoints is None or not find_takers(endpoints.body) or self._is_healthy(cluster):
            return True
        if not self._has(ENDPOINTS, cluster):
            return (ENDPOINTS, cluster) in self._session.ledger.rejected
        return asyncio.get_running_loop().time() >= self._since.get(cluster, -WARM_LIMIT) + WARM_LIMIT

    def _is_healthy(self, cluster: str) -> bool:
        """Return whether Envoy sees an endpoint healthy that takes requests; draining ones do not count."""
        healthy, endpoints = self._reporter.healthy.get(cluster), self._catalog.get((ENDPOINTS, cluster))
        return bool(healthy and endpoints and not healthy.isdisjoint(find_takers(endpoints.body)))

    def _has(self, kind: str, name: str) -> bool:
        """Return whether Envoy has acknowledged a cluster, of any version, or the present endpoints of one."""
        acked, now = self._session.ledger.acked.get((kind, name)), self._catalog.get((kind, name))
        return bool(acked) and (kind == CLUSTER or (now is not None and now.version == acked))

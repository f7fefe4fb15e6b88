"""What a router tells the control plane besides acknowledgements: JSON objects on the report stream.

Fields, all optional: `ready` (Envoy has said yes or no to everything the router has), `healthy` (cluster ->
addresses; only clusters that changed, an empty list for none; all of them in the first message), `busy`
(cluster -> address -> requests in flight; always complete) with `at` (when, ISO 8601), `totals` (cluster ->
[issued, ok, error] since the router started; only clusters that changed).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Container, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from seaway.router.following import HealthEvent


class Reporter:
    """Gathers what is to be told; `take` gives it as one message."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.on_health: Callable[[str], None] = lambda _: None  # hears of a cluster whose healthy endpoints changed
        self.healthy: dict[str, set[str]] = {}
        self._ready = False
        self._endpoints: dict[str, frozenset[str]] = {}
        self._totals: dict[str, list[int]] = {}
        self._busy: dict[str, dict[str, int]] | None = None
        self._at = ""
        self._new_health: set[str] = set()
        self._new_totals: set[str] = set()

    def set_ready(self, ready: bool) -> None:
        """Note whether Envoy has everything."""
        if ready != self._ready:
            self._ready = ready
            self.changed.set()

    def set_endpoints(self, cluster: str, addresses: frozenset[str]) -> None:
        """Note which endpoints a cluster has; one that left is not healthy any more."""
        if addresses:
            self._endpoints[cluster] = addresses
        else:
            self._endpoints.pop(cluster, None)
        healthy = self.healthy.get(cluster, set())
        if healthy - addresses:
            self._set_health(cluster, healthy & addresses)

    def note(self, event: HealthEvent) -> None:
        """Take in one health event."""
        healthy = self.healthy.get(event.cluster, set())
        if event.healthy and event.address in self._endpoints.get(event.cluster, ()):
            self._set_health(event.cluster, healthy | {event.address})
        elif not event.healthy:
            self._set_health(event.cluster, healthy - {event.address})

    def reset_health(self, healthy: Mapping[str, Iterable[str]]) -> None:
        """Replace all that is known of health."""
        for cluster in self.healthy.keys() - healthy.keys():
            self._set_health(cluster, set())
        for cluster, addresses in healthy.items():
            self._set_health(cluster, set(addresses) & self._endpoints.get(cluster, frozenset()))

    def _set_health(self, cluster: str, addresses: set[str]) -> None:
        if addresses == self.healthy.get(cluster, set()):
            return
        if addresses:
            self.healthy[cluster] = addresses
        else:
            del self.healthy[cluster]
        self._new_health.add(cluster)
        self.changed.set()
        self.on_health(cluster)

    def note_load(self, request: Any, known: Container[str]) -> None:
        """Take in one LoadStatsRequest of Envoy; clusters that are not `known` are not of apps."""
        self._busy = {}
        self._at = datetime.now(UTC).isoformat()
        for stats in request.cluster_stats:
            for locality in stats.upstream_locality_stats if stats.cluster_name in known else ():
                self._note_locality(stats.cluster_name, locality)
        self.changed.set()

    def _note_locality(self, cluster: str, locality: Any) -> None:
        issued, ok, error = (
            locality.total_issued_requests, locality.total_successful_requests, locality.total_error_requests
        )  # fmt: skip
        if issued or ok or error:
            totals = self._totals.setdefault(cluster, [0, 0, 0])
            for index, count in enumerate((issued, ok, error)):
                totals[index] += count
            self._new_totals.add(cluster)
        for endpoint in locality.upstream_endpoint_stats:
            if endpoint.total_requests_in_progress and self._busy is not None:
                address = endpoint.address.socket_address
                name = f"{address.address}:{address.port_value}"
                self._busy.setdefault(cluster, {})[name] = endpoint.total_requests_in_progress

    def take(self, everything: bool = False) -> bytes:
        """Return what is new (or everything there is) as one message."""
        self.changed.clear()
        health = self.healthy.keys() if everything else self._new_health
        totals = self._totals.keys() if everything else self._new_totals
        message: dict[str, Any] = {
            "ready": self._ready,
            "healthy": {cluster: sorted(self.healthy.get(cluster, ())) for cluster in health},
            "totals": {cluster: self._totals[cluster] for cluster in totals},
        }
        if self._busy is not None:
            message |= {"busy": self._busy, "at": self._at}
            self._busy = None
        self._new_health, self._new_totals = set(), set()
        return json.dumps(message, separators=(",", ":")).encode()

"""What a router tells the control plane: JSON objects on the report stream.

Fields, all optional: `ready` (Envoy has said yes or no to everything the router has), `acked` (type URL -> name ->
version that Envoy took, null for one that is gone) and `rejected` (type URL -> name -> Envoy's message, null when
it is over), `healthy` (cluster -> addresses, an empty list for none), `busy` (cluster -> address -> requests in
flight; always complete) with `at` (when, ISO 8601), `totals` (cluster -> [issued, ok, error] since the router has it)
and `forgotten` (clusters that it has no more; read before `totals`). The first message of a stream has everything,
later ones what changed. Every replica of the control plane gets them, wherever the router takes its resources from.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from seaway.router.base import ResourceKey
from seaway.router.envoy import CLUSTER
from seaway.router.following import HealthEvent


class Outbox:
    """What one reader has yet to be told; the first `take` gives everything."""

    def __init__(self, reporter: Reporter) -> None:
        self.changed = asyncio.Event()
        self.health: set[str] = set(reporter.healthy)
        self.totals: set[str] = set(reporter.totals)
        self.forgotten: set[str] = set()
        self.resources: set[ResourceKey] = {*reporter.acked, *reporter.rejected}
        self.load = bool(reporter.at)
        self._reporter = reporter

    def take(self) -> bytes:
        """Return what is new as one message."""
        self.changed.clear()
        message = self._reporter.describe(self)
        self.health, self.totals, self.forgotten, self.resources, self.load = set(), set(), set(), set(), False
        return json.dumps(message, separators=(",", ":")).encode()

    def close(self) -> None:
        """Be told nothing more."""
        self._reporter.outboxes.discard(self)


class Reporter:
    """Gathers what is to be told, for any number of readers."""

    def __init__(self) -> None:
        self.on_health: Callable[[str], None] = lambda _: None  # hears of a cluster whose healthy endpoints changed
        self.healthy: dict[str, set[str]] = {}
        self.totals: dict[str, list[int]] = {}
        self.acked: dict[ResourceKey, str] = {}
        self.rejected: dict[ResourceKey, str] = {}
        self.at = ""  # when `busy` was counted; "" before the first count
        self.outboxes: set[Outbox] = set()
        self._ready = False
        self._endpoints: dict[str, frozenset[str]] = {}
        self._busy: dict[str, dict[str, int]] = {}

    def open(self) -> Outbox:
        """Return a new reader's outbox, with everything there is."""
        outbox = Outbox(self)
        self.outboxes.add(outbox)
        return outbox

    def _each(self) -> Iterator[Outbox]:
        for outbox in self.outboxes:
            outbox.changed.set()
            yield outbox

    def set_acked(self, key: ResourceKey, version: str | None) -> None:
        """Note that Envoy took a version of a resource (None: its removal)."""
        self._set(self.acked, key, version)
        self._set(self.rejected, key, None)
        if version is None and key[0] == CLUSTER:
            self._forget_totals(key[1])

    def _forget_totals(self, cluster: str) -> None:
        """Begin anew with a cluster that may come again as another app's: what it counted is of the past."""
        if self.totals.pop(cluster, None) is not None:
            for outbox in self._each():
                outbox.totals.discard(cluster)
                outbox.forgotten.add(cluster)

    def set_rejected(self, key: ResourceKey, message: str) -> None:
        """Note that Envoy refused what it was offered; the version before stays acknowledged."""
        self._set(self.rejected, key, message)

    def _set(self, known: dict[ResourceKey, str], key: ResourceKey, value: str | None) -> None:
        if known.get(key) == value:
            return
        if value is None:
            del known[key]
        else:
            known[key] = value
        for outbox in self._each():
            outbox.resources.add(key)

    def set_ready(self, ready: bool) -> None:
        """Note whether Envoy has everything."""
        if ready != self._ready:
            self._ready = ready
            for outbox in self.outboxes:
                outbox.changed.set()

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
        for outbox in self._each():
            outbox.health.add(cluster)
        self.on_health(cluster)

    def note_load(self, request: Any, known: Container[str]) -> None:
        """Take in one LoadStatsRequest of Envoy; clusters that are not `known` are not of apps."""
        self._busy = {}
        self.at = datetime.now(UTC).isoformat()
        for stats in request.cluster_stats:
            for locality in stats.upstream_locality_stats if stats.cluster_name in known else ():
                self._note_locality(stats.cluster_name, locality)
        for outbox in self._each():
            outbox.load = True

    def _note_locality(self, cluster: str, locality: Any) -> None:
        issued, ok, error = (
            locality.total_issued_requests, locality.total_successful_requests, locality.total_error_requests
        )  # fmt: skip
        if issued or ok or error:
            totals = self.totals.setdefault(cluster, [0, 0, 0])
            for index, count in enumerate((issued, ok, error)):
                totals[index] += count
            for outbox in self.outboxes:
                outbox.totals.add(cluster)
        for endpoint in locality.upstream_endpoint_stats:
            if endpoint.total_requests_in_progress:
                address = endpoint.address.socket_address
                name = f"{address.address}:{address.port_value}"
                self._busy.setdefault(cluster, {})[name] = endpoint.total_requests_in_progress

    def describe(self, outbox: Outbox) -> dict[str, Any]:
        """Return the message that tells a reader what it has yet to be told."""
        message: dict[str, Any] = {
            "ready": self._ready,
            "healthy": {cluster: sorted(self.healthy.get(cluster, ())) for cluster in outbox.health},
            "forgotten": sorted(outbox.forgotten),
            "totals": {cluster: self.totals[cluster] for cluster in outbox.totals},
        }
        for name, known in (("acked", self.acked), ("rejected", self.rejected)):
            kinds: dict[str, dict[str, str | None]] = {}
            for key in outbox.resources:
                kinds.setdefault(key[0], {})[key[1]] = known.get(key)
            message[name] = kinds
        if outbox.load:
            message |= {"busy": self._busy, "at": self.at}
        return message

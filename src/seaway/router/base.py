"""What the control loop sees of the routers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

ResourceKey = tuple[str, str]
"""(type URL, resource name) of an xDS resource."""


@dataclass(frozen=True)
class RequestTotals:
    """Requests of one cluster since the router started: sent to instances, answered well, failed (5xx or broken)."""

    issued: int = 0
    ok: int = 0
    error: int = 0


@dataclass(frozen=True)
class RouterView:
    """One router as the control plane knows it now.

    `acked` holds the version of each resource that Envoy itself has acknowledged; `rejected` what it refused
    and why; `healthy` the addresses ("ip:port") per cluster that its health checks found good; `active` the
    requests in flight per cluster, as of `active_at`, and `busy` the same per cluster and address ("ip:port");
    what is not named has none. `totals` counts requests per cluster.

    The mappings are live and cheap: read them, don't keep them.
    """

    name: str
    connected: bool
    seen_at: datetime
    acked: Mapping[ResourceKey, str] = field(default_factory=dict)
    rejected: Mapping[ResourceKey, str] = field(default_factory=dict)
    healthy: Mapping[str, Set[str]] = field(default_factory=dict)
    active: Mapping[str, int] = field(default_factory=dict)
    active_at: datetime | None = None
    busy: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    totals: Mapping[str, RequestTotals] = field(default_factory=dict)


class RouterPlane(Protocol):
    """The control plane's end of xDS: takes packed resources, knows what each router has."""

    def publish(self, owner: str, resources: Mapping[ResourceKey, bytes]) -> Mapping[ResourceKey, str]:
        """Make `resources` all that `owner` has; return the version of each. Unchanged ones are not sent again."""
        ...

    def views(self) -> tuple[RouterView, ...]:
        """Return every router that is or was connected."""
        ...

    def watch(self) -> AsyncIterator[str]:
        """Yield an owner whenever what routers know of it changed ("" for routers coming and going)."""
        ...

"""The reconciler's side of the routers: documents to table to xDS, and each router's state as facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from seaway.model import App, Instance, Release
from seaway.rollout.facts import RouterFacts
from seaway.router.base import ResourceKey, RouterView
from seaway.router.plane import XdsPlane
from seaway.router.table import build_app_table, cluster_name

LOST_AFTER = timedelta(seconds=15)  # a router that does not answer for this long is not waited for any more


class PlaneRoutes:
    """Implements `Routes` with the xDS plane.

    A router that is away is waited for until it was away for LOST_AFTER: its Envoy may be serving all the same.
    `expected` names those that should be there, so that a restarted control plane waits for them too.
    """

    def __init__(self, plane: XdsPlane, domain: str, expected: Sequence[str], started: datetime) -> None:
        self._plane = plane
        self._domain = domain
        self._expected = frozenset(expected)
        self._started = started

    def publish(
        self, app: App, releases: Mapping[int, Release], instances: Sequence[Instance], now: datetime
    ) -> tuple[RouterFacts, ...]:
        """Publish the app's table; return each live router's view of it."""
        table = build_app_table(app, releases, instances, self._domain)
        if app.spec.destroy:
            table = replace(table, routes=())
        self._plane.set_app(table)
        versions = self._plane.app_versions(app.name)
        views = {view.name: view for view in self._plane.views()}
        facts = [_judge(view, app.name, versions, instances) for view in views.values() if self._is_live(view, now)]
        if now - self._started < LOST_AFTER:
            facts += [RouterFacts(name, applied=False) for name in sorted(self._expected - views.keys())]
        return tuple(facts)

    def withdraw(self, app: str) -> None:
        """Remove everything of an app."""
        self._plane.remove_app(app)

    def _is_live(self, view: RouterView, now: datetime) -> bool:
        return view.connected or now - view.seen_at < LOST_AFTER


def _judge(
    view: RouterView, app: str, versions: Mapping[ResourceKey, str], instances: Sequence[Instance]
) -> RouterFacts:
    refused = [why for key, why in view.rejected.items() if key in versions]
    healthy, busy = set(), {}
    for instance in instances:
        cluster, address = cluster_name(app, instance.key.release), f"{instance.address}:{instance.port}"
        if address in view.healthy.get(cluster, ()):
            healthy.add(instance.id)
        if count := view.busy.get(cluster, {}).get(address, 0):
            busy[instance.id] = count
    return RouterFacts(
        name=view.name,
        applied=view.connected and all(view.acked.get(key) == version for key, version in versions.items()),
        rejected=refused[0] if refused else "",
        healthy=frozenset(healthy),
        busy=busy,
        busy_at=view.active_at,
    )

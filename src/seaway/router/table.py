"""The router table: apps, releases and instances in, backends and routing rules out. Pure.

Two stages: `build_app_table` looks at one app alone, `build_hosts` merges the rules of all apps that share a
host. `seaway.router.envoy` turns both into Envoy's resources.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from seaway.model import WEB, App, Check, Instance, InstanceState, NodeState, Release, Route, RouterPolicy

DRAINABLE = frozenset({InstanceState.STARTING, InstanceState.RUNNING, InstanceState.STOPPING})
"""States in which a drained instance may still hold requests; in all others nothing listens any more."""

PREFERRED_CHECKS = ("readiness", "startup")
"""Which of a process's checks the routers use, first match wins; liveness is the engine's business."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One web instance that routers know. A draining one gets no new requests, those in flight go on.

    A degraded one, on a suspect node, gets requests only while no other is healthy.
    """

    instance: str
    address: str
    port: int
    draining: bool = False
    degraded: bool = False

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Backend:
    """One release's web instances, an Envoy cluster. Without an HTTP `check` routers check by TCP connect."""

    app: str
    release: int
    host: str  # sent as Host by health checks
    check: Check | None
    policy: RouterPolicy
    endpoints: tuple[Endpoint, ...]

    @property
    def cluster(self) -> str:
        """Envoy's name for it, for example shop:v3."""
        return cluster_name(self.app, self.release)


@dataclass(frozen=True, slots=True)
class Target:
    """Where an app's requests go: weights over releases (all above 0; none: nothing serves), and timeouts.

    `webless`: none of them has a web process, so that the app takes no requests.
    """

    app: str
    weights: tuple[tuple[int, int], ...]  # (release, weight), by release
    idle_timeout: float  # seconds
    webless: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """Requests for a path at or below `path` go to `target`."""

    path: str
    target: Target


@dataclass(frozen=True, slots=True)
class AppTable:
    """One app's part of the table; `routes[0]` is its default host."""

    app: str
    routes: tuple[Route, ...]
    target: Target
    backends: tuple[Backend, ...]

    @property
    def hosts(self) -> frozenset[str]:
        """Every host the app has a rule at."""
        return frozenset(route.host for route in self.routes)


@dataclass(frozen=True, slots=True)
class Collision:
    """A route that somebody else has."""

    route: Route
    owner: str

    def __str__(self) -> str:
        return f"{self.route} belongs to app {self.owner}"


def cluster_name(app: str, release: int) -> str:
    """Return the name of the Envoy cluster of a release."""
    return f"{app}:v{release}"


def default_route(app: str, domain: str) -> Route:
    """Return the route every app has, for example shop.localhost."""
    return Route(host=f"{app}.{domain}")


def build_app_table(app: App, releases: Mapping[int, Release], instances: Sequence[Instance], domain: str) -> AppTable:
    """Return what routers need to know of one app.

    `releases` are the app's by number (at least those with traffic or instances; an unknown one gets the
    default policy and TCP checks). `instances` may hold other processes' and other apps': they are skipped.
    """
    web = sorted((i for i in instances if i.key.app == app.name and i.key.process == WEB), key=lambda i: i.id)
    carrying = sorted((number, weight) for number, weight in app.status.traffic.items() if weight > 0)
    weights = tuple((number, weight) for number, weight in carrying if _takes_requests(releases.get(number)))
    main = releases.get(find_main_release(app.status.traffic) or 0)
    numbers = {number for number, _ in weights}
    numbers |= {i.key.release for i in web if i.state is not InstanceState.STOPPED}
    own = default_route(app.name, domain)
    declared = app.spec.routes + (main.spec.routes if main else ())
    policy = main.spec.router if main else RouterPolicy()
    return AppTable(
        app=app.name,
        routes=tuple(dict.fromkeys((own, *declared))),
        target=Target(app.name, weights, policy.idle_timeout, webless=bool(carrying) and not weights),
        backends=tuple(_build_backend(app, number, releases.get(number), web, own.host) for number in sorted(numbers)),
    )


def _takes_requests(release: Release | None) -> bool:
    return release is None or WEB in release.spec.processes


def find_main_release(traffic: Mapping[int, int]) -> int | None:
    """Return the release that carries most traffic (ties: the newest); None if none carries any."""
    carrying = [(weight, number) for number, weight in traffic.items() if weight > 0]
    return max(carrying)[1] if carrying else None


def _build_backend(app: App, number: int, release: Release | None, web: Sequence[Instance], host: str) -> Backend:
    endpoints: dict[str, Endpoint] = {}
    for instance in web:
        if instance.key.release == number and (endpoint := _find_endpoint(app, instance)):
            endpoints.setdefault(str(endpoint), endpoint)
    process = release.spec.processes.get(WEB) if release else None
    checks = [getattr(process.health, name) for name in PREFERRED_CHECKS] if process else []
    return Backend(
        app=app.name,
        release=number,
        host=host,
        check=next((check for check in checks if check and check.http), None),
        policy=release.spec.router if release else RouterPolicy(),
        endpoints=tuple(endpoints.values()),
    )


def _find_endpoint(app: App, instance: Instance) -> Endpoint | None:
    draining = instance.id in app.status.drains
    present = instance.serving or (draining and instance.state in DRAINABLE and not instance.unreachable)
    if not present or instance.address is None or instance.port is None:
        return None
    degraded = instance.node_state is NodeState.SUSPECT
    return Endpoint(instance.id, instance.address, instance.port, draining, degraded)


def build_hosts(tables: Iterable[AppTable], hosts: Iterable[str] | None = None) -> dict[str, tuple[Rule, ...]]:
    """Return the rules of each host (of `hosts`, or of all), longest prefix first.

    Should two apps claim the same route in spite of `find_collisions`, the first by name has it; on an app's
    default host nobody else has anything.
    """
    wanted = None if hosts is None else frozenset(hosts)
    ordered = sorted(tables, key=lambda table: table.app)
    owners = {table.routes[0].host: table.app for table in ordered}
    found: dict[str, dict[str, Rule]] = {}
    for table in ordered:
        for route in table.routes:
            if (wanted is None or route.host in wanted) and owners.get(route.host, table.app) == table.app:
                found.setdefault(route.host, {}).setdefault(route.path, Rule(route.path, table.target))
    return {
        host: tuple(sorted(paths.values(), key=lambda rule: (-len(rule.path), rule.path)))
        for host, paths in sorted(found.items())
    }


def find_collisions(
    app: str, routes: Iterable[Route], apps: Iterable[App], releases: Iterable[Release], domain: str
) -> list[Collision]:
    """Return which of `routes`, wanted by `app`, belong to another app.

    A route is taken if another app has the same host and path, by its spec or by one of the `releases` given
    (pass those that carry traffic or are being rolled out). A default host belongs to its app with every path
    below it: nobody else may route there, and an app cannot begin where somebody else has part of its default
    host. Ordered like `routes`.
    """
    others = {other.name: set(other.spec.routes) for other in apps if other.name != app}
    for release in releases:
        if release.spec.app in others:
            others[release.spec.app].update(release.spec.routes)
    defaults = {default_route(name, domain).host: name for name in others}
    own = default_route(app, domain).host
    collisions: list[Collision] = []
    for route in routes:
        owners = {name for name, taken in others.items() if route in taken}
        if route.host == own:
            owners |= {name for name, taken in others.items() if any(t.host == own for t in taken)}
        elif route.host in defaults:
            owners = {defaults[route.host]}
        collisions.extend(Collision(route, owner) for owner in sorted(owners))
    return collisions

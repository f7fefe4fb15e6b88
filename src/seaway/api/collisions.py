"""Who has which route: a pure function over all apps and their releases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from seaway.model import App, Release, Route


def default_route(app: str, domain: str) -> Route:
    """Return the route every app has."""
    return Route(host=f"{app}.{domain}")


def claim_routes(app: App, releases: Iterable[Release], domain: str) -> Iterator[tuple[str, Route]]:
    """Yield (origin, route) of everything an app has: "default", "app", or "vN" for what a release declares.

    Of the releases count those that carry traffic and the newest.
    """
    yield "default", default_route(app.name, domain)
    for route in app.spec.routes:
        yield "app", route
    own = {release.spec.number: release for release in releases if release.spec.app == app.name}
    live = {number for number, weight in app.status.traffic.items() if weight} | {max(own, default=0)}
    if app.status.current is not None:
        live.add(app.status.current)
    for number in sorted(live & own.keys()):
        for route in own[number].spec.routes:
            yield f"v{number}", route


def find_owner(
    route: Route, apps: Iterable[App], releases: Iterable[Release], domain: str, besides: str | None = None
) -> str | None:
    """Return the app (besides one) that has exactly this host and path; None if it is free."""
    listed = tuple(releases)
    for app in apps:
        if app.name != besides and any(claim == route for _, claim in claim_routes(app, listed, domain)):
            return app.name
    return None

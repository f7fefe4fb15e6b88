"""Whose routes are whose, now: what an app has, and who already has what it wants. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from seaway.model import App, Release, Route
from seaway.router.table import default_route, find_collisions


def claim_routes(app: App, live: Iterable[Release], domain: str) -> Iterator[tuple[str, Route]]:
    """Yield (source, route) of everything an app has: "default", "app", or "vN" for what a live release declares."""
    yield "default", default_route(app.name, domain)
    for route in app.spec.routes:
        yield "app", route
    for release in live:
        if release.spec.app == app.name:
            for route in release.spec.routes:
                yield f"v{release.spec.number}", route


def find_owner(route: Route, app: str, apps: Iterable[App], live: Iterable[Release], domain: str) -> str | None:
    """Return who else has a route that `app` wants; None if it is free."""
    found = find_collisions(app, (route,), apps, live, domain)
    return found[0].owner if found else None

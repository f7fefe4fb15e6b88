"""Reading what decides who has which route."""

from __future__ import annotations

from seaway.api.collisions import find_owner, select_live
from seaway.api.deps import ApiDeps
from seaway.model import App, Release, Rollout, Route


async def load_live(deps: ApiDeps, app: str | None = None) -> tuple[tuple[App, ...], tuple[Release, ...]]:
    """Return all apps and the live releases (of one app, or of all)."""
    labels = {"app": app} if app else None
    apps = (await deps.store.list(App)).documents
    releases = (await deps.store.list(Release, labels)).documents
    rollouts = (await deps.store.list(Rollout, labels)).documents
    return apps, select_live(apps, releases, rollouts)


async def find_route_owner(deps: ApiDeps, route: Route, app: str) -> str | None:
    """Return who else has a route that `app` wants; hold deps.claiming until it is taken."""
    apps, live = await load_live(deps)
    return find_owner(route, app, apps, live, deps.settings.domain)

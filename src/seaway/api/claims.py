"""Reading what decides who has which route, and which teams have a place."""

from __future__ import annotations

from seaway.api.collisions import find_owner
from seaway.api.deps import ApiDeps
from seaway.api.errors import ApiError
from seaway.engine.base import TeamJudge
from seaway.model import App, Release, Rollout, Route
from seaway.rollout.releases import select_live
from seaway.router.table import default_route
from seaway.store.base import Store


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


async def check_team(deps: ApiDeps, team: str) -> None:
    """Raise ApiError if nothing of the team could run here."""
    if deps.teams is not None and (why := await deps.teams.judge_team(team)):
        raise ApiError(409, "team-taken", why, field="team")


async def judge_app(
    store: Store, domain: str, app: App, routes: tuple[Route, ...], teams: TeamJudge
) -> tuple[str, dict[Route, str]]:
    """Say what speaks against an app that did not come in by the API: name or team, or single routes, a sentence each.

    Raises EngineUnavailable if nothing can be said about the team now.
    """
    apps = (await store.list(App)).documents
    live = select_live(apps, (await store.list(Release)).documents, (await store.list(Rollout)).documents)
    address = default_route(app.name, domain)
    known = any(other.name == app.name for other in apps)
    if not known and (owner := find_owner(address, app.name, apps, live, domain)):
        return f"The app's address {address} belongs to {owner}: choose another name.", {}
    moved = app.meta.labels.get("team") != app.spec.team
    if (moved or not known) and (why := await teams.judge_team(app.spec.team)):
        return f"{why[:1].upper()}{why[1:]}.", {}
    refused = {
        route: f"The route {route} belongs to {owner}: take it out of spec.routes, or away from {owner}."
        for route in routes
        if (owner := find_owner(route, app.name, apps, live, domain))
    }
    return "", refused

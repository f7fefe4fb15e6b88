"""Routes: the hosts and paths that lead to an app."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from seaway.api.changing import change
from seaway.api.claims import find_route_owner, load_live
from seaway.api.collisions import claim_routes
from seaway.api.context import ChangeableApp, Deps, Developer, VisibleApp, note
from seaway.api.deps import ApiDeps
from seaway.api.endpoints.apps import with_spec
from seaway.api.errors import ApiError
from seaway.api.inputs import NewRoute
from seaway.api.views import RouteView, view_route
from seaway.model import App, Route

router = APIRouter(tags=["routes"])

MOST_ROUTES = 1000  # of one app


@router.get("/apps/{app}/routes", summary="List the routes that lead to an app")
async def list_routes(app: VisibleApp, deps: Deps) -> list[RouteView]:
    """The default one first, then the app's own, then those that its releases declare in seaway.toml."""
    _, live = await load_live(deps, app.name)
    shown: dict[Route, str] = {}
    for source, route in claim_routes(app, live, deps.settings.domain):
        shown.setdefault(route, source)
    return [view_route(route, source, deps.settings) for route, source in shown.items()]


@router.post("/apps/{app}/routes", status_code=201, summary="Lead a host, and the paths below a path, to an app")
async def add_route(app: ChangeableApp, body: NewRoute, deps: Deps, caller: Developer) -> list[RouteView]:
    """A route that another app has is refused. Adding one that is there changes nothing."""
    route = Route(host=body.host, path=body.path)
    async with deps.claiming:
        await _check_free(deps, app, route)
        before = app.spec.routes

        def add(now: App) -> App:
            if route in now.spec.routes:
                return now
            if len(now.spec.routes) >= MOST_ROUTES:
                raise ApiError(422, "too-many-routes", f"{app.name} has {MOST_ROUTES} routes, the most there may be")
            return with_spec(now, routes=(*now.spec.routes, route))

        app = await change(deps.store, App, app.name, add)
    if app.spec.routes != before:
        await note(deps, caller, app, about=f"app {app.name}", reason="RouteAdded", message=f"{route} leads here.")
    return await list_routes(app, deps)


async def _check_free(deps: ApiDeps, app: App, route: Route) -> None:
    if owner := await find_route_owner(deps, route, app.name):
        hint = "choose another host or path, or remove it there first"
        raise ApiError(409, "route-taken", f"{route} belongs to the app {owner}", field="host", hint=hint)


@router.delete("/apps/{app}/routes", summary="Remove a route from an app")
async def remove_route(
    app: ChangeableApp,
    deps: Deps,
    caller: Developer,
    host: Annotated[str, Query(max_length=300)],
    path: Annotated[str, Query(max_length=1024)] = "/",
) -> list[RouteView]:
    """Only the app's own routes can be removed: the default one stays, a release's is in its seaway.toml."""
    wanted = (host.lower().rstrip("."), path if path == "/" else path.rstrip("/"))

    def remove(now: App) -> App:
        rest = tuple(route for route in now.spec.routes if (route.host, route.path) != wanted)
        if rest == now.spec.routes:
            own = ", ".join(map(str, rest[:10])) or "none"
            message = f"{app.name} has no route of its own with host {host[:253]!r} and path {path[:100]!r}"
            raise ApiError(404, "no-such-route", message, field="host", hint=f"its own routes: {own}")
        return with_spec(now, routes=rest)

    app = await change(deps.store, App, app.name, remove)
    removed = "".join(wanted).removesuffix("/")
    await note(
        deps,
        caller,
        app,
        about=f"app {app.name}",
        reason="RouteRemoved",
        message=f"{removed} does not lead here any more.",
    )
    return await list_routes(app, deps)

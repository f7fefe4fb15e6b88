"""Apps: create, list, look at, scale, destroy."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from seaway.api.capacity import Force, check_force, check_scale
from seaway.api.changing import change
from seaway.api.claims import check_team, find_route_owner
from seaway.api.context import ChangeableApp, Deps, Developer, Viewer, VisibleApp, note
from seaway.api.deps import ApiDeps
from seaway.api.errors import SHOWN_ERRORS, ApiError
from seaway.api.inputs import NewApp, Scale
from seaway.api.views import AppView, InstanceView, view_app, view_instance
from seaway.model import App, AppSpec, Meta, Release, Rollout
from seaway.rollout.releases import find_base
from seaway.router.table import default_route
from seaway.store.base import AlreadyExists

router = APIRouter(tags=["apps"])


@router.get("/apps", summary="List the apps you may see")
async def list_apps(deps: Deps, caller: Viewer) -> list[AppView]:
    """By name."""
    apps = (await deps.store.list(App)).documents
    return [view_app(app, deps.settings) for app in apps if caller.sees(app.spec.team)]


@router.post("/apps", status_code=201, summary="Create an app")
async def create_app(body: NewApp, deps: Deps, caller: Developer) -> AppView:
    """The app is empty until something is deployed to it."""
    team = body.team or caller.team or "default"
    if not caller.sees(team):
        message = f"the token {caller.name!r} belongs to the team {caller.team!r}, not {team!r}"
        raise ApiError(403, "other-team", message, field="team", hint="leave team out")
    await check_team(deps, team)
    async with deps.claiming:
        address = default_route(body.name, deps.settings.domain)
        owner = await find_route_owner(deps, address, body.name)
        if owner:
            message = f"the app's address {address} belongs to {owner}"
            raise ApiError(409, "route-taken", message, field="name", hint="choose another name")
        await _check_count(deps, team, body.name)
        try:
            app = await deps.store.create(
                App(meta=Meta(name=body.name, labels={"team": team}), spec=AppSpec(team=team))
            )
        except AlreadyExists:
            message = f"there is an app {body.name!r} already"
            raise ApiError(409, "exists", message, field="name", hint="choose another name") from None
    await note(deps, caller, app, about=f"app {app.name}", reason="AppCreated", message=f"Created for the team {team}.")
    return view_app(app, deps.settings)


async def _check_count(deps: ApiDeps, team: str, name: str) -> None:
    """Raise ApiError if the team has as many apps as it may; hold deps.claiming until the app is stored."""
    most = deps.settings.team_apps
    mine = [app.name for app in (await deps.store.list(App)).documents if app.spec.team == team]
    if most and len(mine) >= most and name not in mine:  # of one that is there its creation says so itself
        message = f"the team {team} may have {most} apps, it has {len(mine)}"
        hint = "destroy what is not needed; --team-apps of `seaway up` and `seaway install` sets the limit"
        raise ApiError(422, "too-many-apps", message, field="team", hint=hint)


@router.get("/apps/{app}", summary="An app: what is wanted, what is, and why")
async def get_app(app: VisibleApp, deps: Deps) -> AppView:
    """Status and reason are the control loop's own words."""
    return view_app(app, deps.settings)


@router.delete("/apps/{app}", status_code=202, summary="Destroy an app with all it has")
async def destroy_app(
    app: VisibleApp,
    deps: Deps,
    caller: Developer,
    confirm: Annotated[str, Query(description="the app's name, again", max_length=200)] = "",
) -> AppView:
    """The control loop takes everything down; the app is there until that is done."""
    if confirm != app.name:
        message = f"confirm={app.name} is needed to destroy {app.name}"
        hint = f"seaway apps destroy {app.name} --confirm {app.name}"
        raise ApiError(422, "not-confirmed", message, field="confirm", hint=hint)
    if not app.spec.destroy:
        app = await change(deps.store, App, app.name, lambda now: with_spec(now, destroy=True))
        await note(
            deps,
            caller,
            app,
            about=f"app {app.name}",
            reason="AppDestroyRequested",
            message="Is to be destroyed with all it has.",
        )
    return view_app(app, deps.settings)


def with_spec(app: App, **update: object) -> App:
    """Return the app with fields of its spec replaced."""
    return app.model_copy(update={"spec": app.spec.model_copy(update=update)})


@router.get("/apps/{app}/instances", summary="The app's instances, as the engine sees them now", tags=["instances"])
async def list_instances(app: VisibleApp, deps: Deps) -> list[InstanceView]:
    """By release, process and age."""
    seen = await deps.engine.observe()
    now = deps.clock()
    mine = [instance for instance in seen.instances if instance.key.app == app.name]
    mine.sort(key=lambda i: (i.key.release, i.key.process, i.created_at, i.id))
    return [view_instance(instance, app, now) for instance in mine]


@router.put("/apps/{app}/scale", summary="Set how many instances of each process run", tags=["instances"])
async def scale_app(app: ChangeableApp, body: Scale, deps: Deps, caller: Developer, force: Force = False) -> AppView:
    """Processes that are not named keep their number. More than fits is refused with the number that does."""
    check_force(caller, force=force)
    labels = {"app": app.name}
    releases = (await deps.store.list(Release, labels)).documents
    base = find_base(app, releases, (await deps.store.list(Rollout, labels)).documents)
    running = [release.spec for release in releases if release.spec.number == app.status.current]
    known = [base.spec] if base else []
    if not body.keys() <= {name for spec in (*running, *known) for name in spec.processes}:
        known += [max((release.spec for release in releases), key=lambda spec: spec.number)] if releases else []
    processes = sorted({name for spec in (*running, *known) for name in spec.processes})
    if unknown := [name[:80] for name in body if name not in processes][:SHOWN_ERRORS]:
        hint = f"its processes are: {', '.join(processes)}" if processes else "deploy it first"
        message = f"{app.name} has no process {' or '.join(map(repr, unknown))}"
        raise ApiError(422, "no-such-process", message, field=unknown[0], hint=hint)
    before = dict(app.spec.scale)
    async with deps.claiming:
        app = await deps.store.get(App, app.name)
        forced = await check_scale(deps, caller, app, body, known, force=force)
        app = await change(deps.store, App, app.name, lambda now: with_spec(now, scale={**now.spec.scale, **body}))
    if app.spec.scale != before:
        counts = ", ".join(f"{name}={count}" for name, count in sorted(body.items()))
        message = f"Scaled to {counts}.{forced}"
        await note(deps, caller, app, about=f"app {app.name}", reason="AppScaled", message=message)
    return view_app(app, deps.settings)

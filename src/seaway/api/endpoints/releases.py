"""Releases: make one of an image, list, compare, roll back, restart; and the config that they carry."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Response

from seaway.api.auth import Caller
from seaway.api.capacity import check_force, make_judge
from seaway.api.changing import is_past, make_release
from seaway.api.context import ChangeableApp, Deps, Developer, Number, Viewer, VisibleApp, note, require_role
from seaway.api.deps import ApiDeps
from seaway.api.errors import ApiError
from seaway.api.images import find_image
from seaway.api.inputs import ConfigPatch, NewRelease, RollbackInput
from seaway.api.views import ConfigView, ReleaseDiff, diff_releases, mask, view_release
from seaway.model import App, Release, Role, Rollout, release_name
from seaway.rollout.releases import (
    Change,
    ConfigChange,
    ImageChange,
    ReleaseRefused,
    Restart,
    Rollback,
    find_base,
)
from seaway.store.base import NotFound, Store

router = APIRouter(tags=["releases"])

Reveal = Annotated[bool, Query(description="show config values (needs the role developer)")]


@router.get("/apps/{app}/releases", summary="List an app's releases, newest first")
async def list_releases(app: VisibleApp, deps: Deps) -> list[Release]:
    """Config values are masked."""
    releases = (await deps.store.list(Release, {"app": app.name})).documents
    return [view_release(release) for release in sorted(releases, key=lambda release: -release.spec.number)]


@router.post("/apps/{app}/releases", status_code=201, summary="Release an image that is there, and roll it out")
async def create_release(app: ChangeableApp, body: NewRelease, deps: Deps, caller: Developer) -> Release:
    """A build's image by its digest, with what its files say; in a cluster also HOST/PATH:TAG, kept by digest."""
    check_force(caller, force=body.force)
    return await _release(deps, caller, app, await find_image(deps, caller, body), force=body.force)


@router.get("/apps/{app}/releases/{number}", summary="A release")
async def get_release(app: VisibleApp, number: Number, deps: Deps, caller: Viewer, reveal: Reveal = False) -> Release:
    """Config values are masked unless `reveal`."""
    if reveal:
        require_role(caller, Role.DEVELOPER, "revealing config")
    return view_release(await find_release(deps, app, number), reveal=reveal)


@router.get("/apps/{app}/releases/{number}/diff/{other}", summary="What differs from one release to another")
async def diff(app: VisibleApp, number: Number, other: Number, deps: Deps) -> ReleaseDiff:
    """Config values are masked: only whether they differ is told."""
    return diff_releases(await find_release(deps, app, number), await find_release(deps, app, other))


@router.post("/apps/{app}/rollback", status_code=201, summary="Go back to an earlier release, as a new release")
async def rollback(app: ChangeableApp, deps: Deps, caller: Developer, body: RollbackInput | None = None) -> Release:
    """Without `to`: to the newest one that served before the one that serves now."""
    return await _release(deps, caller, app, Rollback(body.to if body else None))


@router.post(
    "/apps/{app}/restart", status_code=201, summary="Replace every instance, as a new release that is the same"
)
async def restart(app: ChangeableApp, deps: Deps, caller: Developer) -> Release:
    """It takes the road of a rollout, so no request is dropped."""
    return await _release(deps, caller, app, Restart())


@router.get("/apps/{app}/config", summary="The app's config", tags=["config"])
async def get_config(app: VisibleApp, deps: Deps, caller: Viewer, reveal: Reveal = False) -> ConfigView:
    """What the next release starts from; values are masked unless `reveal`."""
    if reveal:
        require_role(caller, Role.DEVELOPER, "revealing config")
    base = await _find_base(deps.store, app)
    config = base.spec.config if base else {}
    shown = dict(sorted(config.items())) if reveal else mask(config)
    return ConfigView(app=app.name, release=base.spec.number if base else None, masked=not reveal, config=shown)


@router.patch(
    "/apps/{app}/config",
    status_code=201,
    summary="Set and unset config values in one new release, and roll it out",
    tags=["config"],
    responses={200: {"model": Release, "description": "Nothing changed: the release that has these values already"}},
)
async def change_config(
    app: ChangeableApp, body: ConfigPatch, deps: Deps, caller: Developer, response: Response
) -> Release:
    """Keys are letters, digits and _; PORT and SEAWAY_* belong to the platform."""
    try:
        return await _release(deps, caller, app, ConfigChange(set=body.set, unset=body.unset))
    except ReleaseRefused as refusal:
        base = await _find_base(deps.store, app) if refusal.code == "no-change" else None
        if base is None:
            raise
        response.status_code = 200
        return view_release(base)


async def _release(deps: ApiDeps, caller: Caller, app: App, wanted: Change, *, force: bool = False) -> Release:
    """Make the release if it fits, record it, return it masked."""
    check = partial(make_judge(deps).check_release, deploy=isinstance(wanted, ImageChange), force=force)
    async with deps.claiming:
        release, forced = await make_release(deps.store, app, wanted, caller.name, check)
    about, told = f"release {release.name}", f" Note: {release.spec.note}." if release.spec.note else ""
    await note(
        deps,
        caller,
        app,
        about=about,
        reason="ReleaseCreated",
        message=f"v{release.spec.number}: {release.spec.description}.{forced}{told}",
    )
    return view_release(release)


async def _find_base(store: Store, app: App) -> Release | None:
    labels = {"app": app.name}
    return find_base(app, (await store.list(Release, labels)).documents, (await store.list(Rollout, labels)).documents)


async def find_release(deps: ApiDeps, app: App, number: int) -> Release:
    """Return a release of the app or raise 404."""
    try:
        return await deps.store.get(Release, release_name(app.name, number))
    except NotFound:
        hint = f"`seaway releases list -a {app.name}` shows what there is"
        message = f"{app.name} has no release v{number}"
        if await is_past(deps.store, Release, app, number):
            message = f"v{number} of {app.name} is not kept any more"
        raise ApiError(404, "no-such-release", message, field="number", hint=hint) from None

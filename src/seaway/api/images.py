"""What an image named in a request stands for: a build's by its digest, or one that others pushed to a registry."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import TypeVar

from seaway.api.auth import Caller
from seaway.api.deps import ApiDeps
from seaway.api.errors import ApiError
from seaway.api.inputs import NewRelease
from seaway.builder.base import TO_CONTAINERS, BuildError, ForeignImage, ImageReader, ImageRefused
from seaway.builder.manifest import PROCFILE, check_mounts, read_app_files, set_port
from seaway.control.pruning import list_needed_images
from seaway.model import App, Build, BuildManifest, Release
from seaway.rollout.releases import ImageChange
from seaway.store.base import Store

D = TypeVar("D", Build, Release)

STATUS = {"no-such-image": 422, "registry-unreachable": 503, "registry": 503}
"""HTTP status per code of ImageRefused; 422 for all others: the name is at fault."""


async def find_image(deps: ApiDeps, caller: Caller, body: NewRelease) -> ImageChange:
    """Return the change that releases the image; the image in it is named by digest. Raises ApiError."""
    if not body.image.startswith("sha256:"):
        known = await _find_known(deps.store, caller, body.image) if "@" in body.image else None
        if known is None or _says_more(body):
            return await _find_foreign(deps, caller, body)
    else:
        known = await _find_known(deps.store, caller, body.image)
    if known is None:
        message = f"no build or release that you may see has the image {body.image[:19]}"
        hint = "its processes are not known; build it first (POST /v1/apps/{app}/builds)"
        raise ApiError(422, "unknown-image", message, field="image", hint=hint)
    if _says_more(body):
        message = "an image that Seaway built has its processes from its own files"
        raise ApiError(422, "app-files", message, field="procfile", hint="leave out procfile and seaway_toml")
    image, manifest, build = known
    if image not in await list_needed_images(deps.store) and not await _is_there(deps.images, image):
        message = f"the image {body.image[:19]} is no longer kept"
        raise ApiError(409, "image-gone", message, field="image", hint="deploy its source again")
    return ImageChange(image=image, manifest=manifest, build=build, strategy=body.strategy)


def _says_more(body: NewRelease) -> bool:
    return body.procfile is not None or body.seaway_toml is not None


async def _find_known(store: Store, caller: Caller, image: str) -> tuple[str, BuildManifest, str | None] | None:
    """Return image, what its app files said and the build's name, from any app that the caller sees.

    In a cluster images are known as HOST/PATH@sha256:...; their digest alone names them too.
    """
    seen = {app.name for app in (await store.list(App)).documents if caller.sees(app.spec.team)}
    builds = [b for b in (await store.list(Build)).documents if b.spec.app in seen and _is_same(b.status.image, image)]
    for build in _newest_first(builds):
        if build.status.manifest is not None and build.status.image is not None:
            return build.status.image, build.status.manifest, build.name
    releases = [r for r in (await store.list(Release)).documents if r.spec.app in seen]
    for release in _newest_first([r for r in releases if _is_same(r.spec.image, image)]):
        spec = release.spec
        fields = {field: getattr(spec, field) for field in BuildManifest.model_fields}
        return spec.image or image, BuildManifest(**fields), spec.build
    return None


def _newest_first(documents: Iterable[D]) -> list[D]:
    return sorted(documents, key=lambda document: document.meta.created_at, reverse=True)


def _is_same(known: str | None, image: str) -> bool:
    return known is not None and (known == image or known.endswith(f"@{image}"))


async def _is_there(images: ImageReader | None, image: str) -> bool:
    if images is None or "/" not in image:
        return False
    try:
        await images.read(image)
    except ImageRefused:
        return False
    return True


async def _find_foreign(deps: ApiDeps, caller: Caller, body: NewRelease) -> ImageChange:
    if deps.images is None:
        message = f"{body.image} is in a registry: {TO_CONTAINERS}"
        hint = "deploy its source here: seaway deploy in its folder"
        raise ApiError(422, "needs-containers", message, field="image", hint=hint)
    try:
        found = await deps.images.read(body.image)
    except ImageRefused as refused:
        status = STATUS.get(refused.code, 422)
        raise ApiError(status, refused.code, refused.message, field="image") from refused
    await _check_seen(deps.store, caller, found, body.image)
    return ImageChange(
        image=found.image,
        manifest=_choose_manifest(found, body),
        strategy=body.strategy,
        description=_describe(found, body.image),
    )


async def _check_seen(store: Store, caller: Caller, found: ForeignImage, name: str) -> None:
    """Refuse what lies in the repository of an app that the caller may not see: the platform's login reads them all."""
    if found.app is None:
        return
    owners = [app for app in (await store.list(App)).documents if app.name == found.app]
    if "." in found.app or any(not caller.sees(app.spec.team) for app in owners):
        message = f"there is no {name} that you may deploy"
        hint = f"it is in the repository of {found.app}, which is not your team's"
        raise ApiError(422, "image-not-allowed", message, field="image", hint=hint)


def _choose_manifest(found: ForeignImage, body: NewRelease) -> BuildManifest:
    """Return the files given along, else what Seaway noted in the image when it built it, else its own command."""
    if not _says_more(body) and found.manifest is not None:
        return found.manifest
    if not found.command and body.procfile is None and body.seaway_toml is None:
        message = f"{body.image} has neither an entrypoint nor a command: what it should run is not known"
        raise ApiError(422, "no-command", message, field="image", hint="give a Procfile with a line web: COMMAND")
    try:
        files = read_app_files(body.procfile, body.seaway_toml, image_command=shlex.join(found.command))
        check_mounts(files.manifest.mounts, frozenset(), containers=True)
    except BuildError as error:
        field = "procfile" if str(error).startswith(PROCFILE) or body.seaway_toml is None else "seaway_toml"
        raise ApiError(422, "app-files", str(error), field=field) from error
    return set_port(files.manifest, found.port)


def _describe(found: ForeignImage, name: str) -> str:
    short = found.image.rpartition("sha256:")[2][:12]
    said = f"Deploy {name.partition('@')[0]} ({short})"
    user = found.user.partition(":")[0]
    return f"{said}; it asks for root and runs without" if user in {"", "0", "root"} else said

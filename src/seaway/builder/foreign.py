"""Images that somebody else built and pushed: found by name, read without downloading a layer."""

from __future__ import annotations

import re

from pydantic import ValidationError

from seaway.builder.base import ForeignImage, ImageRefused
from seaway.builder.compose import LABEL_APP
from seaway.builder.image import this_architecture
from seaway.model import BuildManifest
from seaway.registry.errors import (
    BadReference,
    Damaged,
    NotAnImage,
    NotThere,
    RegistryError,
    TooLarge,
    Unauthorised,
    Unreachable,
)
from seaway.registry.images import Image, Registries
from seaway.registry.reference import Place, Reference, parse_reference

CODES: tuple[tuple[type[RegistryError], str], ...] = (
    (BadReference, "not-an-image-name"),
    (NotThere, "no-such-image"),
    (Unauthorised, "image-not-allowed"),
    (NotAnImage, "not-an-image"),
    (TooLarge, "not-an-image"),
    (Damaged, "image-damaged"),
    (Unreachable, "registry-unreachable"),
    (RegistryError, "registry"),
)

_PORT = re.compile(r"(\d{1,5})(?:/tcp)?")


class RegistryImages:
    """Reads images in registries; implements builder.base.ImageReader."""

    def __init__(self, registries: Registries) -> None:
        self._registries = registries

    async def read(self, reference: str) -> ForeignImage:
        """See ImageReader. An index of several platforms keeps its own digest: each node takes what fits it."""
        try:
            parsed = parse_reference(reference)
            image = await self._registries.read_any(parsed, this_architecture())
        except RegistryError as error:
            code = next(code for kind, code in CODES if isinstance(error, kind))
            raise ImageRefused(code, str(error)) from error
        if image.config.get("os", "linux") != "linux":
            raise ImageRefused("not-an-image", f"{reference} is for {image.config['os']}: name an image for Linux")
        return describe(image, find_app(image.reference, self._registries.own))


def describe(image: Image, app: str | None) -> ForeignImage:
    """Return what the platform needs to know of an image."""
    settings = image.settings
    return ForeignImage(
        image=str(image.reference),
        app=app,
        manifest=_read_manifest(image.labels.get(LABEL_APP)),
        command=(*(settings.get("Entrypoint") or ()), *(settings.get("Cmd") or ())),
        port=_read_port(settings.get("ExposedPorts") or {}),
        user=str(settings.get("User") or ""),
    )


def find_app(reference: Reference, own: Place) -> str | None:
    """Return the app whose repository it is: the part of its path that follows the platform's own place."""
    prefix = f"{own.path}/" if own.path else ""
    if reference.host != own.host or not reference.path.startswith(prefix):
        return None
    return reference.path.removeprefix(prefix).partition("/")[0]


def _read_manifest(label: str | None) -> BuildManifest | None:
    try:
        manifest = BuildManifest.model_validate_json(label) if label else None
    except ValidationError:  # of another version of Seaway, or somebody else's label
        return None
    return manifest if manifest is None or not manifest.mounts else None  # no build for containers notes any


def _read_port(exposed: object) -> int | None:
    found = [_PORT.fullmatch(str(entry)) for entry in exposed] if isinstance(exposed, dict) else []
    ports = [int(match[1]) for match in found if match and 0 < int(match[1]) < 65536]
    return min(ports, default=None)

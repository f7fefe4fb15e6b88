"""Seaway's own image: built here and pushed to the registry of the installation, or found there by its tag."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from seaway.builder.base import BuildError
from seaway.builder.own import build_own_image
from seaway.install.errors import USAGE, InstallError
from seaway.install.installing import Teller
from seaway.install.settings import InstallSettings
from seaway.registry.errors import RegistryError
from seaway.registry.images import Registries
from seaway.registry.reference import parse_place, parse_reference
from seaway.registry.transport import Access

DOCKER_CONFIG = Path("~/.docker/config.json")
"""Where `docker login` and `podman login` keep credentials, if none are named."""


class RegistryImages:
    """Implements `seaway.install.installing.Images`."""

    async def build(self, settings: InstallSettings, login: Path | None, teller: Teller) -> str:
        """Build Seaway's own image upon the base image and push it; return it by digest; InstallError."""
        if not settings.base_image:
            hint = "name an image with Python 3.11 or newer in it: --base-image REF; or Seaway's own with --image REF"
            message = "which image is Seaway's own to be built upon?"
            raise InstallError(message, hint=hint, exit_code=USAGE, field="--base-image")
        try:
            async with _open(settings, login) as registries:
                say = teller.phase
                return await build_own_image(
                    registries, settings.base_image, say=lambda text: say("image", text.strip())
                )
        except (BuildError, RegistryError) as error:
            hint = "correct that, or name an image that is there with --image REF"
            raise InstallError(f"Seaway's own image cannot be built: {error}", hint=hint) from error

    async def resolve(self, settings: InstallSettings, login: Path | None) -> str:
        """Return the image of the settings by the digest that its tag has now; InstallError."""
        try:
            reference = parse_reference(settings.image)
            async with _open(settings, login) as registries:
                manifest = await registries.client(reference.host).get_manifest(reference)
        except RegistryError as error:
            hint = "name it by digest, REF@sha256:..., if this machine does not reach the registry"
            raise InstallError(f"--image: {error}", hint=hint, exit_code=USAGE, field="--image") from error
        return str(reference.at(manifest.digest))


@asynccontextmanager
async def _open(settings: InstallSettings, login: Path | None) -> AsyncIterator[Registries]:
    credentials = login or DOCKER_CONFIG.expanduser()
    access = Access(insecure=settings.insecure_registry, credentials=credentials if credentials.exists() else None)
    registries = Registries(parse_place(settings.registry), access)
    try:
        yield registries
    finally:
        await registries.close()

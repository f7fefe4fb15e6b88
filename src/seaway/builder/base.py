"""The builder contract: source in, an image by digest and what the app's files say out."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from seaway.model import BuildManifest, Source

TO_CONTAINERS = "such an image needs containers: run it with the Kubernetes engine"


class BuildError(Exception):
    """The build failed; the message names file, field and what would be right."""


@dataclass(frozen=True)
class Built:
    """An image in the store, by digest ("sha256:...", in a registry HOST/PATH@sha256:...), and the app's manifest."""

    image: str
    manifest: BuildManifest


@dataclass(frozen=True)
class ForeignImage:
    """An image that somebody else built. `image` is HOST/PATH@sha256:..., never a tag."""

    image: str
    app: str | None = None  # whose repository in the platform's own registry it is in
    manifest: BuildManifest | None = None  # what its app's files said, if Seaway built it (elsewhere)
    command: tuple[str, ...] = ()  # entrypoint and command; empty: it has none
    port: int | None = None  # the lowest TCP port it says it listens on
    user: str = ""  # "" is root


class ImageRefused(Exception):
    """An image cannot be used; `code` is a stable word for programs, the message is for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class ImageReader(Protocol):
    """Finds images in registries."""

    async def read(self, reference: str) -> ForeignImage:
        """Return what HOST/PATH:TAG or HOST/PATH@sha256:... stands for now. Raises ImageRefused."""
        ...


class Builder(Protocol):
    """Builds one source into an image. Cancelling the awaiting task kills the build and cleans up."""

    async def build(self, app: str, source: Source, log: Path, progress: Callable[[str], None]) -> Built:
        """Build; append output lines to `log` as they come; call `progress` with each step's one sentence."""
        ...

    async def prune(self, images_in_use: Set[str], spare_after: float, caches_after: float) -> int | None:
        """Delete images that are neither in use nor built or reused since `spare_after` (Unix time), and their layers.

        Caches that no build has used since `caches_after` (Unix time) go, too.

        Return the bytes freed; None: a build is under way, nothing was done. Running builds are unharmed.
        """
        ...

    async def forget(self, app: str) -> None:
        """Leave nothing of an app that is being destroyed but its images; no build of it runs. May be called again."""
        ...

"""The builder contract: source in, an image by digest and what the app's files say out."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from seaway.model import BuildManifest, Source


class BuildError(Exception):
    """The build failed; the message names file, field and what would be right."""


@dataclass(frozen=True)
class Built:
    """An image in the store, by digest ("sha256:..."), and the app's manifest."""

    image: str
    manifest: BuildManifest


class Builder(Protocol):
    """Builds one source into an image. Cancelling the awaiting task kills the build and cleans up."""

    async def build(self, app: str, source: Source, log: Path, progress: Callable[[str], None]) -> Built:
        """Build; append output lines to `log` as they come; call `progress` with each step's one sentence."""
        ...

    async def prune(self, images_in_use: Set[str], spare_after: float) -> int | None:
        """Delete images that are neither in use nor built or reused since `spare_after` (Unix time), and their layers.

        Return the bytes freed; None: a build is under way, nothing was done. Running builds are unharmed.
        """
        ...

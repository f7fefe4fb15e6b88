"""Who builds Dockerfiles: buildah on this machine, where it is installed and may be used."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from seaway.builder.base import BuildError
from seaway.builder.dockerfile import NO_TOOL, Tool, plan_buildah
from seaway.builder.running import Journal
from seaway.model import Source
from seaway.registry.images import Registries
from seaway.registry.reference import Reference

CA_NAME = "ca.crt"


@dataclass(frozen=True)
class Wanted:
    """An image to build by a Dockerfile. `root` is the unpacked source here; `timeout` in seconds."""

    repository: Reference
    dockerfile: str
    root: Path
    source: Source
    timeout: float


class DockerfileBuilder(Protocol):
    """Builds by a Dockerfile and pushes to the wanted repository."""

    async def build(self, wanted: Wanted, journal: Journal) -> dict[str, Any]:
        """Return {"digest": what was pushed}, or {"steps": a dockerfile.Steps for the worker to carry out}.

        Raises BuildError. Cancelling ends whatever was started.
        """
        ...


class BuildahHere:
    """Has the worker run buildah on this machine, which takes root: RUN commands are held by a chroot alone."""

    def __init__(self, registries: Registries) -> None:
        self._registries = registries

    async def build(self, wanted: Wanted, journal: Journal) -> dict[str, Any]:  # noqa: ARG002  # the worker writes the log
        """See DockerfileBuilder."""
        if shutil.which("buildah") is None or os.geteuid() != 0:
            raise BuildError(f"{wanted.dockerfile}: {NO_TOOL}")
        access, scratch = self._registries.access, wanted.root.parent / "buildah"
        scratch.mkdir()
        certificates = ""
        if access.ca is not None:
            folder = scratch / "certificates"
            folder.mkdir()
            shutil.copyfile(access.ca, folder / CA_NAME)
            certificates = str(folder)
        tool = Tool(
            host=self._registries.own.host,
            repository=wanted.repository.repository,
            insecure=access.insecure,
            certificates=certificates,
            credentials=str(access.credentials) if access.credentials else "",
        )
        return {"steps": asdict(plan_buildah(tool, wanted.dockerfile, str(wanted.root), str(scratch)))}

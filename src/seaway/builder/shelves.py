"""What replicas of the control plane share through the registry: dependency layers, and what base images hold."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from seaway.builder.base import BuildError
from seaway.builder.base_image import BaseFacts
from seaway.builder.image import this_architecture
from seaway.builder.layout import Blob
from seaway.builder.probing import probe_layers
from seaway.registry.images import Image, Registries
from seaway.registry.reference import parse_reference
from seaway.registry.shelf import Shelf

LARGEST_FACTS = 1024**2  # bytes
PROBE_VERSION = 1
"""Part of the tag that facts of base images are kept under: raise it when `probing` looks for more."""


class DependencyShelf:
    """Layers of dependencies by their key (see plan.py), so that a control plane with an empty disk makes none anew."""

    def __init__(self, registries: Registries) -> None:
        self._client = registries.home
        self._shelf = Shelf(self._client, registries.own, "seaway.deps", "dependencies")

    @property
    def repository(self) -> str:
        """The path that layers can be mounted from."""
        return self._shelf.repository.path

    async def find(self, key: str) -> Blob | None:
        """Return the layer of the key, if the registry still has it."""
        item = await self._shelf.find(key)
        if item is None or not await self._shelf.has(item):
            return None
        return Blob(item.blob.digest, item.blob.size)

    async def fetch(self, digest: str, target: Path) -> None:
        """Have a layer of the shelf in a file."""
        await self._client.download_blob(self.repository, digest, target)

    async def keep(self, key: str, layer: Path, digest: str) -> None:
        """Keep a layer under its key."""
        await self._shelf.put_file(key, layer, digest)


class BaseShelf:
    """Base images, and what was found in them: each is looked into once."""

    def __init__(self, registries: Registries, default: str, *, keep: bool = True) -> None:
        self._registries = registries
        self._default = default
        self._keep = keep
        self._shelf = Shelf(registries.home, registries.own, "seaway.bases", "base")
        self._known: dict[str, BaseFacts] = {}

    async def resolve(self, name: str | None) -> str:
        """Return the digest that the base image's name (None: the platform's) stands for now."""
        reference = parse_reference(self._choose(name), self._registries.own)
        return reference.digest or await self._registries.client(reference.host).resolve(reference)

    async def find(self, name: str | None, scratch: Path, say: Callable[[str], None]) -> tuple[Image, BaseFacts]:
        """Return the base image for this machine's architecture. Raises BuildError, RegistryError."""
        reference = parse_reference(self._choose(name), self._registries.own)
        image = await self._registries.read(reference, this_architecture())
        if image.config.get("os") != "linux" or image.architecture != this_architecture():
            raise BuildError(
                f"the base image {reference} is for {image.config.get('os')}/{image.architecture}, images are built "
                f"for linux/{this_architecture()} here: name another one"
            )
        return image, await self._find_facts(str(reference), image, scratch, say)

    def _choose(self, name: str | None) -> str:
        if name or self._default:
            return name or self._default
        raise BuildError(
            "there is no base image to build on: name one with [build] base in seaway.toml, or give the platform one "
            "(SEAWAY_BASE_IMAGE)"
        )

    async def _find_facts(self, name: str, image: Image, scratch: Path, say: Callable[[str], None]) -> BaseFacts:
        tag = f"v{PROBE_VERSION}-{image.manifest.digest.removeprefix('sha256:')}"
        facts = self._known.get(tag)
        if facts is None:
            item = await self._shelf.find(tag)
            if item is not None:
                facts = BaseFacts.read(json.loads(await self._shelf.read(item, LARGEST_FACTS)))
            else:
                say(f"Looking into the base image {name}, once")
                facts = await self._probe(name, image, scratch)
                if self._keep:
                    await self._shelf.put(tag, json.dumps(facts.write(), sort_keys=True).encode())
            self._known[tag] = facts
        return BaseFacts.read(facts.write() | {"name": name, "digest": image.reference.digest})

    async def _probe(self, name: str, image: Image, scratch: Path) -> BaseFacts:
        client = self._registries.client(image.reference.host)
        files = []
        with TemporaryDirectory(prefix="base-", dir=scratch) as folder:
            for number, layer in enumerate(image.layers):
                file = Path(folder, str(number))
                await client.download_blob(image.reference.path, layer.digest, file)
                files.append(file)
            return await asyncio.to_thread(probe_layers, name, str(image.reference.digest), files)

"""Registries: a client for each host; and Image: what a name stands for, read and checked to be a container image."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seaway.registry.client import DOCKER, INDEX_TYPES, MANIFEST_TYPES, OCI, Manifest, RegistryClient
from seaway.registry.errors import NotAnImage
from seaway.registry.reference import Place, Reference, parse_place
from seaway.registry.transport import Access

CONFIG_TYPES = frozenset({f"{OCI}config.v1+json", "application/vnd.docker.container.image.v1+json"})
LAYER_TYPES = {
    f"{OCI}layer.v1.tar": f"{OCI}layer.v1.tar",
    f"{OCI}layer.v1.tar+gzip": f"{OCI}layer.v1.tar+gzip",
    f"{OCI}layer.v1.tar+zstd": f"{OCI}layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar": f"{OCI}layer.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": f"{OCI}layer.v1.tar+gzip",
}
"""Kinds of layers, and what OCI calls them."""
LARGEST_CONFIG = 4 * 1024**2  # bytes
OLD = f"{DOCKER}manifest.v1+"


@dataclass(frozen=True)
class Descriptor:
    """A layer: its kind in OCI's words, digest and size in bytes."""

    media_type: str
    digest: str
    size: int


@dataclass(frozen=True)
class Image:
    """A container image. `reference` is by digest what was named, an index of several platforms perhaps."""

    reference: Reference
    manifest: Manifest  # of one platform
    config: Mapping[str, Any]  # the whole configuration: architecture, os, config, rootfs, history
    layers: tuple[Descriptor, ...]

    @property
    def settings(self) -> Mapping[str, Any]:
        """Env, User, Entrypoint, Cmd, Labels and so on."""
        return self.config.get("config") or {}

    @property
    def labels(self) -> Mapping[str, str]:
        """Labels; empty if it has none."""
        return self.settings.get("Labels") or {}

    @property
    def architecture(self) -> str:
        """For example amd64."""
        return str(self.config.get("architecture", ""))


class Registries:
    """Clients of the registries that images come from; the platform's own one may be reached in plain HTTP."""

    def __init__(self, own: Place, access: Access) -> None:
        self.own = own
        self.access = access  # to the platform's own registry
        self._clients: dict[str, RegistryClient] = {}

    def client(self, host: str) -> RegistryClient:
        """Return the client of the host."""
        if host not in self._clients:
            access = self.access if host == self.own.host else replace(self.access, insecure=False)
            self._clients[host] = RegistryClient(host, access)
        return self._clients[host]

    @property
    def home(self) -> RegistryClient:
        """The client of the platform's own registry."""
        return self.client(self.own.host)

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.close()
        self._clients.clear()

    async def read(self, reference: Reference, architecture: str) -> Image:
        """Return the image for Linux on that architecture. Raises NotAnImage and other RegistryErrors."""
        return await self._read(reference, architecture, strict=True)

    async def read_any(self, reference: Reference, architecture: str) -> Image:
        """Return the image as `read` does; of an index without that architecture, the first one for Linux."""
        return await self._read(reference, architecture, strict=False)

    async def _read(self, reference: Reference, architecture: str, *, strict: bool) -> Image:
        client = self.client(reference.host)
        named = manifest = await client.get_manifest(reference)
        if kind_of(named) in INDEX_TYPES:
            digest = choose_platform(named.read(), architecture, str(reference), strict=strict)
            manifest = await client.get_manifest(reference.at(digest))
        content, layers = read_layers(manifest, str(reference))
        blob = await client.get_blob(reference.path, content["config"]["digest"], LARGEST_CONFIG)
        try:
            config = json.loads(blob)
            count = len(config["rootfs"]["diff_ids"])
        except (ValueError, KeyError, TypeError):
            raise NotAnImage(f"{reference}: its configuration is not that of a container image") from None
        if count != len(layers):
            raise NotAnImage(f"{reference}: has {len(layers)} layers, its configuration says {count}: push it again")
        return Image(reference.at(named.digest), manifest, config, layers)


def connect(
    registry: str, *, insecure: bool = False, ca: Path | None = None, credentials: Path | None = None
) -> Registries:
    """Return clients for a platform whose registry is HOST or HOST/PATH. Raises BadReference."""
    return Registries(parse_place(registry), Access(insecure, ca, credentials))


def kind_of(manifest: Manifest) -> str:
    """Return the media type, from the content where the registry did not say it."""
    if manifest.media_type in {*MANIFEST_TYPES, *INDEX_TYPES}:
        return manifest.media_type
    try:
        said = json.loads(manifest.content)
    except ValueError:
        return ""
    return str(said.get("mediaType") or manifest.media_type) if isinstance(said, dict) else ""


def choose_platform(index: Mapping[str, Any], architecture: str, name: str, *, strict: bool) -> str:
    """Return the digest of the index's image for Linux on that architecture. Raises NotAnImage."""
    images = list(_list_linux(index))
    for found, digest in images:
        if found == architecture:
            return digest
    if images and not strict:
        return images[0][1]
    there = ", ".join(sorted({f"linux/{found}" for found, _ in images})) or "none for Linux"
    raise NotAnImage(f"{name} has no image for linux/{architecture} (it has {there}): build it for that too")


def _list_linux(index: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for entry in index.get("manifests") or ():
        platform = entry.get("platform") or {}
        if platform.get("os") == "linux" and entry.get("mediaType", MANIFEST_TYPES[0]) in MANIFEST_TYPES:
            yield str(platform.get("architecture")), str(entry.get("digest"))


def read_layers(manifest: Manifest, name: str) -> tuple[Mapping[str, Any], tuple[Descriptor, ...]]:
    """Return the manifest parsed and its layers. Raises NotAnImage for anything that is no container image."""
    kind = kind_of(manifest)
    if kind.startswith(OLD):
        raise NotAnImage(f"{name} is in a format of 2014 (schema 1): build and push it again with a tool of today")
    if kind not in MANIFEST_TYPES:
        raise NotAnImage(f"{name} is not a container image (it is {kind or 'of no known kind'}): name an image")
    try:
        content = manifest.read()
        config = content["config"]["mediaType"]
        layers = [Descriptor(str(x["mediaType"]), str(x["digest"]), int(x["size"])) for x in content["layers"]]
    except (ValueError, KeyError, TypeError):
        raise NotAnImage(f"{name}: its manifest is not that of a container image: push it again") from None
    if config not in CONFIG_TYPES:
        raise NotAnImage(f"{name} is not a container image but something else ({config}): name an image")
    for layer in layers:
        if layer.media_type not in LAYER_TYPES:
            raise NotAnImage(f"{name}: has a layer of the kind {layer.media_type}, which cannot be used: build it anew")
    return content, tuple(replace(layer, media_type=LAYER_TYPES[layer.media_type]) for layer in layers)

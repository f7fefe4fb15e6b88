"""Shelf: files kept in a repository of the registry under tags, one artifact each, for every replica to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from seaway.registry.client import MANIFEST_TYPES, RegistryClient
from seaway.registry.errors import NotThere
from seaway.registry.images import Descriptor
from seaway.registry.reference import Place, Reference

EMPTY = b"{}"


@dataclass(frozen=True)
class Item:
    """What lies on a shelf: where its bytes are, and notes beside them."""

    blob: Descriptor
    manifest: str  # digest
    notes: Mapping[str, str] = field(default_factory=dict)


class Shelf:
    """One repository of artifacts. Apps' names hold no dot, so NAME must: no app's images get among them."""

    def __init__(self, client: RegistryClient, place: Place, name: str, kind: str) -> None:
        assert "." in name
        self.repository = place.repository(name)
        self._client = client
        self._kind = kind  # for example "source": part of the media types

    async def put(self, tag: str, content: bytes, notes: Mapping[str, str] | None = None) -> Item:
        """Keep a small content under the tag, in place of what was there."""
        digest = await self._client.push_bytes(self.repository.path, content)
        return await self._name(tag, digest, len(content), notes or {})

    async def put_file(self, tag: str, file: Path, digest: str, notes: Mapping[str, str] | None = None) -> Item:
        """Keep a file whose digest is known under the tag, in place of what was there."""
        await self._client.push_file(self.repository.path, file, digest)
        return await self._name(tag, digest, file.stat().st_size, notes or {})

    async def renew(self, tag: str, item: Item, notes: Mapping[str, str]) -> Item:
        """Give an item other notes; its bytes stay."""
        return await self._name(tag, item.blob.digest, item.blob.size, notes)

    async def find(self, tag: str) -> Item | None:
        """Return what is kept under the tag, or None."""
        try:
            manifest = await self._client.get_manifest(self.repository.tagged(tag))
        except NotThere:
            return None
        content = manifest.read()
        try:
            layer = content["layers"][0]
            blob = Descriptor(str(layer["mediaType"]), str(layer["digest"]), int(layer["size"]))
        except (LookupError, TypeError, ValueError):
            return None  # not ours
        return Item(blob, manifest.digest, content.get("annotations") or {})

    async def has(self, item: Item) -> bool:
        """Tell whether an item's bytes are still there."""
        return await self._client.has_blob(self.repository.path, item.blob.digest)

    async def read(self, item: Item, limit: int) -> bytes:
        """Return an item's bytes. Raises TooLarge, NotThere."""
        return await self._client.get_blob(self.repository.path, item.blob.digest, limit)

    async def fetch(self, item: Item, target: Path) -> None:
        """Write an item's bytes to the file, in full or not at all."""
        await self._client.download_blob(self.repository.path, item.blob.digest, target)

    async def list(self) -> list[str]:
        """Return all tags."""
        return await self._client.list_tags(self.repository.path)

    async def delete(self, item: Item) -> bool:
        """Delete an item, under whatever tags it is; False: the registry deletes nothing."""
        return await self._client.delete_manifest(self.repository.at(item.manifest))

    async def _name(self, tag: str, digest: str, size: int, notes: Mapping[str, str]) -> Item:
        config = await self._client.push_bytes(self.repository.path, EMPTY)
        blob = Descriptor(f"application/vnd.seaway.{self._kind}.v1", digest, size)
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPES[0],
            "config": {"mediaType": f"{blob.media_type}+json", "digest": config, "size": len(EMPTY)},
            "layers": [{"mediaType": blob.media_type, "digest": digest, "size": size}],
            "annotations": dict(notes),
        }
        content = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
        reference: Reference = self.repository.tagged(tag)
        return Item(blob, await self._client.put_manifest(reference, content, MANIFEST_TYPES[0]), notes)

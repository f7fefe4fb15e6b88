"""RegistryClient: manifests and blobs of one registry (OCI distribution). What is downloaded is checked by digest."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2

from seaway.registry.errors import Damaged, NotThere, RegistryError, TooLarge, Unsupported
from seaway.registry.reference import DIGEST, Reference
from seaway.registry.transport import Access, Call, Transport
from seaway.registry.upload import Uploader

OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker.distribution."
MANIFEST_TYPES = (f"{OCI}manifest.v1+json", f"{DOCKER}manifest.v2+json")
INDEX_TYPES = (f"{OCI}index.v1+json", f"{DOCKER}manifest.list.v2+json")
ACCEPTED = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))
LARGEST_MANIFEST = 4 * 1024**2  # bytes; what registries have to take at least, and what they take at most
PULL, PUSH, DELETE = "pull", "pull,push", "pull,delete"


@dataclass(frozen=True)
class Manifest:
    """A manifest as it lies in the registry, byte for byte."""

    digest: str
    media_type: str
    content: bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.content)

    def read(self) -> dict[str, Any]:
        """Return it parsed."""
        parsed: dict[str, Any] = json.loads(self.content)
        return parsed


class RegistryClient:
    """One registry. Repositories are paths without the host, as in Reference.path."""

    def __init__(self, host: str, access: Access) -> None:
        self.host = host
        self._transport = Transport(host, access)
        self._uploader = Uploader(self._transport)

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def resolve(self, reference: Reference) -> str:
        """Return the digest that the tag stands for now. Raises NotThere."""
        answer = await self._transport.send(_manifest_call("HEAD", reference))
        digest = answer.headers.get("Docker-Content-Digest", "")
        return digest if DIGEST.fullmatch(digest) else (await self.get_manifest(reference)).digest

    async def get_manifest(self, reference: Reference) -> Manifest:
        """Return the manifest or index of a tag or digest. Raises NotThere, TooLarge, Damaged."""
        content = bytearray()
        async with self._transport.open(_manifest_call("GET", reference)) as answer:
            async for part in answer.aiter_bytes():
                content += part
                if len(content) > LARGEST_MANIFEST:
                    raise TooLarge(f"the manifest of {reference} is over 4 MiB: it is not an image that can run")
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        wanted = reference.digest or answer.headers.get("Docker-Content-Digest", digest)
        if digest != wanted:
            raise Damaged(f"the registry {self.host} sent something else than {reference}: its disk may be damaged")
        media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        return Manifest(digest, media_type, bytes(content))

    async def put_manifest(self, reference: Reference, content: bytes, media_type: str) -> str:
        """Store a manifest under the reference's tag or digest; return its digest."""
        call = _manifest_call("PUT", reference, PUSH)
        await self._transport.send(replace(call, headers={"Content-Type": media_type}, content=lambda: content))
        return "sha256:" + hashlib.sha256(content).hexdigest()

    async def delete_manifest(self, reference: Reference) -> bool:
        """Delete a manifest by digest; False: the registry deletes nothing, or it was not there."""
        try:
            await self._transport.send(_manifest_call("DELETE", reference, DELETE))
        except (Unsupported, NotThere):
            return False
        return True

    async def list_tags(self, repository: str) -> list[str]:
        """Return the repository's tags; none for a repository that is not there."""
        path: str | None = f"/v2/{repository}/tags/list?n=1000"
        tags: list[str] = []
        while path:
            call = Call("GET", path, _scope(repository), f"tags of {repository}")
            try:
                answer = await self._transport.send(call)
            except NotThere:
                return tags
            tags += answer.json().get("tags") or []
            path = answer.links.get("next", {}).get("url")
        return tags

    async def has_blob(self, repository: str, digest: str) -> bool:
        """Tell whether the repository has the blob."""
        return await self._uploader.has(repository, digest)

    async def get_blob(self, repository: str, digest: str, limit: int) -> bytes:
        """Return a small blob. Raises TooLarge over `limit` bytes, NotThere, Damaged."""
        content = bytearray()
        async with aclosing(self.stream_blob(repository, digest)) as parts:
            async for part in parts:
                content += part
                if len(content) > limit:
                    raise TooLarge(f"{digest[:19]} of {self.host}/{repository} is over {limit // 1024**2} MiB")
        return bytes(content)

    async def stream_blob(self, repository: str, digest: str) -> AsyncGenerator[bytes, None]:
        """Yield a blob's bytes; raises Damaged in the end if they were not what the digest says."""
        hashed = hashlib.sha256()
        where = f"{digest[:19]} of {self.host}/{repository}"
        call = Call("GET", f"/v2/{repository}/blobs/{digest}", _scope(repository), where)
        async with self._transport.open(call) as answer:
            async for part in answer.aiter_raw():
                hashed.update(part)
                yield part
        if "sha256:" + hashed.hexdigest() != digest:
            raise Damaged(f"the registry {self.host} sent something else than {where}: its disk may be damaged")

    async def download_blob(self, repository: str, digest: str, target: Path) -> None:
        """Write a blob to the file, in full or not at all."""
        handle, temporary = tempfile.mkstemp(prefix=".new-", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                async with aclosing(self.stream_blob(repository, digest)) as parts:
                    async for part in parts:
                        file.write(part)
            Path(temporary).replace(target)
        finally:
            Path(temporary).unlink(missing_ok=True)

    async def push_bytes(self, repository: str, content: bytes) -> str:
        """Store a small blob; return its digest."""
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        if not await self.has_blob(repository, digest):
            await self._uploader.put(repository, digest, lambda: content, len(content))
        return digest

    async def push_file(self, repository: str, file: Path, digest: str) -> None:
        """Store a file whose digest is known, unless it is there; big ones in chunks, going on after a failure."""
        if not await self.has_blob(repository, digest):
            await self._uploader.put_file(repository, digest, file)

    async def mount_blob(self, repository: str, digest: str, source: str) -> bool:
        """Have the blob of repository `source` in `repository` too, without its bytes; False: it could not be done."""
        return await self.has_blob(repository, digest) or await self._uploader.mount(repository, digest, source)

    async def copy_blob(self, repository: str, digest: str, size: int, source: RegistryClient, path: str) -> None:
        """Bring a blob of another registry's repository `path` here as a stream, unless it is here."""
        if await self.has_blob(repository, digest):
            return
        try:
            await self._uploader.put(repository, digest, lambda: source.stream_blob(path, digest), size)
        except httpx2.HTTPError as error:
            raise RegistryError(
                f"copying {digest[:19]} from {source.host} to {self.host} broke off: try again"
            ) from error


def _manifest_call(method: str, reference: Reference, actions: str = PULL) -> Call:
    path = f"/v2/{reference.path}/manifests/{reference.name}"
    return Call(method, path, _scope(reference.path, actions), str(reference), {"Accept": ACCEPTED})


def _scope(repository: str, actions: str = PULL) -> str:
    return f"repository:{repository}:{actions}"

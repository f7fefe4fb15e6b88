"""The image store: an OCI image layout on disk, content-addressed, safe for several writers at once.

blobs/sha256/HEX, index.json and oci-layout are the standard's; below seaway/ are caches that may be deleted
at any time: deps/KEY.json (what dependencies, or the files of a build command, are made of -> layer) and
results/KEY.json (source -> image).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class ImageError(Exception):
    """An image or blob is not in the store, or is broken; the message says what to do."""


@dataclass(frozen=True)
class Blob:
    """A blob in the store: digest ("sha256:HEX") and size in bytes."""

    digest: str
    size: int


class ImageLayout:
    """An OCI image layout at `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs" / "sha256"

    def create(self) -> ImageLayout:
        """Make the folders and the marker file; return self."""
        self.blobs.mkdir(mode=0o700, parents=True, exist_ok=True)
        for cache in ("deps", "results"):
            (self.root / "seaway" / cache).mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (self.root / "oci-layout").exists():
            write_atomically(self.root / "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        return self

    def path(self, digest: str) -> Path:
        """Return where the blob is kept; ImageError if `digest` is no digest."""
        if not _DIGEST.fullmatch(digest):
            raise ImageError(f"{digest!r} is not an image digest: it looks like sha256: and 64 hexadecimal digits")
        return self.blobs / digest.removeprefix("sha256:")

    def has(self, digest: str) -> bool:
        """Tell whether the blob is there."""
        return self.path(digest).is_file()

    def put_bytes(self, content: bytes) -> Blob:
        """Store bytes; return their blob."""
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        if not self.has(digest):
            write_atomically(self.path(digest), content)
        return Blob(digest, len(content))

    def put_file(self, file: Path, digest: str) -> Blob:
        """Move a finished file (on the same file system, hashed by its writer) into the store."""
        size = file.stat().st_size
        if self.has(digest):
            file.unlink()
            return Blob(digest, size)
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
        file.replace(self.path(digest))
        sync_folder(self.blobs)
        return Blob(digest, size)

    def read_json(self, digest: str) -> Any:
        """Return a stored JSON blob (manifest or config); ImageError if it is missing or not what its digest says."""
        try:
            content = self.path(digest).read_bytes()
        except FileNotFoundError:
            raise ImageError(f"image {digest} is not in the store: build or deploy the app again") from None
        if "sha256:" + hashlib.sha256(content).hexdigest() != digest:
            raise ImageError(f"blob {digest} is damaged on disk: delete {self.path(digest)} and deploy the app again")
        return json.loads(content)

    def add_image(self, manifest: Blob) -> None:
        """Name the manifest in index.json (once)."""
        with self._lock():
            os.utime(self.path(manifest.digest))  # built again: as good as new
            manifests = self._read_index()
            if all(entry["digest"] != manifest.digest for entry in manifests):
                manifests.append({"mediaType": MANIFEST_TYPE, "digest": manifest.digest, "size": manifest.size})
                self._write_index(manifests)

    def list_images(self) -> list[str]:
        """Return the digests of all images in index.json."""
        return [entry["digest"] for entry in self._read_index()]

    def complete(self, image: str) -> bool:
        """Tell whether manifest, config and all layers of the image are there."""
        if not self.has(image):
            return False
        manifest = self.read_json(image)
        return all(self.has(part["digest"]) for part in (manifest["config"], *manifest["layers"]))

    def claim(self, image: str) -> bool:
        """Tell whether the image is complete, and keep prune from taking it for as long as it spares new images."""
        with self.adding():
            if not self.complete(image):
                return False
            os.utime(self.path(image))
            return True

    def prune(self, images_in_use: Set[str], spare_after: float) -> int | None:
        """Delete images neither in use nor claimed since `spare_after` (Unix time), and blobs nobody refers to.

        Return the bytes freed. Do nothing and return None while a build adds blobs (they are not referred to yet):
        call it again some other time.
        """
        with self._guard_blobs(fcntl.LOCK_EX | fcntl.LOCK_NB) as alone:
            if not alone:
                return None
            kept = [
                entry
                for entry in self._read_index()
                if self.has(entry["digest"])
                and (entry["digest"] in images_in_use or self.path(entry["digest"]).stat().st_mtime >= spare_after)
            ]
            wanted = {entry["digest"] for entry in kept}
            for entry in kept:
                manifest = self.read_json(entry["digest"])
                wanted |= {part["digest"] for part in (manifest["config"], *manifest["layers"])}
            freed = 0
            for blob in self.blobs.iterdir():  # before the index is written: on a full disk, that needs some of it
                if "sha256:" + blob.name not in wanted:
                    freed += blob.stat().st_size
                    blob.unlink()
            self._forget_missing()
            if kept != self._read_index():
                self._write_index(kept)
            return freed

    def prune_blobs(self, spare_after: float) -> int | None:
        """Delete blobs not written since `spare_after` (Unix time): what was pushed needs no copy here.

        Return the bytes freed; None: a build adds blobs, nothing was done.
        """
        with self._guard_blobs(fcntl.LOCK_EX | fcntl.LOCK_NB) as alone:
            if not alone:
                return None
            freed = 0
            for blob in self.blobs.iterdir():
                stat = blob.stat()
                if stat.st_mtime < spare_after:
                    freed += stat.st_size
                    blob.unlink()
            self._forget_missing()
            return freed

    def _forget_missing(self) -> None:
        """Drop remembered results and dependency layers whose blob is gone."""
        for cache, field in (("deps", "digest"), ("results", "image")):
            for file in (self.root / "seaway" / cache).glob("*.json"):
                known = self.read_cache(cache, file.stem)
                if known is None or not self.has(known[field]):
                    file.unlink()

    @contextmanager
    def adding(self) -> Iterator[None]:
        """Hold off prune while inside: blobs are added that no image refers to yet."""
        with self._guard_blobs(fcntl.LOCK_SH):
            yield

    @contextmanager
    def _guard_blobs(self, kind: int) -> Iterator[bool]:
        handle = os.open(self.root / "seaway" / "blobs.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, kind)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(handle)

    def read_cache(self, cache: str, key: str) -> Mapping[str, Any] | None:
        """Return what was remembered under the key, or None (also when the file is damaged: it is only a cache)."""
        try:
            found = json.loads((self.root / "seaway" / cache / f"{key}.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def write_cache(self, cache: str, key: str, value: Mapping[str, Any]) -> None:
        """Remember a value under the key."""
        write_atomically(self.root / "seaway" / cache / f"{key}.json", json.dumps(value, sort_keys=True).encode())

    @contextmanager
    def lock_dependencies(self, key: str) -> Iterator[None]:
        """Let one builder at a time make the dependency layer of this key; the others wait here."""
        with lock_file(self.root / "seaway" / "deps" / f"{key}.lock"):
            yield

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with lock_file(self.root / "seaway" / "index.lock"):
            yield

    def _read_index(self) -> list[dict[str, Any]]:
        try:
            index = json.loads((self.root / "index.json").read_bytes())
        except FileNotFoundError:
            return []
        manifests: list[dict[str, Any]] = index["manifests"]
        return manifests

    def _write_index(self, manifests: list[dict[str, Any]]) -> None:
        index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}
        write_atomically(self.root / "index.json", json.dumps(index, indent=1).encode())


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Hold an exclusive flock on the file while inside; the kernel lets go of it if the process dies."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_atomically(path: Path, content: bytes) -> None:
    """Write the file in full or not at all, and have it on disk when this returns."""
    handle, temporary = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the folder's entries on disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

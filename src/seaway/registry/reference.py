"""Names of images: HOST/PATH:TAG and HOST/PATH@sha256:HEX. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from seaway.registry.errors import BadReference

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
LONGEST = 512  # characters of a whole reference

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_PART}(?:/{_PART})*")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::\d{1,5})?")


@dataclass(frozen=True)
class Place:
    """Where images lie: `host` (with port, if any) and a path prefix, which may be empty."""

    host: str
    path: str = ""

    def repository(self, name: str) -> Reference:
        """Return the repository of that name below this place, without tag and digest."""
        return Reference(self.host, f"{self.path}/{name}" if self.path else name)


@dataclass(frozen=True)
class Reference:
    """An image, or (without tag and digest) a repository. With both, the digest counts."""

    host: str
    path: str
    tag: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.host}/{self.path}{tag}{digest}"

    @property
    def name(self) -> str:
        """What follows /manifests/ in the registry's address: the digest, else the tag."""
        return self.digest or self.tag or "latest"

    @property
    def repository(self) -> str:
        """HOST/PATH, without tag and digest."""
        return f"{self.host}/{self.path}"

    def at(self, digest: str) -> Reference:
        """Return the image of that digest in the same repository, without any tag."""
        return replace(self, tag=None, digest=digest)

    def tagged(self, tag: str) -> Reference:
        """Return the tag of the same repository."""
        return replace(self, tag=tag, digest=None)


def parse_reference(text: str, default: Place | None = None) -> Reference:
    """Parse a reference; one without a host is looked for at `default`. Raises BadReference."""
    if len(text) > LONGEST:
        raise BadReference(f"{text[:60]!r}... is too long for the name of an image (at most {LONGEST} characters)")
    name, at, digest = text.partition("@")
    if at and not DIGEST.fullmatch(digest):
        raise BadReference(f"{text!r}: after @ comes a digest, sha256: and 64 hexadecimal digits")
    tag: str | None = None
    if ":" in name.rpartition("/")[2]:
        name, _, tag = name.rpartition(":")
        if not TAG.fullmatch(tag):
            raise BadReference(f"{text!r}: {tag!r} is not a tag: use letters, digits, _ . and -")
    host, slash, path = name.partition("/")
    if not slash or not _looks_like_host(host):
        if default is None:
            raise BadReference(f"{text!r} names no registry: write HOST/PATH:TAG or HOST/PATH@sha256:...")
        host, path = default.host, default.repository(name).path
    if not _HOST.fullmatch(host):
        raise BadReference(f"{text!r}: {host!r} is not a host: write for example registry.example.com:5000")
    if not _PATH.fullmatch(path):
        raise BadReference(f"{text!r}: {path!r} is not a repository: use lower-case letters, digits, / . _ and -")
    return Reference(host, path, tag, digest or None)


def parse_place(text: str) -> Place:
    """Parse HOST or HOST/PATH, as settings name a registry. Raises BadReference."""
    host, _, path = text.rstrip("/").partition("/")
    if "://" in text:
        raise BadReference(f"{text!r}: leave out the scheme: write HOST:PORT/PATH")
    if not _HOST.fullmatch(host) or (path and not _PATH.fullmatch(path)):
        raise BadReference(f"{text!r} is not a place in a registry: write for example registry.example.com:5000/apps")
    return Place(host, path)


def _looks_like_host(text: str) -> bool:
    return "." in text or ":" in text or text == "localhost"

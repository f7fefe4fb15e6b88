"""Credentials for registries, from a file shaped like Docker's config.json (a Kubernetes pull secret holds one too)."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seaway.registry.errors import Unauthorised


@dataclass(frozen=True)
class Credentials:
    """What one registry is told; nothing of it shows when this is printed."""

    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)  # exchanged for access tokens (OAuth 2 refresh token)
    registry_token: str = field(default="", repr=False)  # an access token as it is

    @property
    def basic(self) -> str:
        """The value of an Authorization header, or ""."""
        if not self.user:
            return ""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


NOBODY = Credentials()


class CredentialsFile:
    """Reads the file anew at each question: a mounted Secret changes under us. None: nobody has credentials."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def find(self, host: str) -> Credentials:
        """Return what the file says for the host, or NOBODY. Raises Unauthorised if the file cannot be used."""
        if self._path is None:
            return NOBODY
        try:
            content = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return NOBODY
        except (OSError, ValueError):  # the message of ValueError would show the content
            raise Unauthorised(
                f"{self._path}: cannot be read as credentials of registries: it has to be like Docker's config.json"
            ) from None
        return self._find(content, host)

    def _find(self, content: Any, host: str) -> Credentials:
        auths = content.get("auths") if isinstance(content, dict) else None
        for name, entry in (auths or {}).items():
            if _host_of(name) == host and isinstance(entry, dict) and entry:
                return self._read(entry, host)
        if isinstance(content, dict) and host in (content.get("credHelpers") or {}):
            raise Unauthorised(
                f"{self._path}: has a credential helper for {host}, which Seaway does not run: put user and password "
                "under auths, as `docker login` does without a helper"
            )
        return NOBODY

    def _read(self, entry: Mapping[str, Any], host: str) -> Credentials:
        user, password = str(entry.get("username", "")), str(entry.get("password", ""))
        if entry.get("auth"):
            try:
                user, _, password = base64.b64decode(str(entry["auth"]), validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                raise Unauthorised(f"{self._path}: auth of {host} is not user:password in base 64") from None
        return Credentials(
            user,
            password.rstrip("\0"),
            str(entry.get("identitytoken", "")),
            str(entry.get("registrytoken", "")),
        )


def _host_of(name: str) -> str:
    """Return the host of a key of auths, which may be an address: https://HOST/v1/."""
    return name.rpartition("://")[2].partition("/")[0]

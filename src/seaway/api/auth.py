"""Who calls: tokens, roles and teams.

A token's secret is "swy_" and 43 URL-safe characters (256 random bits); the store keeps its SHA-256, and the
first 40 digits of that as a label to look it up by. Every request looks its token up in the store, so that a
revoked one is refused by the very next request.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from seaway.api.errors import ApiError
from seaway.home import Home
from seaway.kube.names import TOKEN_HEADER
from seaway.model import Meta, Role, Token, TokenSpec
from seaway.store.base import AlreadyExists, Store
from seaway.store.events import record_event

SECRET_PATTERN = re.compile(r"swy_[A-Za-z0-9_-]{43}")
HASH_LABEL = "hash"
HASH_LABEL_LENGTH = 40  # Kubernetes allows 63 characters in a label
ADMIN = "admin"

RANKS = {Role.VIEWER: 0, Role.DEVELOPER: 1, Role.ADMIN: 2}


@dataclass(frozen=True)
class Caller:
    """Who made a request: a token's name, role and team (None: every team)."""

    name: str
    role: Role
    team: str | None = None

    def may(self, role: Role) -> bool:
        """Whether the caller has this role or a higher one."""
        return RANKS[self.role] >= RANKS[role]

    def sees(self, team: str | None) -> bool:
        """Whether things of this team exist for the caller (None: things of the platform)."""
        return self.team is None or self.team == team


def make_secret() -> str:
    """Return a new secret."""
    return "swy_" + secrets.token_urlsafe(32)


def hash_secret(secret: str) -> str:
    """Return what is stored of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_token(
    name: str, secret: str, role: Role, *, team: str | None, created_by: str, expires_at: datetime | None = None
) -> Token:
    """Return a token document for a secret."""
    digest = hash_secret(secret)
    spec = TokenSpec(hash=digest, role=role, team=team, created_by=created_by, expires_at=expires_at)
    return Token(meta=Meta(name=name, labels={HASH_LABEL: digest[:HASH_LABEL_LENGTH]}), spec=spec)


def find_authorization(headers: Mapping[str, str]) -> str | None:
    """Return what a request shows: the header `X-Seaway-Token`, else `Authorization`.

    Through the API server of a cluster only the former comes: the latter is the cluster's own.
    """
    if token := headers.get(TOKEN_HEADER):
        return f"Bearer {token}"
    return headers.get("authorization")


async def authenticate(store: Store, authorization: str | None, now: datetime) -> Caller:
    """Return who sent this Authorization header, or raise ApiError 401."""
    if not authorization:
        raise _refused("no token was sent", "send the header Authorization: Bearer swy_...")
    scheme, _, secret = authorization.partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not SECRET_PATTERN.fullmatch(secret):
        raise _refused("what was sent is not a token of Seaway's", "send Authorization: Bearer and a token, swy_...")
    digest = hash_secret(secret)
    found = await store.list(Token, {HASH_LABEL: digest[:HASH_LABEL_LENGTH]})
    for token in found.documents:
        if hmac.compare_digest(token.spec.hash, digest):
            if is_expired(token, now):
                raise _refused(f"the token {token.name!r} has expired", "ask an admin for a new one")
            return Caller(token.name, token.spec.role, token.spec.team)
    raise _refused("the token is not known; it may have been revoked", "ask an admin for a new one")


def is_expired(token: Token, now: datetime) -> bool:
    """Whether the token is past its time."""
    return token.spec.expires_at is not None and token.spec.expires_at <= now


def is_platform_admin(token: Token, now: datetime) -> bool:
    """Whether the token may do everything, now."""
    return token.spec.role is Role.ADMIN and token.spec.team is None and not is_expired(token, now)


async def ensure_admin_token(store: Store, home: Home, now: datetime) -> None:
    """At first start make an admin token and put its secret into home.admin_token (mode 0600).

    Later starts make another one only if no admin token is left or the file is gone; none is ever invalidated.
    """
    tokens = (await store.list(Token)).documents
    if home.admin_token.exists() and any(is_platform_admin(token, now) for token in tokens):
        return
    secret = make_secret()
    _write_secret(home, secret)  # first: a crash here leaves a file that the next start replaces
    number = 1
    while True:
        name = ADMIN if number == 1 else f"{ADMIN}-{number}"
        try:
            await store.create(new_token(name, secret, Role.ADMIN, team=None, created_by="seaway"))
        except AlreadyExists:
            number += 1
            continue
        message = f"Made the admin token {name!r}; its secret is in {home.admin_token}."
        await record_event(store, about=f"token {name}", reason="TokenCreated", message=message, at=now)
        return


def _write_secret(home: Home, secret: str) -> None:
    temporary = home.admin_token.with_name(f".{home.admin_token.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(home.admin_token)


def _refused(message: str, hint: str) -> ApiError:
    return ApiError(401, "not-authenticated", message, hint=hint, headers={"WWW-Authenticate": "Bearer"})

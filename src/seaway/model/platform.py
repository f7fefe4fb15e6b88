"""Event, Token and RouterRecord: what happened, who may do what, and which routers there are."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import ClassVar

from seaway.model.base import Document, Frozen, Meta, Name


class EventSpec(Frozen):
    """What happened, to what, why, and who or what did it."""

    at: datetime
    app: str | None = None
    about: str  # for example "rollout shop.v3" or "instance shop-v3-web-1a2b"
    reason: str  # a CamelCase word to filter on, for example InstanceCrashing
    message: str  # one sentence
    by: str = "seaway"  # the token's name, or the part that acted


class Event(Document):
    """An event; names sort by time."""

    kind: ClassVar[str] = "Event"

    meta: Meta
    spec: EventSpec


class Role(StrEnum):
    """What a token may do: viewer reads (values masked), developer changes its team's apps, admin everything."""

    VIEWER = "viewer"
    DEVELOPER = "developer"
    ADMIN = "admin"


class TokenSpec(Frozen):
    """A token; only the SHA-256 of its secret is kept (the secret has 256 random bits)."""

    hash: str
    role: Role
    team: Name | None = None  # None: every team (admins)
    created_by: str = "seaway"
    expires_at: datetime | None = None


class Token(Document):
    """An API token, named by what it is for."""

    kind: ClassVar[str] = "Token"

    meta: Meta
    spec: TokenSpec


class RouterStatus(Frozen):
    """Last sign of life of a router."""

    seen_at: datetime | None = None


class RouterRecord(Document):
    """A router that has connected; kept so that a restarted control plane still waits for it."""

    kind: ClassVar[str] = "Router"

    meta: Meta
    status: RouterStatus = RouterStatus()

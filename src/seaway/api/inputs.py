"""What the API takes: request bodies, checked field by field."""

from __future__ import annotations

import base64
import re
from datetime import datetime
from typing import Annotated, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from seaway.model import Frozen, Name, Role, Route, Seconds, Source, Strategy, Streams
from seaway.model.environment import LONGEST_VALUE, check_key, check_text, check_value
from seaway.registry.errors import BadReference
from seaway.registry.reference import parse_reference

DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
IMAGE = re.compile(r"sha256:[0-9a-f]{64}")
GIT_URL = re.compile(r"(?:(?:https?|ssh|git|file)://|[A-Za-z0-9._-]+@[A-Za-z0-9.-]+:)[^\s\x00-\x1f]+")
TOKEN_NAME = re.compile(r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")
LONGEST_STDIN = 512 * 1024  # bytes; with base64 and the rest below the limit of a body


def _check_base64(value: str) -> str:
    try:
        size = len(base64.b64decode(value, validate=True))
    except ValueError:
        raise ValueError("is not base64") from None
    if size > LONGEST_STDIN:
        raise ValueError(f"is larger than {LONGEST_STDIN // 1024} KiB; let the command fetch it instead")
    return value


def _check_image(value: str) -> str:
    if IMAGE.fullmatch(value):
        return value
    if "/" not in value:
        raise ValueError(
            f"{value[:100]!r} is not an image: give a build's digest (sha256: and 64 hexadecimal digits), or in a "
            "cluster HOST/PATH:TAG or HOST/PATH@sha256:..."
        )
    try:
        return str(parse_reference(value))
    except BadReference as error:
        raise ValueError(str(error)) from None


def _check_token_name(value: str) -> str:
    if not TOKEN_NAME.fullmatch(value):
        raise ValueError(
            f"{value[:80]!r} is not a name for a token: use 1 to 63 lower-case letters, digits, dots and hyphens, "
            "beginning and ending with a letter or digit"
        )
    return value


TokenName = Annotated[str, AfterValidator(_check_token_name), Field(json_schema_extra={"pattern": TOKEN_NAME.pattern})]
ConfigKey = Annotated[str, AfterValidator(check_key)]
ConfigValue = Annotated[
    str,
    AfterValidator(check_value),
    Field(json_schema_extra={"maxLength": LONGEST_VALUE}),  # bytes in truth; schemas count characters
]
Command = Annotated[str, AfterValidator(check_text), Field(min_length=1, max_length=8192)]
Image = Annotated[str, AfterValidator(_check_image)]
AppFile = Annotated[str, AfterValidator(check_text), Field(max_length=256 * 1024)]
Scale = dict[str, Annotated[int, Field(ge=0, le=1000)]]


class NewApp(Frozen):
    """An app to create. `team` is the token's own if left out, or "default" for a token of every team."""

    name: Name
    team: Name | None = None


class SourceInput(Source):
    """A build's source: `archive` (the digest that PUT /v1/sources answered) or `git` with an optional `ref`."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.archive is None) == (self.git is None):
            raise ValueError('a source has exactly one of archive ("<sha256>") and git ("https://...")')
        if self.archive is not None and not DIGEST.fullmatch(self.archive):
            raise ValueError("archive is not a digest: upload with PUT /v1/sources and give the digest it answers")
        if self.archive is not None and self.ref is not None:
            raise ValueError("ref belongs to git, not to archive")
        if self.git is not None and (not GIT_URL.fullmatch(self.git) or len(self.git) > 2048):
            raise ValueError("git is not a URL of a repository: use https://host/path, ssh://... or user@host:path")
        if self.ref is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_./@+-]{0,254}", self.ref):
            raise ValueError("ref is not the name of a branch, tag or commit")
        return self

    def plain(self) -> Source:
        """Return the source as builds keep it: the archive's digest without prefix."""
        archive = match[1] if self.archive and (match := DIGEST.fullmatch(self.archive)) else None
        return Source(archive=archive, git=self.git, ref=self.ref)


class NewBuild(Frozen):
    """A build to start.

    `deploy`: make a release of it; `strategy` overrides the app's for that release; `force` (admins): release it even
    if its instances do not fit.
    """

    source: SourceInput
    deploy: bool = True
    strategy: Strategy | None = None
    force: bool = False


class NewRelease(Frozen):
    """An image that is there, to be released.

    `procfile` and `seaway_toml` are texts that say how to run an image that Seaway has not built; without them it runs
    what it says itself as `web`. `force` (admins): release it even if its instances do not fit.
    """

    image: Image
    strategy: Strategy | None = None
    force: bool = False
    procfile: AppFile | None = None
    seaway_toml: AppFile | None = None


class RollbackInput(Frozen):
    """Which release to return to; left out: the newest one that served before the one that serves now."""

    to: int | None = Field(default=None, ge=1, le=2**31)


class ConfigPatch(Frozen):
    """Values to set and keys to unset, all in one new release."""

    set: dict[ConfigKey, ConfigValue] = {}
    unset: list[ConfigKey] = []

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.set and not self.unset:
            raise ValueError('nothing to do: give "set": {"KEY": "value"} or "unset": ["KEY"]')
        if both := sorted(set(self.set) & set(self.unset)):
            raise ValueError(f"{', '.join(both)}: in both set and unset; choose one")
        return self


class NewRoute(Route):
    """A route to add. Stored ones are not judged again: a stricter rule must not make them unreadable."""

    @field_validator("path")
    @classmethod
    def _resolved(cls, path: str) -> str:
        if {".", ".."} & set(path.split("/")):
            raise ValueError(f"{path!r} can never match: routers resolve . and .. first; leave them out")
        return path


class TaskInput(Frozen):
    """A shell command to run once with the app's current image and config.

    `stdin`: what it reads from standard input, in base64, at most 512 KiB; nothing if left out. `attached`: it is
    killed a second after nobody follows .../attach any more. `streams`, for one that is attached: what it writes comes
    there byte by byte, besides to the logs; what it `reads` is sent to .../input; with a `terminal` it has one instead.
    """

    command: Command
    stdin: Annotated[str, AfterValidator(_check_base64)] | None = None
    timeout: Annotated[Seconds, Field(gt=0)] = 600.0
    attached: bool = False
    streams: Streams | None = None

    @model_validator(mode="after")
    def _has_one_input(self) -> Self:
        if self.streams is not None and not self.attached:
            raise ValueError("streams are for whoever waits: they need attached")
        if self.streams is not None and self.stdin is not None:
            raise ValueError("what it reads comes either as stdin or by its streams")
        return self


class TokenInput(Frozen):
    """A token to make. It never expires unless told so by `expires_in` (seconds) or `expires_at`."""

    name: TokenName
    role: Role = Role.DEVELOPER
    team: Name | None = None
    expires_in: float | None = Field(default=None, gt=0, le=10 * 365 * 86400, allow_inf_nan=False)
    expires_at: datetime | None = None

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        if self.expires_in is not None and self.expires_at is not None:
            raise ValueError("give expires_in or expires_at, not both")
        if self.expires_at is not None and self.expires_at.tzinfo is None:
            raise ValueError("expires_at has no time zone: write for example 2030-01-31T12:00:00Z")
        return self

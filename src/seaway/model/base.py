"""What every document has in common: metadata, a spec (intent) and a status (what is)."""

from __future__ import annotations

import ipaddress
import re
from datetime import UTC, datetime
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

SCHEMA_VERSION = 1

NAME_PATTERN = r"^[a-z]([a-z0-9-]{0,28}[a-z0-9])?$"
HOST_PATTERN = r"^(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$"


def _is_name(value: str) -> bool:
    return re.fullmatch(NAME_PATTERN, value) is not None and "--" not in value


def _check_name(value: str, noun: str = "name") -> str:
    if not _is_name(value):
        near = re.sub(r"[^a-z0-9]+", "-", value.lower()).lstrip("0123456789-")[:30].rstrip("-")
        raise ValueError(
            f"{value[:80]!r} is not a {noun}: use 1 to 30 lower-case letters, digits and single hyphens, "
            f"starting with a letter and not ending with a hyphen" + (f" (did you mean {near!r}?)" if near else "")
        )
    return value


def name_process(written: str) -> str:
    """Return the name of a process type that a file or a user writes so: `_`, which others allow, stands for `-`.

    Instances, Kubernetes objects and labels are called by it, and DNS names hold no `_`. One name everywhere is found
    again; were `_` mapped only where it must be, logs, metrics and kubectl would each have another.
    """
    name = written.replace("_", "-")
    return name if _is_name(name) else _check_name(written, "process name")


def _check_host(value: str) -> str:
    lowered = value.lower().rstrip(".")
    if not re.fullmatch(HOST_PATTERN, lowered):
        raise ValueError(
            f"{value!r} is not a host name: use labels of letters, digits and hyphens joined by dots, "
            "without scheme, port or path (for example shop.example.com)"
        )
    return lowered


def _check_network(value: str) -> str:
    text = value.strip()
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        if "host bits" in str(error):
            whole = ipaddress.ip_network(text, strict=False)
            raise ValueError(f"{value!r} is an address in {whole}: write the network, or the address alone") from None
        raise ValueError(
            f"{value!r} is no address and no network: write for example 10.0.0.7, 10.0.0.0/8 or 2001:db8::/32"
        ) from None


def _split_list(value: object) -> object:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")] if value.strip() not in ("", "none") else []
    return value


def _as_seconds(value: object) -> object:
    """Accept 30, 2.5, "30", "30s", "500ms", "5m", "1h" for a duration."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h)?\s*", value)
        if not match:
            raise ValueError(f"{value!r} is not a duration: write a number of seconds, or 500ms, 30s, 5m, 1h")
        return float(match[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[match[2] or "s"]
    return value


def _as_bytes(value: object) -> object:
    """Accept 536870912, "512M", "512Mi", "512MiB", "0.5G" for an amount of memory or disk."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([KMGT])(?:i|iB)?)?\s*", value)
        if not match:
            raise ValueError(
                f"{value!r} is not an amount of memory or disk: write 512M or 2G (powers of 1024), or bytes"
            )
        return int(float(match[1]) * 1024 ** (" KMGT".index(match[2] or " ")))
    return value


def leads_inside(path: str) -> bool:
    """Whether a path leads to something inside the folder that it starts from, in the one way it can be written."""
    return not path.startswith(("/", "-")) and not {"", ".", ".."} & set(path.split("/")) and "\0" not in path


Name = Annotated[str, AfterValidator(_check_name), Field(json_schema_extra={"pattern": NAME_PATTERN})]
"""A DNS-label-like name (app, process, team)."""

ProcessName = Annotated[
    str, AfterValidator(name_process), Field(json_schema_extra={"pattern": NAME_PATTERN.replace("0-9-]", "0-9_-]")})
]
"""A process type as it may be written: a name, or one with `_` for `-`."""

Network = Annotated[str, AfterValidator(_check_network)]
"""An IPv4 or IPv6 network as ADDRESS/BITS; an address alone is accepted on the way in."""

Networks = Annotated[tuple[Network, ...], BeforeValidator(_split_list), Field(max_length=1000)]
"""Several of them; as text on the way in they are separated by commas, "none" is none."""

Host = Annotated[str, AfterValidator(_check_host)]
"""A lower-case DNS host name without port."""

LONGEST_TIME = 7 * 24 * 3600  # seconds that any setting may have

Seconds = Annotated[float, BeforeValidator(_as_seconds), Field(ge=0, le=LONGEST_TIME, allow_inf_nan=False)]
"""A duration in seconds; text such as "30s" is accepted on the way in."""


Bytes = Annotated[int, BeforeValidator(_as_bytes), Field(ge=0, le=1 << 50)]
"""An amount of memory or disk; text such as "512M" is accepted on the way in."""


def say_bytes(amount: float) -> str:
    """Return bytes for people, for example 12.3 MiB."""
    if amount < 1024:
        return f"{amount:.0f} bytes"
    power = next((n for n in (1, 2) if amount < 1024 ** (n + 1)), 3)
    return f"{amount / 1024**power:.1f}".removesuffix(".0") + f" {'KMG'[power - 1]}iB"


class Frozen(BaseModel):
    """An immutable value; unknown fields are an error that names them."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Meta(Frozen):
    """Identity and version of a document. The store sets uid, revision and the times."""

    name: str
    uid: str = ""
    revision: int = 0
    created_at: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    updated_at: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    labels: dict[str, str] = {}
    schema_version: int = SCHEMA_VERSION


class Document(Frozen):
    """A versioned document. Subclasses fix `kind` and the types of `spec` and `status`."""

    kind: ClassVar[str]

    meta: Meta

    @property
    def name(self) -> str:
        """The name, unique within the kind."""
        return self.meta.name

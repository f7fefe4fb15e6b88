"""App: a named program of one or more processes, and what the platform knows of it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from seaway.model.base import Bytes, Document, Frozen, Host, Meta, Name, Seconds, leads_inside

WEB = "web"
"""The one process type that gets traffic."""

RELEASE_COMMAND = "release"
"""The Procfile entry that runs once before any traffic moves."""


def _check_path(value: str) -> str:
    if not value.startswith("/") or any(c in value for c in "?#* \t\r\n") or "//" in value:
        raise ValueError(f"{value!r} is not a path prefix: it starts with / and has no query, space or wildcard")
    return value if value == "/" else value.rstrip("/")


def _check_folder(value: str) -> str:
    if not leads_inside(value):
        raise ValueError(f"{value!r} is not a folder of the app's: write its path from the top of the source, var/data")
    return value


PathPrefix = Annotated[str, AfterValidator(_check_path), Field(max_length=1024)]


class Route(Frozen):
    """Requests for `host` whose path is `path` or below it go to the app (longest prefix wins)."""

    host: Host
    path: PathPrefix = "/"

    def __str__(self) -> str:
        return self.host + ("" if self.path == "/" else self.path)


class Mount(Frozen):
    """A persistent folder of the app, seen by its commands at `path` (from the top of its files)."""

    name: Name
    path: Annotated[str, AfterValidator(_check_folder), Field(max_length=255)]


class Check(Frozen):
    """One way to ask an instance how it is: an HTTP GET (2xx or 3xx is good), a TCP connect, or a command."""

    http: PathPrefix | None = None
    tcp: bool = False
    command: str | None = Field(default=None, min_length=1)
    interval: Seconds = 2.0
    timeout: Annotated[Seconds, Field(gt=0)] = 2.0
    healthy_after: int = Field(default=1, ge=1, le=100)
    unhealthy_after: int = Field(default=3, ge=1, le=100)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.http is not None) + self.tcp + (self.command is not None) != 1:
            raise ValueError('a check has exactly one of http = "/path", tcp = true, command = "..."')
        return self


def make_check_headers(host: str) -> dict[str, str]:
    """Return the headers of HTTP checks, which are as requests of the app's users: its own host, and over HTTPS.

    Apps answer 400 to a host that is not theirs, and those that insist on HTTPS would only send the check there, with a
    3xx that says nothing of their health; to others it makes no difference. `host` "": the address is named.
    """
    return ({"Host": host} if host else {}) | {"X-Forwarded-Proto": "https"}


class Health(Frozen):
    """Checks of one process. `startup` gates the others; `readiness` gates traffic; `liveness` restarts."""

    startup: Check | None = None
    readiness: Check | None = None
    liveness: Check | None = None
    start_timeout: Seconds = 60.0


class Limits(Frozen):
    """What one instance may take; None: the platform's default."""

    memory: Bytes | None = Field(default=None, ge=1 << 20)  # beyond, it is killed
    cpu: float | None = Field(default=None, ge=0.01, le=1024)  # cores; beyond, it waits
    pids: int | None = Field(default=None, ge=1, le=1 << 22)  # processes and threads; beyond, it can start none
    disk: Bytes | None = Field(default=None, ge=1 << 20)  # written files; beyond, it is killed


class Process(Limits):
    """One process type of a release: the shell command it runs and how it is looked after."""

    command: str = Field(min_length=1, max_length=8192)
    port: int | None = Field(default=None, ge=1, le=65535)  # its PORT where containers run; None: the platform's choice
    health: Health = Health()
    stop_grace: Seconds = 30.0

    @property
    def limits(self) -> Limits:
        """What an instance may take."""
        return Limits(memory=self.memory, cpu=self.cpu, pids=self.pids, disk=self.disk)


class Strategy(StrEnum):
    """How traffic moves from one release to the next."""

    BLUE_GREEN = "blue-green"
    RECREATE = "recreate"


class RolloutPolicy(Frozen):
    """How an app's rollouts go; all times in seconds."""

    strategy: Strategy = Strategy.BLUE_GREEN
    release_timeout: Seconds = 600.0  # limit of the release command
    start_timeout: Seconds = 120.0  # from start of B's instances until all are verified
    router_timeout: Seconds = 30.0  # limit for the routers to acknowledge
    min_ready: Seconds = 1.0  # B's instances must have been ready this long before traffic moves
    keep: Seconds = 30.0  # how long A stays at full size after traffic moved
    drain: Seconds = 30.0  # limit for requests in flight on an instance that is to stop


class RouterPolicy(Frozen):
    """How routers treat the app's web process."""

    keepalive: Seconds = 0.05  # idle upstream connections are closed by the router after this; keep below the app's
    idle_timeout: Seconds = 60.0  # a request or upgraded connection without a byte for this long is ended
    max_requests: int = Field(default=4096, ge=1, le=1 << 16)  # in flight to a release through one router


class AppSpec(Frozen):
    """What the team wants of the app."""

    team: Name = "default"
    scale: dict[str, Annotated[int, Field(ge=0, le=1000)]] = {}  # by process type; absent: as the release says
    routes: tuple[Route, ...] = ()  # besides the default host and the routes a release declares
    destroy: bool = False  # wanted gone: the control loop takes everything down, then the document


class Drain(Frozen):
    """An instance out of rotation: no new requests, those in flight may finish until `limit`."""

    since: datetime
    limit: datetime
    why: str
    out_at: datetime | None = None  # when every live router was seen to have acknowledged it


AppState = Literal["empty", "deploying", "serving", "degraded", "down", "stopped", "destroying"]


class AppStatus(Frozen):
    """What the control loop recorded of the app."""

    current: int | None = None  # release that serves when no rollout is under way
    traffic: dict[int, Annotated[int, Field(ge=0, le=100)]] = {}  # release -> weight; the routers' only source
    webless: bool = False  # the current release has no web process: the app takes no requests
    drains: dict[str, Drain] = {}  # instance id -> drain
    state: AppState = "empty"
    reason: str = "no release yet"


class App(Document):
    """An app."""

    kind: ClassVar[str] = "App"

    meta: Meta
    spec: AppSpec = AppSpec()
    status: AppStatus = AppStatus()

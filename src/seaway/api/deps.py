"""What the API is given by the composition root."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx2

from seaway.api.callers import OpenStreams, RateLimiter
from seaway.builder.base import ImageReader
from seaway.builder.stores import FolderSources, LogStore, SourceStore
from seaway.control.attachments import Attachments
from seaway.engine.base import Engine, StreamControl, TeamJudge
from seaway.home import Home, Settings
from seaway.logs.base import LogReader
from seaway.router.base import RouterPlane
from seaway.store.base import Store


def utc_now() -> datetime:
    """Return the time now, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class LeaderLink:
    """The way to the replica that leads: `find` returns its base URL, "" for this one, None if nobody leads now."""

    find: Callable[[], str | None]
    http: httpx2.AsyncClient


@dataclass(frozen=True)
class ApiDeps:
    """Every collaborator of the API.

    `heartbeat`: seconds between signs of life on a stream that is silent. `claiming` is held from looking whether
    a host and path, or the memory for instances, are free until they are taken. `leader`: the way to the replica that
    leads, if there are several. Without `source_store` sources are kept in the home; `build_logs` are what other
    replicas of the control plane wrote; `images` reads those that others built, None: none can run here. `teams` knows
    which teams have no place here, None: every team has one. `task_streams` holds what one-offs write and read, None:
    it is in their logs alone. `attachments`: who waits for which one-off here. `rates` and `streams` count what each
    caller asks for; `monotonic` is the time for that, in nanoseconds.
    """

    store: Store
    engine: Engine
    routers: RouterPlane
    logs: LogReader
    home: Home
    settings: Settings
    clock: Callable[[], datetime] = utc_now
    monotonic: Callable[[], int] = time.monotonic_ns
    heartbeat: float = 15.0
    leader: LeaderLink | None = None
    attachments: Attachments = field(default_factory=Attachments, compare=False)
    claiming: asyncio.Lock = field(default_factory=asyncio.Lock, compare=False)
    rates: RateLimiter = field(default_factory=RateLimiter, compare=False)
    streams: OpenStreams = field(default_factory=OpenStreams, compare=False)
    source_store: SourceStore | None = None
    build_logs: LogStore | None = None
    images: ImageReader | None = None
    teams: TeamJudge | None = None
    task_streams: StreamControl | None = None

    @property
    def leads(self) -> bool:
        """Whether this replica leads, as far as it knows."""
        return self.leader is None or self.leader.find() == ""

    @property
    def sources(self) -> SourceStore:
        """Where uploaded sources are kept."""
        return self.source_store or FolderSources(self.home.sources)

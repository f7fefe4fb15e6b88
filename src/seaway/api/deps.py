"""What the API is given by the composition root."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from seaway.engine.base import Engine
from seaway.home import Home, Settings
from seaway.logs.base import LogReader
from seaway.router.base import RouterPlane
from seaway.store.base import Store


def utc_now() -> datetime:
    """Return the time now, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class ApiDeps:
    """Every collaborator of the API.

    `heartbeat`: seconds between signs of life on a stream that is silent. `claiming` is held from looking whether
    a host and path are free until they are taken.
    """

    store: Store
    engine: Engine
    routers: RouterPlane
    logs: LogReader
    home: Home
    settings: Settings
    clock: Callable[[], datetime] = utc_now
    heartbeat: float = 15.0
    claiming: asyncio.Lock = field(default_factory=asyncio.Lock, compare=False)

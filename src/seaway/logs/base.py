"""The log contract: what is asked for and what comes back. The line format is in docs/logs.md."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Protocol

from seaway.model import Frozen

LogLine = dict[str, Any]
"""One JSON object with ECS field names."""


class LogQuery(Frozen):
    """Which lines of an app: filters are ANDed; `tail` lines from the end, then new ones if `follow`.

    `since` (UTC): only lines that Seaway read then or later, whatever time of their own they give.
    """

    app: str
    process: str | None = None
    release: int | None = None
    instance: str | None = None
    since: datetime | None = None
    tail: int | None = 100
    follow: bool = False


class LogReader(Protocol):
    """Reads the logs of apps."""

    def read(self, query: LogQuery) -> AsyncIterator[LogLine]:
        """Yield lines oldest first; with `follow` never ends by itself."""
        ...

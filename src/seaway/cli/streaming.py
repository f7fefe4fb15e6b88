"""Streams of lines that outlive outages: logs, events, and all the output of one command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from seaway.cli.client import FIRST_PAUSE, LONGEST_PAUSE, Api, Doc, Patience
from seaway.cli.errors import ApiError, Unreachable
from seaway.cli.logline import Resume

OVERLAP = 1000  # lines asked for again after an outage, to go on without a gap
ALL_LINES = 100_000


async def read_stream(
    api: Api, path: str, query: dict[str, Any], count: int, *, follow: bool, time_field: str, patience: Patience
) -> AsyncGenerator[Doc, None]:
    """Yield the last `count` objects, then (following) what comes, across outages without gap or repetition."""
    resume, pause = Resume(time_field, 2 * OVERLAP), FIRST_PAUSE
    connected, wanted = False, count
    while True:
        try:
            async with aclosing(api.stream(path, **query, n=wanted, follow=1 if follow else None)) as items:
                async for item in items:
                    line = item.json() if item.event != "end" else None
                    connected, pause = True, FIRST_PAUSE
                    if isinstance(line, dict) and resume.is_new(line, item.data):
                        yield line
            connected = True
            if not follow:
                return
        except (Unreachable, ApiError) as error:
            if not connected or (isinstance(error, ApiError) and not error.passing):
                raise
            patience.outage()
        resume.begin_again()
        wanted = count if resume.empty else max(count, OVERLAP)
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


class CommandOutput:
    """The output of a one-off or a release command: `show` is given each of its lines once."""

    def __init__(
        self, api: Api, app: str, query: dict[str, Any], show: Callable[[Doc], None], patience: Patience
    ) -> None:
        self._api = api
        self._path = f"/apps/{app}/logs"
        self._query = query
        self._show = show
        self._patience = patience
        self._shown = 0

    async def follow(self) -> None:
        """Show lines as they come, until cancelled. Errors show in `show_rest`, and so does all that is missing."""
        stream = read_stream(
            self._api, self._path, self._query, ALL_LINES, follow=True, time_field="@timestamp", patience=self._patience
        )
        try:
            async with aclosing(stream) as lines:
                async for line in lines:
                    self._show_one(line)
        except (Unreachable, ApiError):
            return

    async def show_rest(self) -> None:
        """Show what the stream had not brought when the command had ended; may be called again after an error."""
        position = 0
        async with aclosing(self._api.stream(self._path, **self._query, n=ALL_LINES)) as items:
            async for item in items:
                position += 1
                if position > self._shown:
                    self._show_one(item.json())

    def _show_one(self, line: Doc) -> None:
        self._shown += 1
        self._show(line)

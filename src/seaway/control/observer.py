"""Shares one observation of the engine among all passes that ask for it at about the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from seaway.engine.base import Engine
from seaway.model import Observation

Overlay = Callable[[Observation], Observation]


def _leave(observation: Observation) -> Observation:
    return observation


class Observer:
    """`observe` returns an observation that was begun after the call: as fresh as asking alone, far cheaper.

    `overlay` adds what Seaway itself knows of nodes.
    """

    def __init__(self, engine: Engine, overlay: Overlay = _leave) -> None:
        self._engine = engine
        self._overlay = overlay
        self._next: asyncio.Task[Observation] | None = None
        self._running: asyncio.Task[Observation] | None = None

    async def observe(self) -> Observation:
        """Return what there is; raises EngineUnavailable."""
        if self._next is None:
            self._next = asyncio.create_task(self._run(self._running))
        return await asyncio.shield(self._next)

    async def _run(self, before: asyncio.Task[Observation] | None) -> Observation:
        if before is not None and not before.done():
            await asyncio.wait({before})
        self._running, self._next = self._next, None
        return self._overlay(await self._engine.observe())


class JudgedEngine:
    """An engine for those who show what there is to users: its observations have an overlay, all else is as it was."""

    def __init__(self, engine: Engine, overlay: Overlay) -> None:
        self._engine = engine
        self._overlay = overlay
        self.apply, self.remove, self.watch = engine.apply, engine.remove, engine.watch
        self.start_task, self.remove_task = engine.start_task, engine.remove_task

    async def observe(self) -> Observation:
        """See Engine.observe."""
        return self._overlay(await self._engine.observe())

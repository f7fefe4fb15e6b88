"""Instances that stand still: they live, their ports take connections, and none of their processes may run."""

from __future__ import annotations

import asyncio

STANDS = "its processes are stopped, by SIGSTOP or a terminal"
LASTING = 3  # samples in a row


class Standstill:
    """What samples of one instance say; true while it stands still."""

    def __init__(self) -> None:
        self._count = 0
        self._lasts = asyncio.Event()

    def __bool__(self) -> bool:
        return self._count > 0

    def note(self, stopped: bool) -> bool:
        """Take a sample; return whether it stands still or goes on since this one."""
        before = bool(self)
        self._count = self._count + 1 if stopped else 0
        if self._count >= LASTING:
            self._lasts.set()
        return before != bool(self)

    def forget(self) -> None:
        """Begin anew: another process runs now."""
        self._count = 0
        self._lasts.clear()

    async def wait(self) -> None:
        """Return when it has lasted."""
        await self._lasts.wait()

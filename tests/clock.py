"""An event loop whose time jumps: what waits by the clock takes no time.

When nothing is ready, its time goes on to the next moment that somebody waits for, so that sleeps and deadlines come in
their order and at exactly their times. Only for what happens within one loop: an answer of a thread, a process or a
socket would come long after the time that was allowed to it.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec

P = ParamSpec("P")


class _Jumping(selectors.SelectSelector):
    """Never waits; whoever would wait finds the time passed."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found:
            if timeout is None:
                raise RuntimeError("everybody waits for something that is not of this loop")
            self.passed += max(timeout, 0)
        return found


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop with a clock of its own, in seconds since it was made."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the seconds that have passed: those that were waited for."""
        return self._jumping.passed


def jumping(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Run an async test in a loop that jumps; its fixtures are ordinary ones."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def whole() -> None:
            await test(*args, **kwargs)

        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            runner.run(whole())

    return run

"""Ports for instances: outside the kernel's ephemeral range, checked free, not reused at once."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable

from seaway.engine.base import EngineError

FIRST, LAST = 20000, 31999  # below Linux's ephemeral range (32768 and up)


def is_free(port: int) -> bool:
    """Return whether nothing on this machine listens on the port, on any address."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # TIME_WAIT leftovers don't count
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104 - a look, never a listener
        except OSError:
            return False
    return True


class PortPool:
    """Gives out ports of one range; a released one rests for `rest` seconds."""

    def __init__(
        self,
        rest: float,
        first: int = FIRST,
        last: int = LAST,
        clock: Callable[[], float] = time.monotonic,
        free: Callable[[int], bool] = is_free,
    ) -> None:
        self._range = range(first, last + 1)
        self._rest = rest
        self._clock = clock
        self._free = free
        self._taken: set[int] = set()
        self._resting: dict[int, float] = {}

    def claim(self, port: int) -> None:
        """Note that an adopted instance holds the port."""
        self._taken.add(port)

    def keep(self, port: int | None) -> int:
        """Return the port if a restarted instance can have it again, or a new one in its place."""
        if port is not None and self._free(port):
            self._taken.add(port)
            return port
        if port is not None:
            self.release(port)
        return self.take()

    def take(self) -> int:
        """Return a free port; EngineError if the range is used up."""
        now = self._clock()
        self._resting = {port: until for port, until in self._resting.items() if until > now}
        start = random.randrange(len(self._range))  # noqa: S311 - spreads several homes over the range
        for step in range(len(self._range)):
            port = self._range[(start + step) % len(self._range)]
            if port not in self._taken and port not in self._resting and self._free(port):
                self._taken.add(port)
                return port
        raise EngineError(
            f"no free port in {self._range.start}-{self._range.stop - 1}: "
            "scale something down, or stop what listens there"
        )

    def release(self, port: int) -> None:
        """Give a port back; it rests first, so that late requests don't reach another app."""
        self._taken.discard(port)
        self._resting[port] = self._clock() + self._rest

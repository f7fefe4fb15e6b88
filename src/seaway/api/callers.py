"""How much one caller may ask of the API: requests a second, and streams at once.

Each replica of the control plane counts for itself. A caller is a token, or an address that shows none that is good.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from seaway.api.errors import ApiError

SECOND = 1_000_000_000  # nanoseconds
BURST_SECONDS = 4
"""After a quiet time as many requests may come at once as else in so many seconds."""
SWEEP = 10 * SECOND
LONGEST_ADDRESS = 64  # characters; a proxy on this machine may claim any
MOST_STREAMS = 200
"""Followed logs, watches and runs that one token may have open; `seaway run` takes two."""


class RateLimiter:
    """A token bucket for each caller, kept as the moment at which it is full again (the form known as GCRA).

    In any span of time no caller gets more than the burst and `rate` a second; what is refused costs nothing. All
    times are whole nanoseconds, so that nothing is lost or won by rounding.
    """

    def __init__(self) -> None:
        self._full_at: dict[str, int] = {}
        self._swept_at = 0

    def __len__(self) -> int:
        """Of how many callers it keeps something."""
        return len(self._full_at)

    def admit(self, caller: str, rate: int, now: int) -> int:
        """Take a request and return 0, or return after how many nanoseconds the next one is taken.

        `rate`: requests a second, 0: no limit; `now`: of a clock that is never set back.
        """
        if rate == 0:
            return 0
        interval = -(-SECOND // rate)
        full_at = max(self._full_at.get(caller, now), now) + interval
        wait = full_at - now - BURST_SECONDS * rate * interval
        if wait > 0:
            return wait
        self._full_at[caller] = full_at
        self._sweep(now)
        return 0

    def _sweep(self, now: int) -> None:
        """Forget whose bucket is full, now and then: addresses are without number."""
        if now - self._swept_at >= SWEEP:
            self._full_at = {caller: at for caller, at in self._full_at.items() if at > now}
            self._swept_at = now


class OpenStreams:
    """Counts the streams that each token has open."""

    def __init__(self, most: int = MOST_STREAMS) -> None:
        self._most = most
        self._open: Counter[str] = Counter()

    @contextmanager
    def hold(self, token: str) -> Iterator[None]:
        """Count one more stream of a token until this is left; raise ApiError 429 if it has the most there may be.

        There is no Retry-After: nobody knows when one of them ends.
        """
        if self._open[token] >= self._most:
            message = f"the token {token!r} has {self._most} streams open (followed logs, watches, runs), the most"
            raise ApiError(429, "too-many-streams", message, hint="end some of them, or use another token")
        self._open[token] += 1
        try:
            yield
        finally:
            self._open[token] -= 1
            if not self._open[token]:
                del self._open[token]


def check_rate(limiter: RateLimiter, caller: str, rate: int, now: int) -> None:
    """Raise ApiError 429 with Retry-After (whole seconds) if the caller asks more often than it may.

    `caller` is what people are told: "the token 'ci'".
    """
    wait = limiter.admit(caller, rate, now)
    if not wait:
        return
    seconds = -(-wait // SECOND)
    message = f"{caller} sends more than {rate} requests a second"
    hint = f"send it again in {seconds} s; --token-rate of `seaway up` and `seaway install` sets the limit"
    raise ApiError(429, "too-many-requests", message, hint=hint, headers={"Retry-After": str(seconds)})

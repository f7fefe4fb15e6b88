"""What a router takes of what it is given, so that nobody has more of it than is there for others. Pure numbers.

All apps share one Envoy: its files, its memory, its threads. docs/router.md says what happens at each limit.
"""

from __future__ import annotations

HEADERS_KIB = 60
"""KiB (1,024 bytes) of a request's first line and headers, and of an answer's headers. Envoy's own default, said so
that it cannot change behind our back; nginx takes 32, Node.js 16, gunicorn 8 a line."""

HEADER_LINES = 100
"""Headers of a request, and of an answer."""

HEADERS_TIMEOUT = 30.0
"""Seconds from the first byte of a request to the end of its headers."""

IDLE_CONNECTION = 900.0
"""Seconds after which a client's connection without a request is closed. Longer than balancers keep theirs, so that
none sends a request into one that is just being closed."""

CONNECTION_BUFFER = 64 << 10
"""Bytes that are kept of a body in each direction of a connection before its sender has to wait. Envoy would keep
1 MiB: 20 GiB for 10,000 slow uploads."""

RETRY_BUFFER = 256 << 10
"""Bytes of a request's body that are kept to send it once more. An upload whose instance does not read takes 350 KiB
with this and `CONNECTION_BUFFER`, 1.1 MiB with Envoy's 1 MiB here, 1.9 MiB with its 1 MiB for both."""

STREAMS = 100
"""Requests in flight on one HTTP/2 connection of a client, which is told so and waits with more."""

MOST_CONNECTIONS = 32_768
"""Clients' connections to one router, however many files it may open: some 1 GiB when all have a request in flight."""

RETRY_AFTER = 1
"""Seconds that whoever is answered `overloaded` is asked to wait."""


def count_connections(files: int) -> int:
    """Return how many connections of clients one router takes that may have `files` open, at least 1.

    Each may have a request in flight, and that another connection, to an instance. A quarter of the files is kept for
    health checks, idle connections to instances, logs and Envoy's own.
    """
    return max(1, min(MOST_CONNECTIONS, files * 3 // 8))


__all__ = [
    "CONNECTION_BUFFER", "HEADERS_KIB", "HEADERS_TIMEOUT", "HEADER_LINES", "IDLE_CONNECTION", "MOST_CONNECTIONS",
    "RETRY_AFTER", "RETRY_BUFFER", "STREAMS", "count_connections",
]  # fmt: skip

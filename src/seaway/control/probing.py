"""Probes nodes by connecting to a TCP port of theirs: that the kernel answers is all that is asked.

How often is the policy's business (seaway.health): now and then while a node answers, a quick series when it does
not. A refusal is an answer. Nothing is sent on a connection; it is closed at once.
"""

from __future__ import annotations

import asyncio
import heapq
import socket
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta

from seaway.health.facts import NodePolicy, Probes

Connect = Callable[[str, int, float], Awaitable[bool]]
"""Whether something at an address and port answers within so many seconds."""

MOST_AT_ONCE = 400  # connections on their way; when many nodes are silent their series take longer
SHORTEST_SLEEP = 0.02  # seconds


async def connect_tcp(address: str, port: int, timeout: float) -> bool:
    """Return whether a TCP connection to an IP address is accepted or refused within `timeout` seconds."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            async with asyncio.timeout(timeout):
                await asyncio.get_running_loop().sock_connect(probe, (address, port))
        except (ConnectionRefusedError, ConnectionResetError):
            return True
        except OSError:  # timeouts too
            return False
    return True


class Prober:
    """Keeps what probes of each node came to in `probes`. Nodes come and go by `set_targets`."""

    def __init__(self, policy: NodePolicy, clock: Callable[[], datetime], connect: Connect = connect_tcp) -> None:
        self._policy = policy
        self._clock = clock
        self._connect = connect
        self._looked_at = clock()
        self._targets: dict[str, tuple[str, int]] = {}
        self._due: list[tuple[datetime, str]] = []
        self._running: set[asyncio.Task[None]] = set()
        self.probes: dict[str, Probes] = {}
        self.hurried: set[str] = set()  # nodes to be cleared up quickly
        self.overdue: set[str] = set()  # nodes with a probe that should have been answered by now

    def set_targets(self, targets: Mapping[str, tuple[str, int]]) -> None:
        """Probe these, by name; what is known of one whose address changed is forgotten."""
        now = self._clock()
        for name in self._targets.keys() - targets.keys():
            del self.probes[name]
            self.overdue.discard(name)
        fresh = [name for name, target in targets.items() if self._targets.get(name) != target]
        spread = self._policy.interval / max(1, len(fresh))
        for number, name in enumerate(fresh):
            self.probes[name] = Probes()
            if name not in self._targets:
                heapq.heappush(self._due, (now + timedelta(seconds=number * spread), name))
        self._targets = dict(targets)

    def send_due(self) -> float:
        """Send the probes that are due; return for how many seconds there are none."""
        now = self._clock()
        if self._due and now < self._looked_at:  # the clock was set back
            self._due = [(now, name) for _, name in self._due]
        self._looked_at = now
        while self._due and self._due[0][0] <= now:
            _, name = heapq.heappop(self._due)
            if name in self._targets:
                heapq.heappush(self._due, (self._send(name, now), name))
        wait = (self._due[0][0] - now).total_seconds() if self._due else 1.0
        return max(SHORTEST_SLEEP, min(wait, 1.0))

    def _send(self, name: str, now: datetime) -> datetime:
        """Send a probe to a node if one is due; return when to look at it again."""
        policy = self._policy
        soon = now + timedelta(seconds=policy.hurry_interval)
        if self.probes[name].count_lost(now, policy.hurry_after):
            self.overdue.add(name)
        due = self._find_due(name)
        if due is not None and due > now:
            return due
        if len(self._running) >= MOST_AT_ONCE:
            return soon
        self.probes[name] = self.probes[name].send(now)
        task = asyncio.create_task(self._probe(name, now))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return self._find_due(name) or soon

    def _find_due(self, name: str) -> datetime | None:
        interval = max(self._policy.interval, len(self._targets) / self._policy.probes_a_second)
        return self.probes[name].find_due(interval, self._policy, hurry=name in self.hurried)

    async def _probe(self, name: str, sent: datetime) -> None:
        target = self._targets[name]
        answered = await self._connect(*target, self._policy.lost_patience)
        if answered and self._targets.get(name) == target:
            self.probes[name] = self.probes[name].answer(sent, self._policy.suspect_patience)
            if not self.probes[name].unanswered:
                self.overdue.discard(name)

    async def close(self) -> None:
        """End every probe."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

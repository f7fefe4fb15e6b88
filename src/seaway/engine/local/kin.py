"""What belongs to an instance: every process that it ever started, whatever that did to get away.

Where this process may make control groups each instance has one. Elsewhere its leader is a subreaper: what loses its
parent becomes the leader's child, and the leader outlives them all. Instances of an older version have neither; theirs
are known by session and environment.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import structlog

from seaway.engine.local.state import Launched
from seaway.model import Limits
from seaway.sandbox.cgroups import NO_LIMITS, Cgroups
from seaway.sandbox.controllers import Memory
from seaway.sandbox.procs import Stat, list_stats, read_living, send

log = structlog.get_logger(__name__)

POLL = 0.01  # seconds between looks at what was just killed
KILL_LIMIT = 10.0  # seconds that what was killed may take to vanish (disk waits); then it is reported and left


class Kin:
    """Finds and kills what belongs to instances. Without `cgroups` their leaders are subreapers.

    `home` is in the environment of all that it has started: another home may use the same ids.
    """

    def __init__(self, home: Path, cgroups: Cgroups | None = None) -> None:
        self.cgroups = cgroups
        self._home = os.fsencode(home)

    def admit(self, instance_id: str, limits: Limits = NO_LIMITS) -> str:
        """Return the files to which a leader writes "0" before it starts anything; "" if there are no groups."""
        return self.cgroups.make(instance_id, limits) if self.cgroups is not None else ""

    def read_memory(self, instance_id: str) -> Memory:
        """Return what the memory controller knows of an instance; nothing if there is none."""
        return (self.cgroups.read_memory(instance_id) if self.cgroups is not None else None) or Memory()

    def list_names(self) -> list[str]:
        """Return the ids of the instances that have a group now."""
        return self.cgroups.list_names() if self.cgroups is not None else []

    def close(self) -> None:
        """Leave nothing behind but what is of use to the next agent."""
        if self.cgroups is not None:
            self.cgroups.close()

    def find(self, instance_id: str, leader: Launched | None = None) -> list[Stat]:
        """Return its live processes, the leader's among them."""
        if self.cgroups is not None and self.cgroups.has(instance_id):
            inside = set(self.cgroups.list_pids(instance_id))
            outside = {leader.pid} - inside if leader is not None and leader.pid else set()  # it has only just begun
            return read_living(inside) + [s for s in read_living(outside) if leader and s.birth == leader.birth]
        stats = list_stats()
        session = leader.pid if leader is not None else None
        marker, me = f"SEAWAY_INSTANCE={instance_id}".encode(), os.getpid()
        marked = {stat.pid for stat in stats if stat.pid != me and self._is_marked(stat, marker, session)}
        family = add_descendants(stats, marked)
        return [stat for stat in stats if stat.pid in family]

    def _is_marked(self, stat: Stat, marker: bytes, session: int | None) -> bool:
        """Whether it carries the instance's environment, or is of its session and carries nobody's.

        A session number cannot be reused while a member lives; an empty environment is a process that cleared it.
        """
        try:
            environ = Path(f"/proc/{stat.pid}/environ").read_bytes()
        except OSError:
            environ = b""
        if marker in environ.split(b"\0") and self._home in environ:
            return True
        return b"SEAWAY_INSTANCE=" not in environ and session is not None and stat.session == session

    def is_over(self, instance_id: str, leader: Launched) -> bool:
        """Whether nothing of it lives any more but a leader whose command has ended."""
        return self._is_empty(instance_id) and all(s.pid == leader.pid for s in self.find(instance_id, leader))

    def is_gone(self, instance_id: str, leader: Launched | None = None) -> bool:
        """Whether nothing of it lives any more."""
        return self._is_empty(instance_id) and not self.find(instance_id, leader)

    def _is_empty(self, instance_id: str) -> bool:
        return self.cgroups is None or self.cgroups.is_empty(instance_id)

    async def sweep(self, instance_id: str, leader: Launched | None = None) -> None:
        """Kill whatever is left of an instance and return when it is gone.

        What was killed is waited for by its pid: it may have been known by its parent, which was quicker to die.
        """
        deadline = asyncio.get_running_loop().time() + KILL_LIMIT
        dying = list[Stat]()
        while (dying := find_same(dying)) or not self.is_gone(instance_id, leader):
            if self.cgroups is not None and self.cgroups.has(instance_id):
                self.cgroups.kill(instance_id)
            members = self.find(instance_id, leader)
            send(signal.SIGKILL, members)
            dying += members
            if asyncio.get_running_loop().time() > deadline:
                log.error("processes do not die", instance=instance_id, pids=[stat.pid for stat in dying])
                return
            await asyncio.sleep(POLL)
        if self.cgroups is not None:
            self.cgroups.remove(instance_id)


def find_same(stats: list[Stat]) -> list[Stat]:
    """Return those of these processes that still live, each once."""
    births = {stat.pid: stat.birth for stat in stats}
    return [stat for stat in read_living(births) if stat.birth == births[stat.pid]]


def add_descendants(stats: list[Stat], pids: set[int]) -> set[int]:
    """Return these processes and all that descend from them."""
    children: dict[int, list[int]] = {}
    for stat in stats:
        children.setdefault(stat.parent, []).append(stat.pid)
    found, pending = set[int](), list(pids)
    while pending:
        pid = pending.pop()
        if pid not in found:
            found.add(pid)
            pending += children.get(pid, ())
    return found

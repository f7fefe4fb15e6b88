"""Ends what is left of a home's instances where no node agent could stop them: `seaway down` leaves no process."""

from __future__ import annotations

import asyncio
import signal
import time

import structlog

from seaway.engine.local.kin import Kin
from seaway.engine.local.process import LeaderIndex
from seaway.home import Home
from seaway.sandbox.cgroups import BUILDS, Cgroups
from seaway.sandbox.procs import send

log = structlog.get_logger(__name__)

GRACE = 5.0  # seconds between SIGTERM and SIGKILL
POLL = 0.05


async def sweep(home: Home) -> list[str]:
    """End every process of every instance, one-off and build of the home; return the ids of those that still lived.

    For when no agent runs. Nothing on disk is changed: the next agent starts the instances again.
    """
    kin = Kin(home.root, Cgroups.open(home.root))
    try:
        leaders = LeaderIndex(kin).pids  # they stay until an agent has heard how their command ended
        folders = (*home.node.glob("instances/*"), *home.node.glob("tasks/*"))
        names = sorted({*kin.list_names(), *(folder.name for folder in folders)})
        found = {name: members for name in names if (members := kin.find(name))}
        for members in found.values():
            send(signal.SIGTERM, members)
            send(signal.SIGCONT, members)
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline and any(s.pid not in leaders for name in found for s in kin.find(name)):
            await asyncio.sleep(POLL)
        for name in names:
            await kin.sweep(name)
        if kin.cgroups is not None and kin.cgroups.has(BUILDS):
            kin.cgroups.kill(BUILDS)
    finally:
        kin.close()
    if found:
        log.warning("ended what no node agent could stop", instances=list(found))
    return list(found)

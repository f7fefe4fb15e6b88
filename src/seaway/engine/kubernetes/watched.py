"""The watched caches that the engine's picture is made from, and whether they can be believed now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

import structlog

from seaway.engine.base import EngineUnavailable
from seaway.engine.kubernetes import names
from seaway.engine.kubernetes.objects import Job, KubeEvent, Lease, NodeObject, Pod, ReplicaSet, Secret
from seaway.kube.cache import Cache, Delta
from seaway.kube.client import KubeClient
from seaway.kube.errors import KubeError
from seaway.kube.listing import Resource
from seaway.kube.structs import Object

T = TypeVar("T", bound=Object)

Steps = Iterable[Callable[[], None]]
See = Callable[[Delta[Any]], Steps]
"""Takes in a change, in steps between which others may run."""

SLICE = 0.005  # seconds of steps after which others run
RETRY = 5.0  # seconds until a watch that failed is tried again
LOOK_INTERVAL = 1.0  # seconds between looks at whether the API server is still there

log = structlog.get_logger(__name__)


class Watched:
    """Eight caches. `stale_after`: seconds of silence of the API server for which they are good all the same."""

    def __init__(self, client: KubeClient, stale_after: float, notify: Callable[[str], None]) -> None:
        """`notify` is called with "" whenever anything may be different."""
        self._stale_after, self._notify = stale_after, notify
        ours = {"labelSelector": names.SELECTOR}
        self.pods = Cache(client, Resource("/api/v1/pods", Pod, ours))
        self.sets = Cache(client, Resource("/apis/apps/v1/replicasets", ReplicaSet, ours))
        config = {"labelSelector": f"{names.SELECTOR},{names.KIND}!={names.INPUT}"}
        self.secrets = Cache(client, Resource("/api/v1/secrets", Secret, config))
        self.jobs = Cache(client, Resource("/apis/batch/v1/jobs", Job, ours))
        self.nodes = Cache(client, Resource("/api/v1/nodes", NodeObject))
        leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        self.leases = Cache(client, Resource(leases, Lease))
        failing = {"fieldSelector": "involvedObject.kind=Pod,reason=Unhealthy"}
        self.faults = Cache(client, Resource("/api/v1/events", KubeEvent, failing))
        refused = {"fieldSelector": "involvedObject.kind=Job,reason=FailedCreate"}
        self.unmade = Cache(client, Resource("/api/v1/events", KubeEvent, refused))
        self._vital: tuple[Cache[Any], ...] = (
            self.nodes, self.leases, self.secrets, self.sets, self.jobs, self.pods,
        )  # fmt: skip
        self._refused: dict[int, str] = {}  # of a vital cache: why it cannot be watched
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, see: Mapping[str, See]) -> None:
        """Begin to watch; `see` takes in the changes of a cache, by its name here."""
        self._tasks = [asyncio.create_task(self._follow(getattr(self, name), take)) for name, take in see.items()]
        self._tasks.append(asyncio.create_task(self._look_for_silence()))

    async def close(self) -> None:
        """Stop watching."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def wait_synced(self) -> None:
        """Return once everything has been listed."""
        for cache in self._vital:
            await cache.synced.wait()

    def silent(self) -> float:
        """Return the seconds since the kind that was heard of longest ago was heard of."""
        return max(cache.pulse.silent() for cache in self._vital)

    def check(self) -> None:
        """Raise EngineUnavailable if not everything has been listed yet, or it is too old to act on."""
        if self._refused:
            raise EngineUnavailable(next(iter(self._refused.values())))
        if not all(cache.synced.is_set() for cache in self._vital):
            trouble = next((c.pulse.trouble for c in self._vital if c.pulse.trouble), "")
            raise EngineUnavailable(f"the cluster is not known yet; its objects are being listed {trouble}".rstrip())
        oldest = max(self._vital, key=lambda cache: cache.pulse.silent())
        if oldest.pulse.silent() > self._stale_after:
            raise EngineUnavailable(
                f"the API server has not answered for {oldest.pulse.silent():.0f} s; what runs goes on "
                f"({oldest.pulse.trouble or 'silence'})"
            )

    async def _follow(self, cache: Cache[T], see: See) -> None:
        before: dict[Any, T] | None = None  # what was there when taking in a change failed
        while True:
            try:
                async with aclosing(cache.run()) as deltas:
                    async for delta in deltas:
                        whole = delta if before is None else _everything(cache, before)
                        before = None
                        await run_in_slices(see(whole))
            except KubeError as error:
                why = f"the cluster does not let Seaway watch what it runs ({error}): see `seaway install`"
                log.error("a watch is refused", error=str(error))
            except Exception as error:  # a bug, or an object unlike any other: what is not known is not acted upon
                why = f"what the cluster says is not understood ({error}): see the log, and report it"
                before = dict(cache.objects)
                log.exception("a watch failed")
            if cache in self._vital:
                self._refused[id(cache)] = why
            self._notify("")
            await asyncio.sleep(RETRY)
            self._refused.pop(id(cache), None)

    async def _look_for_silence(self) -> None:
        """Say so when the caches grow too old, and when they are good again."""
        good = True
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            try:
                self.check()
                now = True
            except EngineUnavailable:
                now = False
            if now is not good:
                good = now
                self._notify("")


def _everything(cache: Cache[T], before: Mapping[Any, T]) -> Delta[T]:
    """Return all there is and what is gone since."""
    gone = tuple(item for place, item in before.items() if place not in cache.objects)
    return Delta(tuple(cache.objects.values()), gone)


async def run_in_slices(steps: Steps) -> None:
    """Run the steps, letting others run at least every SLICE seconds."""
    began = time.monotonic()
    for step in steps:
        step()
        if time.monotonic() - began > SLICE:
            await asyncio.sleep(0)
            began = time.monotonic()

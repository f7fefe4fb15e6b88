"""What instances use: read at an interval from the metrics API, which `kubectl top` reads too, where a cluster has it.

A cluster without it (metrics-server is an add-on) answers 404: then nothing is known, and it is asked again rarely.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import msgspec
import structlog

from seaway.engine.kubernetes import names
from seaway.engine.kubernetes.objects import PodMetricsList
from seaway.engine.kubernetes.usage import Usage, read_usage
from seaway.engine.kubernetes.watched import Steps, run_in_slices
from seaway.kube.cache import Key
from seaway.kube.client import KubeClient
from seaway.kube.errors import Denied, KubeError, NotFound

PATH = "/apis/metrics.k8s.io/v1beta1/pods"
INTERVAL = 15.0  # seconds between looks: metrics-server measures as often
RARELY = 300.0  # seconds until a cluster that does not serve it is asked again
CLOSING = 1.0  # seconds that a look under way may take when all is closed

log = structlog.get_logger(__name__)


class Meter:
    """Runs beside the picture, whose instances it gives what they use."""

    def __init__(self, client: KubeClient, take: Callable[[Mapping[Key, Usage]], Steps]) -> None:
        """`take` takes in what is known of all pods now, in steps between which others may run."""
        self._client, self._take = client, take
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop. A look under way may end: the HTTP client leaks a connection whose handshake is cancelled."""
        self._closing.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=CLOSING)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def look(self) -> float:
        """Take in what is known now, which is nothing after an error; return the seconds until the next look."""
        found: Mapping[Key, Usage] = {}
        pause = INTERVAL
        try:
            page = await self._client.fetch(PodMetricsList, PATH, {"labelSelector": names.SELECTOR})
            found = read_usage(page.items or ())
        except (NotFound, Denied) as error:  # not there, or an older `seaway install` has not given the right
            log.debug("the cluster has no metrics of pods for Seaway", error=str(error))
            pause = RARELY
        except (KubeError, msgspec.MsgspecError) as error:
            log.debug("what instances use is not known", error=str(error))
        await run_in_slices(self._take(found))
        return pause

    async def _run(self) -> None:
        while not self._closing.is_set():
            pause = await self.look()
            try:
                async with asyncio.timeout(pause):
                    await self._closing.wait()
            except TimeoutError:
                continue

"""Looks after what nobody applies: puts teams' fences and disruption budgets back, clears ended pods away, tells.

Writes only while `acts` says so (the leading replica); it keeps looking all the same, so that a new leader knows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing, suppress

import structlog

from seaway.engine.base import EngineError
from seaway.engine.kubernetes import names
from seaway.engine.kubernetes.applying import Applier, Tell
from seaway.engine.kubernetes.errors import engine_errors
from seaway.engine.kubernetes.manifests import place_of
from seaway.engine.kubernetes.objects import Job, Plain, Pod, ReplicaSet
from seaway.engine.kubernetes.picture import Picture
from seaway.engine.kubernetes.preparing import Preparer, is_whole
from seaway.engine.kubernetes.reading import find_refusal
from seaway.engine.kubernetes.reasons import describe_eviction
from seaway.engine.kubernetes.retiring import ENDED
from seaway.engine.kubernetes.settings import KubernetesEngineSettings
from seaway.engine.kubernetes.tasks import is_over
from seaway.engine.kubernetes.teams import make_fences
from seaway.kube.cache import Cache, Delta
from seaway.kube.client import KubeClient
from seaway.kube.errors import KubeError, NotFound
from seaway.kube.listing import Resource

LOOK_INTERVAL = 1.0  # seconds between looks at what is to be done
CONNECTING = 1.0  # seconds that a connection may take when all is closed
PULL_INTERVAL = 60.0  # seconds between copies of the image pull Secret
RETRY = 10.0  # seconds until a refused watch is tried again
SURE_AFTER = 2.0  # seconds after which a deletion that nobody here asked for was somebody else's

FENCES = {
    "ServiceAccount": "/api/v1/serviceaccounts",
    "ResourceQuota": "/api/v1/resourcequotas",
    "LimitRange": "/api/v1/limitranges",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/networkpolicies",
}

log = structlog.get_logger(__name__)


class Guard:
    """Runs beside the picture."""

    def __init__(
        self,
        client: KubeClient,
        settings: KubernetesEngineSettings,
        picture: Picture,
        applier: Applier,
        preparer: Preparer,
        *,
        tell: Tell,
        acts: Callable[[], bool],
    ) -> None:
        self._client, self._settings, self._picture = client, settings, picture
        self._applier, self._preparer, self._tell, self._acts = applier, preparer, tell, acts
        fenced = {"labelSelector": f"{names.SELECTOR},{names.KIND}={names.FENCE}"}
        self._fences = {kind: Cache(client, Resource(path, Plain, fenced)) for kind, path in FENCES.items()}
        self._budgets: Cache[Plain] | None = None
        self._caches = list(self._fences.values())
        self._tasks: list[asyncio.Task[None]] = []
        self._ended: dict[str, tuple[Pod, float]] = {}  # uid -> pod that has ended, and since when it is known
        self._stopping: dict[str, tuple[Pod, float]] = {}  # uid -> pod that somebody told to stop
        self._told: set[str] = (
            set()
        )  # what is done with: uids of pods and sentences that were told, Jobs whose input is deleted
        self._teams: dict[str, None] = {}  # teams to look at
        self._whole: set[str] = set()  # teams whose fences were seen whole: what lacks then, somebody took
        self._pulled_at = time.monotonic()

    def start(self, budgets: str) -> None:
        """Begin; `budgets` is the API version of disruption budgets, if there are any."""
        self._picture.listeners.append(self._see_pods)
        caches = self._caches
        if budgets:
            ours = {"labelSelector": names.SELECTOR}
            self._budgets = Cache(self._client, Resource(f"/apis/{budgets}/poddisruptionbudgets", Plain, ours))
            caches.append(self._budgets)
        self._tasks = [asyncio.create_task(self._follow(cache)) for cache in caches]
        self._tasks.append(asyncio.create_task(self._look()))

    async def close(self) -> None:
        """Stop. Connections on their way are waited for: the HTTP client leaks one whose handshake is cancelled."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CONNECTING if self._tasks else 0):
                for cache in self._caches:
                    await cache.synced.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self, cache: Cache[Plain]) -> None:
        while True:
            try:
                async with aclosing(cache.run()) as deltas:
                    async for delta in deltas:
                        self._note_teams(delta)
            except KubeError as error:
                log.error("a watch is refused", error=str(error))
                await asyncio.sleep(RETRY)

    def _note_teams(self, delta: Delta[Plain]) -> None:
        for item in (*delta.put, *delta.gone):
            team = item.metadata.labels.get(names.TEAM)
            if team and self._picture.is_ours(item):
                self._teams[team] = None

    def _see_pods(self, delta: Delta[Pod]) -> None:
        now = time.monotonic()
        for pod in delta.gone:
            self._ended.pop(pod.metadata.uid, None)
            self._told.discard(pod.metadata.uid)
        for pod in delta.put:
            if pod.metadata.labels.get(names.KIND) != names.INSTANCE or not self._picture.is_ours(pod):
                continue
            if pod.status.phase in ENDED:
                self._ended.setdefault(pod.metadata.uid, (pod, now))
            elif pod.metadata.deletion_timestamp is not None and _runs(pod):
                self._stopping.setdefault(pod.metadata.uid, (pod, now))

    async def _look(self) -> None:
        await self._picture.watched.wait_synced()
        self._stopping.clear()  # what stopped before this process looked was told by another
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            if not self._acts():
                self._stopping.clear()
                continue
            try:
                with engine_errors():
                    await self._look_once()
            except EngineError as error:
                log.warning("could not put everything back", error=str(error))

    async def _look_once(self) -> None:
        self._picture.check()
        for uid, (pod, since) in tuple(self._ended.items()):
            await self._clear_ended(uid, pod, since)
        for uid, (pod, since) in tuple(self._stopping.items()):
            if time.monotonic() - since >= SURE_AFTER:
                del self._stopping[uid]
                await self._tell_stopped(pod)
        for found in tuple(self._picture.sets.objects.values()):
            await self._tell_refused(found)
        for job in tuple(self._picture.jobs.objects.values()):
            await self._forget_input(job)
        for team in tuple(self._teams):
            del self._teams[team]  # first: what is noted meanwhile is looked at again
            try:
                await self._restore(team)
            except Exception:
                self._teams[team] = None
                raise
        await self._restore_budgets()
        if time.monotonic() - self._pulled_at >= PULL_INTERVAL:
            self._pulled_at = time.monotonic()
            await self._preparer.renew_pull_secrets()

    async def _clear_ended(self, uid: str, pod: Pod, since: float) -> None:
        """Tell why a pod ended, once; delete it when it has been shown for long enough."""
        name = pod.metadata.name
        if uid not in self._told:
            self._told.add(uid)
            why = describe_eviction(pod.status.reason, pod.status.message)
            await self._tell(pod.metadata.labels.get(names.APP, ""), f"instance {name}", "InstanceEvicted", why)
        if time.monotonic() - since >= self._settings.keep_failed:
            self._ended.pop(uid, None)
            with suppress(NotFound):
                await self._client.delete(f"/api/v1/namespaces/{pod.metadata.namespace}/pods/{name}", uid=uid)

    async def _tell_stopped(self, pod: Pod) -> None:
        """Tell of a running instance that somebody else deleted: a hand, or an eviction."""
        key = names.read_key(pod.metadata.labels)
        found = self._picture.find_set(key) if key else None
        workload = self._picture.find_workload(key) if key else None
        if key is None or found is None or workload is None or found.spec.replicas == 0:
            return
        if pod.metadata.name in workload.retire or pod.metadata.uid in self._applier.deleted:
            return
        message = "was told to stop from outside Seaway, by kubectl or an eviction; another takes its place"
        await self._tell(key.app, f"instance {pod.metadata.name}", "InstanceDeleted", message)

    async def _tell_refused(self, found: ReplicaSet) -> None:
        """Tell why the cluster does not take a workload's pods, such as a quota that is used up."""
        key = names.read_key(found.metadata.labels)
        for condition in found.status.conditions:
            if condition.type == "ReplicaFailure" and (why := find_refusal(found)):
                mark = f"{found.metadata.uid} {condition.reason} {condition.last_transition_time}"
                if mark not in self._told and key is not None and self._picture.is_ours(found):
                    self._told.add(mark)
                    await self._tell(key.app, f"workload {key}", "InstancesRefused", why)

    async def _forget_input(self, job: Job) -> None:
        """Delete what a one-off that has ended has read: its Job is kept for longer, to be asked how it ended."""
        secret, mark = job.metadata.annotations.get(names.TASK_INPUT), f"{job.metadata.uid} input"
        if secret and mark not in self._told and is_over(job) and self._picture.is_ours(job):
            with suppress(NotFound):
                await self._client.delete(f"/api/v1/namespaces/{job.metadata.namespace}/secrets/{secret}")
            self._told.add(mark)

    async def _restore(self, team: str) -> None:
        """Put back what of a team's fences is gone or edited, as long as the team has anything."""
        lacking = await self._list_lacking(team)
        if not lacking:
            self._whole.add(team)
        namespace = place_of(team, self._settings)
        if not any(place[0] == namespace for place in self._picture.sets.objects):
            self._preparer.forget(team)
        elif lacking:
            self._preparer.forget(team)
            await self._preparer.ensure(team)
            if team in self._whole:  # else it was only just made, or went while this process did not look
                message = f"{', '.join(lacking)} of team {team} deleted or edited by hand: put back"
                await self._tell("", f"team {team}", "PutBack", message)
        if lacking:
            self._whole.discard(team)

    async def _list_lacking(self, team: str) -> list[str]:
        lacking = []
        for wanted in make_fences(team, self._settings):
            cache = self._fences[wanted["kind"]]
            await cache.synced.wait()
            live = cache.objects.get((wanted["metadata"]["namespace"], wanted["metadata"]["name"]))
            if live is None or not is_whole(live, wanted):
                lacking.append(f"{wanted['kind']} {wanted['metadata']['name']}")
        return lacking

    async def _restore_budgets(self) -> None:
        if self._budgets is None or not self._budgets.synced.is_set():
            return
        there = self._budgets.objects.keys()
        for place, found in tuple(self._picture.sets.objects.items()):
            key = names.read_key(found.metadata.labels)
            if key is not None and self._picture.is_ours(found) and place not in there:
                await self._applier.restore_budget(key)


def _runs(pod: Pod) -> bool:
    return any(status.state.running is not None for status in pod.status.container_statuses)

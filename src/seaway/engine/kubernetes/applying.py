"""Writes workloads: a ReplicaSet with its config and disruption budget; puts back what somebody changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgspec
import structlog

from seaway.engine.base import EngineError, EngineUnavailable
from seaway.engine.kubernetes import names
from seaway.engine.kubernetes.manifests import Object, make_budget, make_config, make_notes, make_replica_set
from seaway.engine.kubernetes.objects import ReplicaSet, Secret
from seaway.engine.kubernetes.picture import Picture
from seaway.engine.kubernetes.preparing import Preparer, contains
from seaway.engine.kubernetes.reading import read_workload
from seaway.engine.kubernetes.retiring import lives, plan_retirement
from seaway.engine.kubernetes.settings import KubernetesEngineSettings
from seaway.kube.client import KubeClient
from seaway.kube.errors import AlreadyExists, Conflict, NotFound
from seaway.model import Workload, WorkloadKey

Tell = Callable[[str, str, str, str], Awaitable[None]]
"""Records what happened: app ("" for a team's or the cluster's), about, reason (one CamelCase word), message."""

MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
AS_SEAWAY = {"fieldManager": names.MANAGER}
VANISHED = 120.0  # seconds: what went by itself and is wanted again so soon was deleted by somebody

log = structlog.get_logger(__name__)

_set = msgspec.json.Decoder(ReplicaSet)
_secret = msgspec.json.Decoder(Secret)


class Applier:
    """Applies and removes workloads, one call at a time for each."""

    def __init__(
        self,
        client: KubeClient,
        settings: KubernetesEngineSettings,
        picture: Picture,
        preparer: Preparer,
        tell: Tell,
    ) -> None:
        self.budgets = ""  # API version of PodDisruptionBudget that the cluster serves, if any
        self.deleted: dict[str, float] = {}  # uids of pods deleted here, and when
        self._client, self._settings, self._picture = client, settings, picture
        self._preparer, self._tell = preparer, tell
        self._locks: dict[WorkloadKey, asyncio.Lock] = {}
        self._gone: dict[WorkloadKey, float] = {}  # ReplicaSets that went without our doing

    def note_gone(self, key: WorkloadKey) -> None:
        """A ReplicaSet is gone that nobody here deleted."""
        now = time.monotonic()
        self._gone = {k: at for k, at in self._gone.items() if now - at < VANISHED} | {key: now}

    async def apply(self, workload: Workload) -> None:
        """See Engine.apply."""
        key = workload.key
        async with self._locks.setdefault(key, asyncio.Lock()):
            self._picture.check()
            await self._preparer.ensure(workload.team)
            found = self._picture.find_set(key)
            if found is None:
                found = await self._create(workload)
            if found is not None:
                await self._update(workload, found)

    async def remove(self, key: WorkloadKey) -> None:
        """See Engine.remove."""
        async with self._locks.setdefault(key, asyncio.Lock()):
            self._picture.check()
            found = self._picture.find_set(key)
            if found is not None:
                self._picture.note_removed(found)  # before the watch brings it: it is our doing
                try:
                    with suppress(NotFound, Conflict):  # gone, or another one by now
                        await self._client.delete(_path("/apis/apps/v1", found, "replicasets"), uid=found.metadata.uid)
                except BaseException:
                    self._picture.note_kept(found)
                    raise
                await self._remove_unowned_config(found)
        self._locks.pop(key, None)

    async def _create(self, workload: Workload) -> ReplicaSet | None:
        """Make everything; return a ReplicaSet that was there already, which has to be brought in line."""
        config = await self._ensure_config(workload)
        pods = self._picture.find_pods(workload.key)
        left = sum(lives(pod) and not pod.metadata.owner_references for pod in pods)  # of one that was deleted alone
        noted = workload.model_copy(update={"retire": ()}) if left else workload  # retired by the next call
        manifest = make_replica_set(noted, self._settings, max(workload.count, left), written=1)
        try:
            answer = await self._post(manifest, workload.team)
        except AlreadyExists:
            path = self._client.path_of(manifest)
            return _set.decode(await self._client.request("GET", path))
        made = _set.decode(answer)
        self._picture.note_set(made)
        config = config or self._find_config(made)
        if config is not None and made.metadata.uid not in (o.uid for o in config.metadata.owner_references):
            await self._own(config, made)
        await self._ensure_budget(workload, made)
        if time.monotonic() - self._gone.pop(workload.key, float("-inf")) < VANISHED:
            await self._say(workload, "DeletedByHand", f"ReplicaSet {made.metadata.name} was deleted by hand: put back")
        return None

    async def _update(self, workload: Workload, found: ReplicaSet) -> None:
        if found.metadata.deletion_timestamp is not None:
            raise _deleted(found)
        notes = found.metadata.annotations
        edited = notes.get(names.WRITTEN) != str(found.metadata.generation)
        edited |= not contains(found.metadata.labels, names.workload_labels(workload))
        edited |= read_workload(found, None) is None
        wanted_notes = make_notes(workload, found.metadata.generation)
        config = await self._ensure_config(workload)
        if config is not None:
            await self._own(config, found)
            if notes.get(names.CONFIG) == config.metadata.name:
                await self._say(
                    workload, "DeletedByHand", f"Secret {config.metadata.name} was deleted by hand: put back"
                )
        retirement = plan_retirement(
            self._picture.find_pods(workload.key), found.metadata.uid, workload.retire, workload.count,
            found.spec.replicas,
        )  # fmt: skip
        for pod in retirement.delete:
            self.deleted[pod.metadata.uid] = time.monotonic()
            with suppress(NotFound, Conflict):
                await self._client.delete(_path("/api/v1", pod, "pods"), uid=pod.metadata.uid)
        if edited or notes.get(names.CONFIG) != wanted_notes[names.CONFIG]:
            await self._put_back(workload, found, retirement.replicas)
        else:
            await self._patch(workload, found, retirement.replicas)

    async def _patch(self, workload: Workload, found: ReplicaSet, replicas: int) -> None:
        """Change the count and the notes, if they differ."""
        changed = replicas != found.spec.replicas
        notes = make_notes(workload, found.metadata.generation + changed)
        if not changed and all(found.metadata.annotations.get(name) == text for name, text in notes.items()):
            return
        body: dict[str, Any] = {"metadata": {"annotations": notes, "uid": found.metadata.uid}}
        if changed:
            body["spec"] = {"replicas": replicas}
        path = _path("/apis/apps/v1", found, "replicasets")
        try:
            answer = await self._client.request("PATCH", path, body=body, params=AS_SEAWAY, content_type=MERGE)
        except NotFound:
            raise _deleted(found) from None
        self._picture.note_set(_set.decode(answer))

    async def _put_back(self, workload: Workload, found: ReplicaSet, replicas: int) -> None:
        """Replace a ReplicaSet that somebody edited. Pods of a changed template stay: the control loop sees to them."""
        path = _path("/apis/apps/v1", found, "replicasets")
        manifest = make_replica_set(workload, self._settings, replicas, written=found.metadata.generation + 1)
        manifest["metadata"] |= {"resourceVersion": found.metadata.resource_version, "uid": found.metadata.uid}
        try:
            try:
                answer = await self._client.request("PUT", path, body=manifest, params=AS_SEAWAY)
            except Conflict:  # its controller writes the status all the time: once more if that was all
                fresh = _set.decode(await self._client.request("GET", path))
                if fresh.metadata.uid != found.metadata.uid or fresh.metadata.generation != found.metadata.generation:
                    raise
                manifest["metadata"]["resourceVersion"] = fresh.metadata.resource_version
                answer = await self._client.request("PUT", path, body=manifest, params=AS_SEAWAY)
        except NotFound:
            raise _deleted(found) from None
        written = _set.decode(answer)
        if written.metadata.annotations[names.WRITTEN] != str(written.metadata.generation):
            notes = {"metadata": {"annotations": {names.WRITTEN: str(written.metadata.generation)}}}
            written = _set.decode(
                await self._client.request("PATCH", path, body=notes, params=AS_SEAWAY, content_type=MERGE)
            )
        self._picture.note_set(written)
        await self._say(workload, "EditedByHand", f"ReplicaSet {found.metadata.name} was edited by hand: put back")

    async def _ensure_config(self, workload: Workload) -> Secret | None:
        """Return the Secret with the config if it had to be made."""
        manifest = make_config(workload, self._settings)
        if manifest is None:
            return None
        place = (manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        if place in self._picture.secrets.objects:
            return None
        try:
            made = _secret.decode(await self._post(manifest, workload.team))
        except AlreadyExists:
            made = _secret.decode(await self._client.request("GET", self._client.path_of(manifest)))
            if made.data != manifest["data"]:
                await self._client.delete(self._client.path_of(manifest), uid=made.metadata.uid)
                made = _secret.decode(await self._post(manifest, workload.team))
        self._picture.note_secret(made)
        return made

    async def _ensure_budget(self, workload: Workload, owner: ReplicaSet) -> None:
        if not self.budgets:
            return
        manifest = make_budget(workload, self._settings, self.budgets)
        manifest["metadata"]["ownerReferences"] = [owner_of(owner, "ReplicaSet", "apps/v1")]
        params = AS_SEAWAY | {"force": "true"}
        path = _path(f"/apis/{self.budgets}", owner, "poddisruptionbudgets")  # of a version that lightkube lacks
        await self._client.request("PATCH", path, body=manifest, params=params, content_type=APPLY)

    async def restore_budget(self, key: WorkloadKey) -> None:
        """Make a disruption budget anew that somebody deleted or edited."""
        found, workload = self._picture.find_set(key), self._picture.find_workload(key)
        if found is not None and workload is not None:
            await self._ensure_budget(workload, found)

    async def _own(self, secret: Secret, owner: ReplicaSet) -> None:
        """Let the Secret go with the ReplicaSet."""
        await own(self._client, secret, owner_of(owner, "ReplicaSet", "apps/v1"))

    async def _remove_unowned_config(self, found: ReplicaSet) -> None:
        """Remove a Secret whose writer died before it could own it."""
        secret = self._find_config(found)
        if secret is not None and not secret.metadata.owner_references:
            with suppress(NotFound):
                await self._client.delete(_path("/api/v1", secret, "secrets"))

    def _find_config(self, found: ReplicaSet) -> Secret | None:
        name = found.metadata.annotations.get(names.CONFIG, "")
        return self._picture.secrets.objects.get((found.metadata.namespace, name))

    async def _post(self, manifest: Object, team: str) -> bytes:
        """Create an object; a namespace that is gone is made again by the next call."""
        try:
            return await self._client.request(
                "POST", self._client.path_of(manifest, named=False), body=manifest, params=AS_SEAWAY
            )
        except NotFound as error:
            self._preparer.forget(team)
            raise EngineUnavailable(f"the namespace of team {team} is gone; it is made again ({error})") from error

    async def _say(self, workload: Workload, reason: str, message: str) -> None:
        log.warning("put back", workload=str(workload.key), message=message)
        await self._tell(workload.key.app, f"workload {workload.key}", reason, message)


async def own(client: KubeClient, secret: Secret, owner: Object) -> None:
    """Make an object the owner of a Secret, so that the cluster removes the Secret with it."""
    body = {"metadata": {"ownerReferences": [owner]}}
    try:
        await client.request(
            "PATCH", _path("/api/v1", secret, "secrets"), body=body, params=AS_SEAWAY, content_type=MERGE
        )
    except NotFound:
        raise EngineError(f"Secret {secret.metadata.name} was deleted as soon as it was made") from None


def owner_of(item: Any, kind: str, version: str) -> Object:
    """Return an owner reference to an object."""
    metadata = item.metadata
    return {"apiVersion": version, "kind": kind, "name": metadata.name, "uid": metadata.uid, "controller": True}


def _path(group: str, item: Any, plural: str) -> str:
    return f"{group}/namespaces/{item.metadata.namespace}/{plural}/{item.metadata.name}"


def _deleted(found: ReplicaSet) -> EngineUnavailable:
    return EngineUnavailable(f"ReplicaSet {found.metadata.name} is being deleted; it is made again once it is gone")

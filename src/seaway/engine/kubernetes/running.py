"""One-offs as Jobs: started once by their id, removed with what they run.

What a command reads comes after its Job, which owns it from the start: no crash leaves it behind, and until it is
there the pod waits for it. If it cannot be written the Job is removed again.
"""

from __future__ import annotations

from contextlib import suppress
from secrets import token_hex

import msgspec

from seaway.engine.base import EngineUnavailable
from seaway.engine.kubernetes import names
from seaway.engine.kubernetes.applying import AS_SEAWAY, own, owner_of
from seaway.engine.kubernetes.manifests import Object, make_job, make_task_config, make_task_input
from seaway.engine.kubernetes.objects import Job, Secret
from seaway.engine.kubernetes.picture import Picture
from seaway.engine.kubernetes.preparing import Preparer
from seaway.engine.kubernetes.settings import KubernetesEngineSettings
from seaway.engine.kubernetes.tasks import is_over
from seaway.kube.client import KubeClient
from seaway.kube.errors import AlreadyExists, Conflict, KubeError, NotFound
from seaway.model import Task

_job = msgspec.json.Decoder(Job)
_secret = msgspec.json.Decoder(Secret)


class _Jobs(msgspec.Struct):
    items: tuple[Job, ...] = ()


class TaskStarter:
    """Starts and removes one-offs."""

    def __init__(
        self, client: KubeClient, settings: KubernetesEngineSettings, picture: Picture, preparer: Preparer
    ) -> None:
        self._client, self._settings = client, settings
        self._picture, self._preparer = picture, preparer

    async def start(self, task: Task) -> None:
        """See Engine.start_task."""
        self._picture.check()
        job = self._picture.find_job(task.id)
        if job is None:
            await self._create(task)
        else:
            await self._give_input(task, job)

    async def _create(self, task: Task) -> None:
        """Make the Job with its config and input; one that was there already is only given its input."""
        await self._preparer.ensure(task.team)
        manifest = make_task_config(task, self._settings)
        secret: Secret | None = None
        if manifest is not None:
            path = self._client.path_of(manifest, named=False)
            with suppress(AlreadyExists):  # of an earlier try
                secret = _secret.decode(await self._client.request("POST", path, body=manifest, params=AS_SEAWAY))
        job = make_job(task, self._settings, token_hex(4))
        try:
            made = _job.decode(
                await self._client.request("POST", self._client.path_of(job, named=False), body=job, params=AS_SEAWAY)
            )
        except AlreadyExists:
            if task.stdin is not None:
                await self._give_input(task, await self._look_up(job))
            return
        self._picture.note_job(made)
        try:
            if secret is not None:
                await own(self._client, secret, owner_of(made, "Job", "batch/v1"))
            await self._give_input(task, made)
        except BaseException:  # a caller that went away included: nobody would ever give it
            if task.stdin is not None:
                with suppress(KubeError):
                    await self._remove(made)
            raise

    async def _look_up(self, manifest: Object) -> Job:
        """Return a Job that the watch has not brought yet."""
        selector = {"fieldSelector": f"metadata.name={manifest['metadata']['name']}"}
        found = await self._client.fetch(_Jobs, self._client.path_of(manifest, named=False), params=selector)
        if not found.items:
            raise EngineUnavailable(f"Job {manifest['metadata']['name']} was there and is gone; try again")
        return found.items[0]

    async def _give_input(self, task: Task, job: Job) -> None:
        """Write what the command reads, if the Job is one that waits for it."""
        name = job.metadata.annotations.get(names.TASK_INPUT)
        if task.stdin is None or name is None or is_over(job):
            return
        manifest = make_task_input(task, name, self._settings, owner_of(job, "Job", "batch/v1"))
        path = self._client.path_of(manifest, named=False)
        with suppress(AlreadyExists):  # of an earlier try
            await self._client.request("POST", path, body=manifest, params=AS_SEAWAY)

    async def remove(self, task_id: str) -> None:
        """See Engine.remove_task."""
        self._picture.check()
        job = self._picture.find_job(task_id)
        if job is not None:
            await self._remove(job)

    async def _remove(self, job: Job) -> None:
        path = f"/apis/batch/v1/namespaces/{job.metadata.namespace}/jobs/{job.metadata.name}"
        with suppress(NotFound, Conflict):
            await self._client.delete(path, uid=job.metadata.uid)
        self._picture.note_job_removed(job)

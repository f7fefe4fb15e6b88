"""BuildahJobs: has Dockerfiles built by Jobs of the cluster; their output streams into the build's log."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import structlog

from seaway.builder.base import BuildError
from seaway.builder.buildah import Wanted
from seaway.builder.dockerfile import explain_buildah
from seaway.builder.job_manifest import COMPONENT, CONTAINER, JobOrder, JobSettings, make_job
from seaway.builder.running import Journal, finish
from seaway.builder.source import pack
from seaway.builder.stores import SourceStore
from seaway.kube.client import KubeClient
from seaway.kube.errors import KubeError, NotFound

log = structlog.get_logger()

LOOK_EVERY = 0.5  # seconds between looks at the pod
HOPELESS = frozenset({"InvalidImageName", "ImagePullBackOff", "CreateContainerConfigError", "CreateContainerError"})
EXTRA = 30.0  # seconds that the Job may take longer than the build: its own deadline should say so first
KEPT_LINES = 200


class _Terminated(msgspec.Struct, rename="camel"):
    exit_code: int = 0
    message: str = ""
    reason: str = ""


class _Waiting(msgspec.Struct):
    reason: str = ""
    message: str = ""


class _State(msgspec.Struct):
    waiting: _Waiting | None = None
    running: dict[str, Any] | None = None
    terminated: _Terminated | None = None


class _Container(msgspec.Struct):
    name: str
    state: _State = msgspec.field(default_factory=_State)


class _Condition(msgspec.Struct):
    type: str
    status: str
    reason: str = ""
    message: str = ""


class _PodStatus(msgspec.Struct, rename="camel"):
    phase: str = ""
    reason: str = ""
    conditions: list[_Condition] = []
    init_container_statuses: list[_Container] = []
    container_statuses: list[_Container] = []


class _Meta(msgspec.Struct):
    name: str


class _Pod(msgspec.Struct):
    metadata: _Meta
    status: _PodStatus = msgspec.field(default_factory=_PodStatus)


class _Pods(msgspec.Struct):
    items: list[_Pod] = []


class _JobStatus(msgspec.Struct):
    conditions: list[_Condition] = []


class _Job(msgspec.Struct):
    status: _JobStatus = msgspec.field(default_factory=_JobStatus)


class BuildahJobs:
    """Builds Dockerfiles in the cluster; implements buildah.DockerfileBuilder."""

    def __init__(self, client: KubeClient, settings: JobSettings, sources: SourceStore) -> None:
        self._client = client
        self._settings = settings
        self._sources = sources
        self._jobs = f"/apis/batch/v1/namespaces/{settings.namespace}/jobs"
        self._pods = f"/api/v1/namespaces/{settings.namespace}/pods"

    async def build(self, wanted: Wanted, journal: Journal) -> dict[str, Any]:
        """See buildah.DockerfileBuilder. The Job is deleted however this ends."""
        app = wanted.repository.path.rpartition("/")[2]
        order = JobOrder(
            name=f"build-{app}-{secrets.token_hex(4)}",
            app=app,
            repository=wanted.repository.repository,
            host=wanted.repository.host,
            source=await self._find_source(wanted),
            dockerfile=wanted.dockerfile,
            timeout=wanted.timeout,
        )
        try:
            async with asyncio.timeout(wanted.timeout + EXTRA):
                await self._client.create(make_job(self._settings, order))
                journal.step(f"Building in the cluster (job {order.name})")
                return {"digest": await self._follow(order.name, journal)}
        except KubeError as error:
            raise BuildError(f"the cluster does not build it: {error}") from error
        except TimeoutError:
            raise BuildError(
                f"{wanted.dockerfile}: took longer than {wanted.timeout:g} s: raise build.timeout"
            ) from None
        finally:
            await finish(self._delete(order.name))

    async def clean_leftovers(self) -> int:
        """Delete Jobs of builds whose control plane died; return how many. Call when this replica begins to lead."""
        selector = {"labelSelector": f"app.kubernetes.io/component={COMPONENT}"}
        found = await self._client.fetch(_Pods, self._jobs, selector)  # of a Job, too, only the name counts
        for job in found.items:
            await self._delete(job.metadata.name)
        return len(found.items)

    async def _find_source(self, wanted: Wanted) -> str:
        """Return the digest of the source in the store; what came from git is put there first."""
        if wanted.source.archive is not None:
            return wanted.source.archive.removeprefix("sha256:")
        with TemporaryDirectory(prefix="pack-", dir=wanted.root.parent) as folder:
            archive = Path(folder, "source.tar.gz")
            packed = await asyncio.to_thread(pack, wanted.root, archive)
            await self._sources.put(archive, packed.sha256)
            return packed.sha256

    async def _follow(self, job: str, journal: Journal) -> str:
        pod = await self._wait_started(job)
        lines: list[str] = []
        with suppress(KubeError):  # what matters is how it ended
            async for line in self._read_log(pod.metadata.name):
                journal.line(line)
                lines = [*lines, line][-KEPT_LINES:]
        ended = await self._wait_ended(job)
        if ended.exit_code != 0:
            raise BuildError(explain_buildah(lines))
        return ended.message.strip()

    async def _wait_started(self, job: str) -> _Pod:
        """Return the pod once its build container has begun."""
        hopeless_since: float | None = None
        while True:
            pod = await self._find_pod(job)
            if pod is not None:
                if (state := _find_state(pod.status.container_statuses)) and (state.running or state.terminated):
                    return pod
                _check_first(pod)
                waiting = _find_waiting(pod)
                now = time.monotonic()
                hopeless_since = (hopeless_since or now) if waiting else None
                if waiting and hopeless_since is not None and now - hopeless_since > 10 * LOOK_EVERY:
                    raise BuildError(f"the build cannot start: {waiting.reason}: {waiting.message}")
            await asyncio.sleep(LOOK_EVERY)

    async def _wait_ended(self, job: str) -> _Terminated:
        while True:
            pod = await self._find_pod(job)
            if pod is None:
                raise BuildError("the build's pod was deleted from outside: deploy again")
            state = _find_state(pod.status.container_statuses)
            if state is not None and state.terminated is not None:
                return state.terminated
            await asyncio.sleep(LOOK_EVERY)

    async def _find_pod(self, job: str) -> _Pod | None:
        """Return the Job's pod, if there is one yet. Raises BuildError once the Job has failed without one."""
        pods = (await self._client.fetch(_Pods, self._pods, {"labelSelector": f"job-name={job}"})).items
        if pods:
            return pods[0]
        status = (await self._client.fetch(_Job, f"{self._jobs}/{job}")).status
        for condition in status.conditions:
            if condition.type == "Failed" and condition.status == "True":
                raise BuildError(f"the build ended: {condition.message or condition.reason}: raise build.timeout?")
        return None

    async def _read_log(self, pod: str) -> AsyncIterator[str]:
        rest = b""
        async with self._client.stream(f"{self._pods}/{pod}/log", {"container": CONTAINER, "follow": "true"}) as chunks:
            async for chunk in chunks:
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line.decode(errors="replace").rstrip("\r")
        if rest:
            yield rest.decode(errors="replace")

    async def _delete(self, job: str) -> None:
        try:
            await self._client.delete(f"{self._jobs}/{job}", grace=0)
        except NotFound:
            return
        except KubeError as error:
            log.warning("a build's Job is left to its deadline", job=job, error=str(error))


def _find_state(statuses: list[_Container]) -> _State | None:
    return next((status.state for status in statuses if status.name == CONTAINER), None)


def _check_first(pod: _Pod) -> None:
    """Raise BuildError if the container that fetches the source has failed."""
    for status in pod.status.init_container_statuses:
        ended = status.state.terminated
        if ended is not None and ended.exit_code != 0:
            raise BuildError(
                ended.message.strip().rpartition("\n")[2] or f"the source was not fetched ({ended.reason})"
            )


def _find_waiting(pod: _Pod) -> _Waiting | None:
    """Return why the pod will not start, if that is how it looks."""
    for status in (*pod.status.init_container_statuses, *pod.status.container_statuses):
        if status.state.waiting is not None and status.state.waiting.reason in HOPELESS:
            return status.state.waiting
    for condition in pod.status.conditions:
        if condition.type == "PodScheduled" and condition.status == "False" and condition.reason == "Unschedulable":
            return _Waiting("no node has room", condition.message)
    return None

"""The streams of one-offs, as StreamControl has them: who leads holds each that somebody asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

import structlog
from pydantic import ValidationError

from seaway.engine.base import EngineError, EngineUnavailable, Output, StreamsGone
from seaway.engine.kubernetes import names
from seaway.engine.kubernetes.applying import AS_SEAWAY, MERGE, Tell
from seaway.engine.kubernetes.attached import FED, OPENED, Attached
from seaway.engine.kubernetes.errors import engine_errors
from seaway.engine.kubernetes.objects import Job
from seaway.engine.kubernetes.picture import Picture
from seaway.engine.kubernetes.running import TaskStarter
from seaway.kube import attaching
from seaway.kube.attaching import attach, make_mark, make_token
from seaway.kube.client import KubeClient
from seaway.kube.errors import KubeError
from seaway.kube.structs import Metadata
from seaway.model import Offsets, Streams, TaskState, Terminal

log = structlog.get_logger()

LATE = 10.0  # seconds after a command's end in which the rest of its output has to come
AGAIN = 0.2  # seconds until a log is read again that has not got to its end
LOOK = 2.0  # seconds between looks whether this replica still leads
KEPT = 60.0  # seconds for which that stays, in case it did not arrive
CUT = "Was killed: its connection with what it reads broke, and nobody knows what it has of that. Run it again."


@dataclass
class _Held:
    attached: Attached
    work: asyncio.Task[None]
    late: asyncio.TimerHandle | None = None


class StreamHolder:
    """Holds streams from when somebody first asks for them until their one-off is forgotten."""

    def __init__(
        self, client: KubeClient, picture: Picture, tasks: TaskStarter, tell: Tell, acts: Callable[[], bool]
    ) -> None:
        """`acts`: whether this replica leads; one that does not any more would only be in the way."""
        self._client, self._picture, self._tasks, self._tell, self._acts = client, picture, tasks, tell, acts
        self._held: dict[str, _Held] = {}
        picture.finish = self.finish

    async def close(self) -> None:
        """Let go of everything; commands go on, and wait where they need somebody."""
        held, self._held = list(self._held.values()), {}
        for one in held:
            one.work.cancel()
        await asyncio.gather(*(one.work for one in held), return_exceptions=True)

    async def read(self, task_id: str, begin: Offsets) -> AsyncGenerator[Output, None]:
        """See StreamControl.read_output."""
        async with aclosing(self._find(task_id).read(begin)) as outputs:
            async for output in outputs:
                yield output

    async def write(self, task_id: str, offset: int, data: bytes, *, end: bool) -> None:
        """See StreamControl.write_input."""
        await self._find(task_id).write(offset, data, end=end)

    async def resize(self, task_id: str, terminal: Terminal) -> None:
        """See StreamControl.resize."""
        self._find(task_id).resize(terminal)

    def finish(self, task_id: str, state: TaskState | None) -> TaskState | None:
        """Return a one-off's state as those have it who read its output: it is not done before that came."""
        held = self._held.get(task_id)
        if held is None or (state is not None and not state.done):
            return state
        if state is None:
            if not held.attached.is_cut:  # or whoever ends it has yet to tell that
                del self._held[task_id]
                held.work.cancel()
            return None
        if held.attached.over:
            held.attached.ended = True
            if held.late is not None:
                held.late.cancel()
            return state.model_copy(update={"output_ends": held.attached.ends})
        if held.late is None:
            held.late = asyncio.get_running_loop().call_later(LATE, held.work.cancel)
        return state.model_copy(update={"done": False, "reason": "has ended; its output is on its way"})

    def _find(self, task_id: str) -> Attached:
        """Return who holds a command's streams, from now on if need be. StreamsGone, EngineUnavailable."""
        self._picture.check()
        held = self._held.get(task_id)
        if held is not None:
            return held.attached
        job, state = self._picture.find_job(task_id), self._picture.find_task(task_id)
        if job is None or state is None or state.done:
            raise StreamsGone("the command has ended, and nobody held what it wrote")
        notes = job.metadata.annotations
        try:
            streams = Streams.model_validate_json(notes.get(names.TASK_STREAMS, ""))
        except ValidationError as error:
            raise StreamsGone("the command has no streams") from error
        pod = self._picture.find_pod_of(job)
        if pod is None or state.started_at is None:
            raise EngineUnavailable("the command does not run yet; try again")
        far, token = notes.get(names.TASK_STREAMED), make_token(job.metadata.uid)
        attached = Attached(
            streams,
            token,
            partial(
                attach, self._client, pod.metadata.namespace, pod.metadata.name, names.CONTAINER,
                terminal=streams.terminal is not None,
            ),
            partial(self._note, job),
            partial(self._count, pod.metadata, token),
            opened=far in (OPENED, FED),
            fed=far == FED,
        )  # fmt: skip
        self._held[task_id] = _Held(attached, asyncio.create_task(self._work(task_id, job, attached)))
        return attached

    async def _work(self, task_id: str, job: Job, attached: Attached) -> None:
        running = asyncio.create_task(attached.run())
        try:
            while not running.done():
                await asyncio.wait({running}, timeout=LOOK)
                if not self._acts():
                    self._held.pop(task_id, None)
                    return
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            if task_id in self._held:
                self._picture.renew_job(job)
        if attached.is_cut:
            await self._kill(task_id, job)
            self._held.pop(task_id, None)
            return
        await asyncio.sleep(KEPT)
        attached.forget()

    async def _note(self, job: Job, far: str) -> None:
        """Write down how far a command's streams are, for the replica that leads next. KubeError."""
        path = f"/apis/batch/v1/namespaces/{job.metadata.namespace}/jobs/{job.metadata.name}"
        body = {"metadata": {"uid": job.metadata.uid, "annotations": {names.TASK_STREAMED: far}}}
        await self._client.request("PATCH", path, body=body, params=AS_SEAWAY, content_type=MERGE)

    async def _count(self, pod: Metadata, token: str) -> int | None:
        """Return how many bytes are in the log of a command that has ended; None if that cannot be read in time.

        It says nothing of streams, and its beginning may have been rotated away.
        """
        path, mark = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}/log", make_mark(token)
        try:
            async with asyncio.timeout(LATE):
                while True:
                    size, marks, rest = 0, 0, b""
                    async with self._client.stream(path, {"container": names.CONTAINER}) as chunks:
                        async for chunk in chunks:
                            size += len(chunk)
                            rest += chunk
                            marks += rest.count(mark)
                            rest = rest[max(0, rest.rfind(b"\n") + 1) :]
                    if marks >= len((attaching.STDOUT, attaching.STDERR)):
                        return size - marks * len(mark)
                    await asyncio.sleep(AGAIN)
        except (KubeError, TimeoutError) as error:
            log.info("the log of a command could not be counted", pod=pod.name, error=str(error))
            return None

    async def _kill(self, task_id: str, job: Job) -> None:
        """End a command that waits for input which cannot come."""
        while self._acts():
            try:
                with engine_errors():
                    await self._tasks.remove(task_id)
            except EngineError as error:
                log.warning("a command that is cut off from its input could not be ended yet", error=str(error))
                await asyncio.sleep(LOOK)
                continue
            await self._tell(job.metadata.labels.get(names.APP, ""), f"task {task_id}", "TaskKilled", CUT)
            return

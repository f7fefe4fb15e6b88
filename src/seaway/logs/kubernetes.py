"""Reads the logs of apps in a cluster: of every pod there is, what runs and what ran before it, merged by time.

Kubelets keep the output of a container and of the one before it; what is older, or was rotated away, is gone, and a
line says so where that shows. Kubernetes tells neither stream nor offset: `stream` is "output", and there is no
`log.offset`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec

from seaway.kube.attaching import MARK
from seaway.kube.client import KubeClient
from seaway.kube.errors import Gone, Invalid, KubeError, NotFound
from seaway.kube.labels import APP, CONTAINER, PROCESS, RELEASE, SELECTOR, TASK_ID, TASK_TERMINAL, TEAM
from seaway.kube.listing import Resource, list_objects
from seaway.kube.structs import Metadata, Object
from seaway.kube.watching import watch_objects
from seaway.logs.base import LogLine, LogQuery
from seaway.logs.shape import Labels, make_line, make_note, split_lines

STREAM = "output"
MARKS = 2  # lines of a pod that are none of its command's, for each stream the mark at its end
ALL = 20_000  # lines of one container that are read at most where all are asked for
READ_LIMIT = 10.0  # seconds for the lines that one container has
HOLD = 0.1  # seconds in which new lines of several pods are collected and put in order
AGAIN = 0.5  # seconds until a stream that broke is opened again
LAST_WORDS = 5.0  # seconds in which the rest of a pod that is gone is read
REMEMBERED = 2000  # lines of one pod, before those older than some seconds are forgotten
STREAMS = 100  # pods that are followed at the same time, over all readers
WAITING = 1000  # lines that wait for a slow reader; then the kubelets wait


class _Ended(msgspec.Struct, frozen=True, gc=False):
    """Nothing of it is used but that it is there."""


class _State(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    running: dict[str, str] | None = None
    terminated: _Ended | None = None


class _Container(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    restart_count: int = 0
    state: _State = _State()


class _Spec(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    node_name: str = ""


class _Status(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    container_statuses: tuple[_Container, ...] = ()


class LogPod(Object, frozen=True, gc=False, rename="camel"):
    """A pod as far as its logs are concerned."""

    metadata: Metadata
    spec: _Spec = _Spec()
    status: _Status = _Status()

    @property
    def run(self) -> int:
        """How often its container was started again."""
        return self.status.container_statuses[0].restart_count if self.status.container_statuses else 0

    @property
    def begun(self) -> bool:
        """Whether that run has begun, so that it has a log."""
        state = self.status.container_statuses[0].state if self.status.container_statuses else _State()
        return state.running is not None or state.terminated is not None

    @property
    def labels(self) -> Labels:
        """Who writes its lines."""
        found = self.metadata.labels
        release = found.get(RELEASE, "0")
        return Labels(
            app=found.get(APP, ""),
            team=found.get(TEAM, ""),
            release=int(release) if release.isdigit() else 0,
            process=found.get(PROCESS, ""),
            instance=self.metadata.annotations.get(TASK_ID, self.metadata.name),
            node=self.spec.node_name,
        )


STAMP = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+(Z|[+-]\d\d:\d\d)")

Stamped = tuple[str, LogLine]
"""When the line was written, to the nanosecond as Kubernetes writes it, and the line."""


class KubernetesLogReader:
    """LogReader over the API server; with connections of its own, as each followed pod takes one."""

    def __init__(self, client: KubeClient, namespace_prefix: str = "seaway-") -> None:
        self._client = KubeClient(client.config)
        self._prefix = namespace_prefix
        self._streams = asyncio.Semaphore(STREAMS)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def read(self, query: LogQuery) -> AsyncIterator[LogLine]:
        """Yield lines oldest first; with `follow` then new ones, for ever."""
        resource = self._resource(query)
        listed = await list_objects(self._client, resource)
        pods = [pod for pod in listed.items if self._is_asked_for(pod, query)]
        count = ALL if query.tail is None else query.tail
        sources = [_Source(self._client, pod) for pod in pods]
        read = await asyncio.gather(*(self._read_pod(source, count) for source in sources))
        found = [line for lines in read for line in lines]
        found.sort(key=_when)
        for _, line in found[max(0, len(found) - count) :] if query.tail is not None else found:
            yield line
        if query.follow:
            following = _Following(self._client, self._streams, resource, lambda pod: self._is_asked_for(pod, query))
            async with aclosing(following.run(sources, listed.revision)) as lines:
                async for line in lines:
                    yield line

    def _resource(self, query: LogQuery) -> Resource[LogPod]:
        selectors = [SELECTOR, f"{APP}={query.app}"]
        if query.process is not None:
            selectors.append(f"{PROCESS}={query.process}")
        if query.release is not None:
            selectors.append(f"{RELEASE}={query.release}")
        return Resource("/api/v1/pods", LogPod, {"labelSelector": ",".join(selectors)})

    def _is_asked_for(self, pod: LogPod, query: LogQuery) -> bool:
        ours = pod.metadata.namespace.startswith(self._prefix)
        has_terminal = TASK_TERMINAL in pod.metadata.annotations  # unreadable there, and what was typed is in it
        return ours and not has_terminal and query.instance in (None, pod.labels.instance)

    async def _read_pod(self, source: _Source, count: int) -> list[Stamped]:
        """Return the last `count` lines of a pod: of its container, and of the one before it."""
        found: list[Stamped] = []
        if source.pod.run > 0:
            found += await self._read_run(source, max(1, count), previous=True)
        if source.pod.begun:
            found += await self._read_run(source, max(1, count), previous=False)
        source.floor = min((when for when, _ in found), default="")
        return found[-count:] if count else []

    async def _read_run(self, source: _Source, count: int, *, previous: bool) -> list[Stamped]:
        pod = source.pod
        try:
            async with asyncio.timeout(READ_LIMIT), self._streams:
                found = [line async for line in source.read(tail=count + MARKS, previous=previous)]
        except (NotFound, Invalid):  # gone meanwhile, or its log was cleared away
            return []
        except (KubeError, TimeoutError):
            why = (
                f"the output of {pod.labels.instance} cannot be read now: its node {pod.spec.node_name} does not answer"
            )
            return [make_remark(pod, why)]
        if len(found) >= ALL:
            found.insert(0, make_remark(pod, "older lines are not shown", found[0][0]))
        return found


def _when(line: Stamped) -> str:
    return line[0]


def make_remark(pod: LogPod, message: str, when: str = "") -> Stamped:
    """Return a line of Seaway's own: something of this pod is missing here."""
    now = when or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    line: LogLine = json.loads(
        make_note(f"seaway: {message}", pod.labels, STREAM, offset=0, length=0, now=_micro(now), lost=0)
    )
    for name in ("log.offset", "log.length", "event.lost"):
        line.pop(name, None)  # how much it is nobody knows
    return now, line


def _micro(when: str) -> str:
    """Cut nanoseconds to microseconds."""
    head, dot, rest = when.partition(".")
    return f"{head}.{rest.rstrip('Z')[:6]}Z" if dot else when


@dataclass
class _Source:
    """The log of one pod, read in pieces without repeating a line.

    A log is not quite in the order of its times: stdout and stderr are stamped apart. So lines of the last seconds are
    remembered, and a stream that is opened again begins a little before the last one.
    """

    client: KubeClient
    pod: LogPod
    floor: str = ""  # nothing older than this is shown
    reached: str = ""  # the latest time that was read
    recent: set[tuple[str, bytes]] = field(default_factory=set)
    _full: int = REMEMBERED

    async def read(
        self, *, tail: int | None = None, previous: bool = False, follow: bool = False
    ) -> AsyncGenerator[Stamped, None]:
        """Yield lines until the container ends (with `follow`) or all have been read."""
        path = f"/api/v1/namespaces/{self.pod.metadata.namespace}/pods/{self.pod.metadata.name}/log"
        params = {"container": CONTAINER, "timestamps": "true"}
        params |= {"tailLines": str(tail)} if tail is not None else {}
        params |= {"previous": "true"} if previous else {}
        params |= {"follow": "true"} if follow else {}
        params |= {"sinceTime": _before(self.reached, 1)} if self.reached and tail is None else {}
        rest = b""
        async with self.client.stream(path, params) as chunks:
            async for chunk in chunks:
                *lines, rest = (rest + chunk).split(b"\n")
                for raw in lines:
                    for line in self._shape(raw):
                        yield line
            for line in self._shape(rest):
                yield line

    def _shape(self, raw: bytes) -> Iterable[Stamped]:
        stamp, space, text = raw.partition(b" ")
        when = stamp.decode(errors="replace")
        if not space or not STAMP.fullmatch(when):
            return  # a kubelet's own remark, such as "unable to retrieve container logs"
        if when < self.floor or (when, text) in self.recent:
            return
        self._remember(when, text)
        if MARK.fullmatch(text + b"\n"):
            return  # the end of what a command wrote
        for piece in split_lines(MARK.sub(b"\n", text + b"\n"), final=True):
            line: LogLine = json.loads(make_line(piece, self.pod.labels, STREAM, 0, _micro(when)))
            line.pop("log.offset")
            yield when, line

    def _remember(self, when: str, text: bytes) -> None:
        self.recent.add((when, text))
        self.reached = max(self.reached, when)
        if len(self.recent) > self._full:
            oldest = _before(self.reached, 2)
            self.recent = {line for line in self.recent if line[0] >= oldest}
            self._full = max(REMEMBERED, 2 * len(self.recent))


def _before(when: str, seconds: int) -> str:
    """Return the time so many seconds earlier, to the second, as Kubernetes writes it."""
    earlier = datetime.fromisoformat(f"{when[:19]}+00:00") - timedelta(seconds=seconds)
    return earlier.strftime("%Y-%m-%dT%H:%M:%SZ")


class _Following:
    """Follows all pods of a query, those that come too."""

    def __init__(
        self,
        client: KubeClient,
        streams: asyncio.Semaphore,
        resource: Resource[LogPod],
        is_asked_for: Callable[[LogPod], bool],
    ) -> None:
        self._client, self._streams, self._resource = client, streams, resource
        self._is_asked_for = is_asked_for
        self._queue: asyncio.Queue[Stamped | Exception] = asyncio.Queue(WAITING)
        self._pods: dict[str, LogPod] = {}  # uid -> as last seen
        self._news: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self, sources: Iterable[_Source], revision: str) -> AsyncGenerator[LogLine, None]:
        """Yield new lines for ever, those after what was read of the sources as of `revision`."""
        for source in sources:
            self._begin(source, source.pod.run - 1)
        watching = asyncio.create_task(self._watch(revision))
        try:
            while True:
                found = [await self._queue.get()]
                await asyncio.sleep(HOLD)
                while not self._queue.empty():
                    found.append(self._queue.get_nowait())
                for item in found:
                    if isinstance(item, Exception):
                        raise item
                for _, line in sorted((item for item in found if not isinstance(item, Exception)), key=_when):
                    yield line
        finally:
            tasks = [watching, *self._tasks.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, revision: str) -> None:
        try:
            while True:
                try:
                    async with aclosing(watch_objects(self._client, self._resource, revision)) as lumps:
                        async for lump in lumps:
                            for seen in lump:
                                self._note(seen.item, gone=seen.type == "deleted")
                except Gone:
                    listed = await list_objects(self._client, self._resource)
                    revision = listed.revision
                    there = {pod.metadata.uid for pod in listed.items}
                    for pod in listed.items:
                        self._note(pod, gone=False)
                    for uid in self._pods.keys() - there:
                        self._note(self._pods[uid], gone=True)
        except Exception as error:  # handed to whoever reads
            await self._queue.put(error)

    def _note(self, pod: LogPod, *, gone: bool) -> None:
        if not self._is_asked_for(pod):
            return
        if gone:
            self._pods.pop(pod.metadata.uid, None)
            if (task := self._tasks.get(pod.metadata.uid)) is not None:
                self._news[pod.metadata.uid].set()
                asyncio.get_running_loop().call_later(LAST_WORDS, task.cancel)  # its node may be silent for ever
        else:
            self._see(pod)

    def _see(self, pod: LogPod) -> None:
        if pod.metadata.uid not in self._tasks:
            self._begin(_Source(self._client, pod), -1)
        self._pods[pod.metadata.uid] = pod
        self._news[pod.metadata.uid].set()

    def _begin(self, source: _Source, read: int) -> None:
        uid = source.pod.metadata.uid
        self._pods[uid], self._news[uid] = source.pod, asyncio.Event()
        self._tasks[uid] = asyncio.create_task(self._follow(source, read))

    async def _follow(self, source: _Source, read: int) -> None:
        """Follow one pod through its runs until it is gone; `read`: the number of the last run that is read."""
        uid = source.pod.metadata.uid
        try:
            while (pod := self._pods.get(uid)) is not None:
                source.pod = pod
                self._news[uid].clear()
                if pod.run > read + 1:
                    await self._catch_up(source, pod.run - read - 1)
                    read = pod.run - 1
                if pod.begun and pod.run > read:
                    await self._follow_run(source)
                    now = self._pods.get(uid)
                    if now is None or now.run > pod.run or not _runs(now):
                        read = pod.run
                        continue
                    await asyncio.sleep(AGAIN)
                    continue
                await self._news[uid].wait()
        except Exception as error:  # handed to whoever reads
            await self._queue.put(error)
        finally:
            self._tasks.pop(uid, None)
            self._news.pop(uid, None)

    async def _follow_run(self, source: _Source) -> None:
        """Pass on what the container writes until it ends or the connection does."""
        try:
            async with self._streams, aclosing(source.read(follow=True)) as lines:
                async for line in lines:
                    await self._queue.put(line)
        except KubeError:  # tried again as long as the pod is there
            await asyncio.sleep(AGAIN)

    async def _catch_up(self, source: _Source, missed: int) -> None:
        """Pass on the run before the present one; say so if there were more that nobody keeps."""
        if missed > 1:
            what = "1 run" if missed == 2 else f"{missed - 1} runs"
            await self._queue.put(
                make_remark(source.pod, f"the output of {what} that ended in between is missing here")
            )
        try:
            async with self._streams, aclosing(source.read(previous=True)) as lines:
                async for line in lines:
                    await self._queue.put(line)
        except KubeError:
            await self._queue.put(make_remark(source.pod, "the output of a run that ended in between is missing here"))


def _runs(pod: LogPod) -> bool:
    return any(status.state.running is not None for status in pod.status.container_statuses)

"""A live picture of one kind of object: listed once, then watched; listed again when the history is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from seaway.kube.client import KubeClient
from seaway.kube.errors import Gone, Unavailable
from seaway.kube.listing import Listed, Resource, list_objects
from seaway.kube.structs import Object
from seaway.kube.watching import BACKOFF, Pulse, Seen, watch_objects

T = TypeVar("T", bound=Object)
Key = tuple[str, str]  # namespace and name

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Delta(Generic[T]):
    """What a picture has just learned: objects put and objects gone (their last versions)."""

    put: tuple[T, ...] = ()
    gone: tuple[T, ...] = ()


class Cache(Generic[T]):
    """Objects by (namespace, name). `run` keeps it true; `synced` is set after the first list."""

    def __init__(self, client: KubeClient, resource: Resource[T]) -> None:
        self._client = client
        self._resource = resource
        self.objects: dict[Key, T] = {}
        self.synced = asyncio.Event()
        self.pulse = Pulse(time.monotonic())

    async def run(self) -> AsyncGenerator[Delta[T], None]:
        """Yield every change of the picture after it was made in `objects`, for ever; raise Denied or NotFound.

        The first delta holds everything. After an outage in which the history was lost, the delta is the difference.
        """
        while True:
            listed = await self._list()
            delta = self._replace(listed)
            self.synced.set()
            yield delta
            try:
                async with aclosing(watch_objects(self._client, self._resource, listed.revision, self.pulse)) as lumps:
                    async for lump in lumps:
                        yield self._change(lump)
            except Gone as error:
                log.info("listing again", path=self._resource.path, reason=str(error))

    async def _list(self) -> Listed[T]:
        delay = BACKOFF[0]
        while True:
            try:
                listed = await list_objects(self._client, self._resource)
            except (Unavailable, Gone) as error:
                if not self.pulse.trouble:
                    log.warning("list failed", path=self._resource.path, error=str(error))
                self.pulse.trouble = str(error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, BACKOFF[1])
            else:
                self.pulse.beat()
                return listed

    def _replace(self, listed: Listed[T]) -> Delta[T]:
        new = {_key(item): item for item in listed.items}
        old, self.objects = self.objects, new
        put = tuple(item for key, item in new.items() if key not in old or not _same(old[key], item))
        return Delta(put, tuple(item for key, item in old.items() if key not in new))

    def _change(self, lump: Sequence[Seen[T]]) -> Delta[T]:
        put: dict[Key, T] = {}
        gone: dict[Key, T] = {}
        for seen in lump:
            key = _key(seen.item)
            put.pop(key, None)
            gone.pop(key, None)
            if seen.type == "put":
                self.objects[key] = put[key] = seen.item
            else:
                self.objects.pop(key, None)
                gone[key] = seen.item
        return Delta(tuple(put.values()), tuple(gone.values()))


def _key(item: Object) -> Key:
    return item.metadata.namespace, item.metadata.name


def _same(old: Object, new: Object) -> bool:
    return old.metadata.resource_version == new.metadata.resource_version and old.metadata.uid == new.metadata.uid

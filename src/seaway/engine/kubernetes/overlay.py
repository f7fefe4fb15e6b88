"""What this engine wrote and its watches have not brought yet, so that it sees its own writes at once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from seaway.kube.cache import Cache, Key
from seaway.kube.structs import Object

T = TypeVar("T", bound=Object)

KEPT = 30.0  # seconds after which the watch is believed, whatever it says
REMEMBERED = 600.0  # seconds for which it is known what was removed: its parts may take that long to go


class Overlay(Generic[T]):
    """The objects of a cache with this engine's own writes laid over them."""

    def __init__(self, cache: Cache[T]) -> None:
        self._cache = cache
        self._written: dict[Key, tuple[T, float]] = {}
        self.removed: dict[str, float] = {}  # uid -> when

    def put(self, item: T) -> None:
        """Note an object as the API server answered it."""
        self._written[item.metadata.namespace, item.metadata.name] = (item, time.monotonic())

    def remove(self, item: T) -> None:
        """Note that an object was deleted."""
        now = time.monotonic()
        self._written.pop((item.metadata.namespace, item.metadata.name), None)
        self.removed = {uid: at for uid, at in self.removed.items() if now - at < REMEMBERED}
        self.removed[item.metadata.uid] = now

    def forget(self, gone: Iterable[T]) -> None:
        """Somebody deleted these: what was written before that is over."""
        for item in gone:
            key = (item.metadata.namespace, item.metadata.name)
            if key in self._written and _version(self._written[key][0]) <= _version(item):
                del self._written[key]

    def get(self, key: Key) -> T | None:
        """Return the newest version that is known."""
        seen = self._cache.objects.get(key)
        if (mine := self._written.get(key)) is not None:
            item, at = mine
            caught_up = seen is not None and _version(seen) >= _version(item)
            if caught_up or time.monotonic() - at > KEPT:
                del self._written[key]
            else:
                seen = item
        return None if seen is None or seen.metadata.uid in self.removed else seen

    def values(self) -> Iterator[T]:
        """Return every object that is known."""
        for key in {*self._cache.objects, *self._written}:
            if (item := self.get(key)) is not None:
                yield item


def _version(item: Object) -> int:
    return int(item.metadata.resource_version or 0)

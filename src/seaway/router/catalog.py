"""The resources there are, each packed once for all clients, and who hears that they change. Generic."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from envoy.service.discovery.v3.discovery_pb2 import Resource as ResourceMessage

from seaway.router.base import ResourceKey
from seaway.router.envoy import version_of

_RESOURCES_TAG = b"\x12"  # field 2, length-delimited, of DeltaDiscoveryResponse


@dataclass(frozen=True, slots=True)
class Resource:
    """One version of a resource. `wire` is its entry of a response, packed once for all clients."""

    version: str
    body: bytes
    wire: bytes

    @classmethod
    def pack(cls, key: ResourceKey, body: bytes, version: str | None = None) -> Resource:
        """Pack a serialised message; its version is its hash unless given."""
        version = version or version_of(body)
        message = ResourceMessage(name=key[1], version=version, resource={"type_url": key[0], "value": body})
        packed: bytes = message.SerializeToString()
        return cls(version, body, _RESOURCES_TAG + _varint(len(packed)) + packed)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Catalog:
    """The resources there are now; tells its listeners which keys changed. Serves nobody until it is open.

    `holds` says which resources that are not here are not known to be gone: clients keep those they have.
    """

    def __init__(self, is_open: bool = True, holds: Callable[[ResourceKey], bool] = lambda _: False) -> None:
        self.is_open = is_open
        self.holds = holds
        self.listeners: set[Callable[[Collection[ResourceKey]], None]] = set()
        self._resources: dict[str, dict[str, Resource]] = {}

    def get(self, key: ResourceKey) -> Resource | None:
        """Return the resource, or None."""
        return self._resources.get(key[0], {}).get(key[1])

    def of_type(self, type_url: str) -> Mapping[str, Resource]:
        """Return all resources of a type by name."""
        return self._resources.get(type_url, {})

    def apply(self, puts: Mapping[ResourceKey, Resource], removals: Iterable[ResourceKey] = ()) -> None:
        """Put and remove resources in one step."""
        changed = []
        for key, resource in puts.items():
            known = self._resources.setdefault(key[0], {})
            if key[1] not in known or known[key[1]].version != resource.version:
                known[key[1]] = resource
                changed.append(key)
        for key in removals:
            if self._resources.get(key[0], {}).pop(key[1], None) is not None:
                changed.append(key)  # noqa: PERF401  # the condition removes it
        if changed:
            self._notify(changed)

    def open(self) -> None:
        """Begin to serve: from now on what is not here is gone."""
        if not self.is_open:
            self.is_open = True
            self._notify(())

    def poke(self) -> None:
        """Have every client looked at again: what is held has changed."""
        self._notify(())

    def _notify(self, keys: Collection[ResourceKey]) -> None:
        for listener in tuple(self.listeners):
            listener(keys)

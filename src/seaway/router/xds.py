"""Delta ADS, server side, without I/O: what is there, what one client has, and what to tell it next.

Generic: knows resources by (type URL, name) as a version and bytes. The control plane serves its routers from it
and each router's relay serves its Envoy. `serving` puts it on gRPC.

A `Session` sends in the order of `make_order`: clusters, endpoints, scoped routes; and removes in the opposite
order, once all routes are acknowledged. So nothing is sent before what it names, and nothing goes before what names
it. Several responses may be under way, because Envoy acknowledges clusters only when they are warm, for which it needs
their endpoints. A rejected batch is sent again in halves until the bad resources are alone, so that one never keeps
others back; a rejected version is not sent again.

The way of a name, within its type:

    catalog changes -> dirty -> sent: known, under_way -> yes: acked
                         ^                             -> no, alone: rejected, known ""
                         |                             -> no, among others: known "" and acked "", and into parts
                         +-- changed again meanwhile --+

- `known` is what the client has once it has taken all that was sent to it: written when something is sent, not when it
  is answered. A name that is missing there it does not have; "" is a version that nobody knows.
- Whatever `known` says and the catalog does not is in `dirty` or `parts` (to be sent), in `held` (to stay as long as
  the catalog cannot say), or rejected in just that version (to stay as it is). With none of these and nothing
  `under_way` the client is at rest: it has the catalog, but for what it rejected.
- `acked` is what the client said that it has. It lags behind `known`, and is what others decide by: a rollout goes on
  when all routers have acknowledged.

tests/property/test_xds.py plays a client that answers late, rejects, takes parts of what it rejects, and loses streams.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from seaway.router.base import ResourceKey
from seaway.router.catalog import Catalog, Resource
from seaway.router.envoy import CLUSTER, ENDPOINTS, MAKE_ORDER

BATCH = 500
"""Resources in one response, except in the first of a type, which has to be complete."""

UNDER_WAY = 16
"""Responses of one type that may be unanswered before no more are sent."""

WILDCARD = "*"
REFRESHED_WITH: Mapping[str, str] = {CLUSTER: ENDPOINTS}
"""A type sent anew needs the resource of the same name of the other type again (Envoy warms a changed cluster)."""


@dataclass
class Ledger:
    """What one client said on one stream: versions it acknowledged, and what it rejected (version, message).

    The version "" was in a batch that it rejected: it may have that one, the one before, or none.
    """

    acked: dict[ResourceKey, str] = field(default_factory=dict)
    rejected: dict[ResourceKey, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Sent:
    puts: dict[str, str]  # name -> version
    removals: tuple[str, ...]


@dataclass
class _TypeState:
    wildcard: bool = False
    names: set[str] = field(default_factory=set)
    known: dict[str, str] = field(default_factory=dict)  # what the client has: name -> version
    dirty: dict[str, None] = field(default_factory=dict)  # names to look at, in order
    asked: set[str] = field(default_factory=set)  # to answer even if there is nothing to tell
    parts: deque[tuple[str, ...]] = field(default_factory=deque)  # halves of rejected batches
    held: set[str] = field(default_factory=set)  # what the client has, and nobody knows whether it is to stay
    inherited: set[str] = field(default_factory=set)  # names known at first, in versions that are not there now
    greeted: bool = False  # the first response is out
    under_way: dict[str, _Sent] = field(default_factory=dict)  # responses without an answer, by nonce

    @property
    def idle(self) -> bool:
        return not self.dirty and not self.parts and not self.under_way

    def wants(self, name: str) -> bool:
        return self.wildcard or name in self.names


class Session:
    """One delta stream. Feed it requests; take responses until there are none; it never blocks or does I/O."""

    def __init__(
        self,
        catalog: Catalog,
        changed: Callable[[Collection[ResourceKey]], None] = lambda _: None,
        make_order: Sequence[str] = MAKE_ORDER,
        may_send: Callable[[Session, ResourceKey], bool] = lambda _, __: True,
    ) -> None:
        """`changed` hears of keys whose ledger entry changed; `may_send` can hold puts back for a while
        (not from a client that has nothing yet)."""
        self.ledger = Ledger()
        self._catalog = catalog
        self._changed = changed
        self._order = make_order
        self._may_send = may_send
        self._types: dict[str, _TypeState] = {}
        self._count = 0

    @property
    def settled(self) -> bool:
        """Whether the client has subscribed to every type there is any of, and said yes or no to all of it."""
        return bool(self._types) and all(map(self._is_settled, self._order))

    def _is_settled(self, type_url: str) -> bool:
        state = self._types.get(type_url)
        if state is None:  # Envoy asks for endpoints once it has a cluster: not of those that it refused
            owner = next((owner for owner, paired in REFRESHED_WITH.items() if paired == type_url), "")
            return all(self._is_refused((owner, name)) for name in self._catalog.of_type(type_url))
        return state.greeted and state.idle

    def _is_refused(self, key: ResourceKey) -> bool:
        """Whether the client said no to the version that there is now."""
        now = self._catalog.get(key)
        return now is not None and self.ledger.rejected.get(key, ("",))[0] == now.version

    def wants(self, key: ResourceKey) -> bool:
        """Whether the client is subscribed to this resource."""
        state = self._types.get(key[0])
        return state is not None and state.wants(key[1])

    def has_met(self, type_url: str) -> bool:
        """Whether the client has said what it has of this type."""
        return type_url in self._types

    def find_inherited(self, type_url: str) -> Collection[str]:
        """Return what of a type the client came with in other versions, of which nothing is known, and still has."""
        state = self._types.get(type_url)
        return state.inherited if state else ()

    def is_behind(self, key: ResourceKey) -> bool:
        """Whether the client has, or may have, another version of a resource than there is now."""
        state = self._types.get(key[0])
        if state and any(key[1] in sent.puts or key[1] in sent.removals for sent in state.under_way.values()):
            return True
        now, acked = self._catalog.get(key), self.ledger.acked.get(key)
        version = now.version if now else None
        return acked not in (None, version) and self.ledger.rejected.get(key, (None,))[0] != version

    def invalidate(self, keys: Iterable[ResourceKey]) -> None:
        """Look at these again: they changed in the catalog."""
        for type_url, name in keys:
            state = self._types.get(type_url)
            if state and state.wants(name):
                state.dirty[name] = None

    def receive(self, request: Any) -> None:
        """Take one DeltaDiscoveryRequest: subscriptions, and the answer to the response under way."""
        state = self._types.get(request.type_url)
        if state is None:
            state = self._types[request.type_url] = _TypeState()
            self._greet(state, request)
        else:
            self._subscribe(state, request.resource_names_subscribe)
        for name in request.resource_names_unsubscribe:
            self._unsubscribe(request.type_url, state, name)
        if sent := state.under_way.pop(request.response_nonce, None):
            self._answer(sent, state, request)

    def _greet(self, state: _TypeState, request: Any) -> None:
        names = set(request.resource_names_subscribe)
        state.wildcard = not names or WILDCARD in names
        state.names = names - {WILDCARD}
        state.known = dict(request.initial_resource_versions)
        state.asked = state.names - state.known.keys()
        acked = []
        for name, version in state.known.items():
            key = (request.type_url, name)
            if self.ledger.acked.get(key) != version:
                self.ledger.acked[key] = version
                acked.append(key)
            if (now := self._catalog.get(key)) is None or now.version != version:
                state.inherited.add(name)
        present = self._catalog.of_type(request.type_url) if state.wildcard else ()
        state.dirty = dict.fromkeys((*present, *state.known, *state.names))
        if acked:
            self._changed(acked)

    def _subscribe(self, state: _TypeState, names: Iterable[str]) -> None:
        for name in names:
            if name == WILDCARD:
                state.wildcard = True
                continue
            state.names.add(name)
            state.known.pop(name, None)  # the client asks anew: it is told anew
            state.asked.add(name)
            state.dirty[name] = None

    def _unsubscribe(self, type_url: str, state: _TypeState, name: str) -> None:
        if name == WILDCARD:
            state.wildcard = False
        state.names.discard(name)
        if not state.wildcard:
            state.known.pop(name, None)
            state.asked.discard(name)
            state.dirty.pop(name, None)
            self._forget((type_url, name))

    def _forget(self, key: ResourceKey) -> None:
        had = self.ledger.acked.pop(key, None)
        refused = self.ledger.rejected.pop(key, None)
        if had is not None or refused is not None:
            self._changed((key,))

    def _answer(self, sent: _Sent, state: _TypeState, request: Any) -> None:
        names = (*sent.puts, *sent.removals)
        keys = [(request.type_url, name) for name in names]
        if not request.HasField("error_detail"):
            state.inherited.difference_update(names)
            for name, version in sent.puts.items():
                self.ledger.acked[request.type_url, name] = version
                self.ledger.rejected.pop((request.type_url, name), None)
            for name in sent.removals:
                self.ledger.acked.pop((request.type_url, name), None)
                self.ledger.rejected.pop((request.type_url, name), None)
        elif len(names) > 1:
            state.known.update(dict.fromkeys(names, ""))  # nobody knows which of them it took
            self.ledger.acked.update({(request.type_url, name): "" for name in sent.puts})
            half = len(names) // 2
            state.parts.extendleft((names[half:], names[:half]))
        else:
            for name in sent.puts:
                self.ledger.rejected[request.type_url, name] = (sent.puts[name], request.error_detail.message)
                state.known[name] = ""
                now = self._catalog.get((request.type_url, name))
                if now is None or now.version != sent.puts[name]:
                    state.dirty[name] = None  # what came after it may have been taken
                else:
                    state.dirty.pop(name, None)
        self._changed(keys)

    def next_response(self) -> bytes | None:
        """Return the next DeltaDiscoveryResponse, serialised, or None if there is nothing to send now."""
        if not self._catalog.is_open:
            return None
        self._hold()
        for type_url in self._order:
            state = self._types.get(type_url)
            if state and len(state.under_way) < UNDER_WAY and (response := self._make(type_url, state)):
                return response
        for type_url in reversed(self._order):
            state = self._types.get(type_url)
            if state and len(state.under_way) < UNDER_WAY and (response := self._break(type_url, state)):
                return response
            if state and not state.idle:
                break  # what it names goes only after it
        return None

    def _hold(self) -> None:
        """Set aside what is absent and held; take up again what is held no longer."""
        for type_url, state in self._types.items():
            freed = [name for name in state.held if not self._catalog.holds((type_url, name))]
            state.held.difference_update(freed)
            state.dirty.update(dict.fromkeys(freed))
            for name in [name for name in state.dirty if name in state.known]:
                key = (type_url, name)
                if self._catalog.get(key) is None and self._catalog.holds(key):
                    del state.dirty[name]
                    state.held.add(name)

    def _make(self, type_url: str, state: _TypeState) -> bytes | None:
        """Send new and changed resources; removals go along only for the last type of the order."""
        earlier = self._order[: self._order.index(type_url)]
        if any(self._has_unsent_puts(other) for other in earlier):
            return None
        while state.parts:
            names = state.parts.popleft()
            puts, gone = self._sort(type_url, state, names)
            later = [name for name in gone if self._goes_later(type_url, state, name)]
            state.dirty.update(dict.fromkeys(later))
            gone = [name for name in gone if name not in later]
            if puts or gone:
                return self._send(type_url, state, puts, gone)
        limit = BATCH if state.greeted else len(state.dirty)
        fresh = not state.greeted and not state.known  # it has nothing yet: it is told everything
        puts = {}
        gone = []
        for name in list(state.dirty):
            if len(puts) >= limit:
                break
            new, absent = self._sort(type_url, state, (name,))
            if new and not fresh and not self._may_send(self, (type_url, name)):
                continue
            if absent and self._goes_later(type_url, state, name):
                continue
            puts |= new
            gone += absent
            del state.dirty[name]
        if puts or gone or not state.greeted:
            return self._send(type_url, state, puts, gone)
        return None

    def _goes_later(self, type_url: str, state: _TypeState, name: str) -> bool:
        """Whether what is to be removed waits for its turn in the opposite order; who asked for it is answered."""
        return type_url != self._order[-1] and name not in state.asked

    def _has_unsent_puts(self, type_url: str) -> bool:
        state = self._types.get(type_url)
        return state is not None and (
            bool(state.parts)
            or any(
                self._sort(type_url, state, (name,))[0] and self._may_send(self, (type_url, name))
                for name in state.dirty
            )
        )

    def _break(self, type_url: str, state: _TypeState) -> bytes | None:
        gone = [name for name in state.dirty if self._catalog.get((type_url, name)) is None and name in state.known]
        for name in gone:
            del state.dirty[name]
        return self._send(type_url, state, {}, gone) if gone else None

    def _sort(self, type_url: str, state: _TypeState, names: Iterable[str]) -> tuple[dict[str, Resource], list[str]]:
        """Return what of `names` is to be put and what to be removed at the client."""
        puts: dict[str, Resource] = {}
        gone: list[str] = []
        for name in names:
            resource = self._catalog.get((type_url, name))
            if resource is None:
                if name in state.known or name in state.asked:
                    gone.append(name)
            elif state.wants(name) and state.known.get(name) != resource.version:
                refused = self.ledger.rejected.get((type_url, name))
                if refused is None or refused[0] != resource.version:
                    puts[name] = resource
        return puts, gone

    def _send(self, type_url: str, state: _TypeState, puts: Mapping[str, Resource], gone: Sequence[str]) -> bytes:
        self._count += 1
        nonce = f"{self._count}"
        state.greeted = True
        for name, resource in puts.items():
            state.known[name] = resource.version
        for name in gone:
            state.known.pop(name, None)
        state.asked.difference_update(puts, gone)
        state.under_way[nonce] = _Sent({name: r.version for name, r in puts.items()}, tuple(gone))
        if paired := REFRESHED_WITH.get(type_url):
            self._refresh(paired, puts)
        head = DeltaDiscoveryResponse(type_url=type_url, nonce=nonce, removed_resources=gone)
        packed: bytes = head.SerializeToString()
        return packed + b"".join(resource.wire for resource in puts.values())

    def _refresh(self, type_url: str, names: Iterable[str]) -> None:
        state = self._types.get(type_url)
        for name in names if state else ():
            if state and state.wants(name) and state.known.pop(name, None) is not None:
                state.dirty[name] = None


def parse_request(data: bytes) -> Any:
    """Return the DeltaDiscoveryRequest in `data`."""
    return DeltaDiscoveryRequest.FromString(data)

"""A client of delta xDS that answers late, refuses, and loses its stream: what a Session tells it, and in which order.

The client does what Envoy does: it asks for all clusters and scoped routes, and for the endpoints of each cluster it
hears of; it takes what it can of a response with something bad in it, and says no to all of it; a stream that breaks
is followed by one on which it says what it has.
"""

from __future__ import annotations

import inspect
import json
import random
from collections import deque
from collections.abc import Sequence
from typing import Any

import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from seaway.router import xds
from seaway.router.base import ResourceKey
from seaway.router.catalog import Catalog, Resource
from seaway.router.envoy import CLUSTER, ENDPOINTS, SCOPE
from seaway.router.xds import Session
from tests.property.test_rollouts import SCHEDULES

CLUSTERS = [f"shop:v{number}" for number in range(1, 4)]
SCOPES = ["shop.localhost", "www.localhost"]
STEPS = 60
Act = tuple[str, dict[str, Any]]


def pack(key: ResourceKey, **content: Any) -> Resource:
    return Resource.pack(key, json.dumps(content, sort_keys=True).encode())


class Client:
    """What a router's Envoy has, and the responses that it has yet to answer."""

    def __init__(self) -> None:
        self.has: dict[ResourceKey, tuple[str, dict[str, Any]]] = {}  # version and content
        self.waiting: deque[Any] = deque()
        self.warming: set[str] = set()  # clusters that have yet to get their endpoints
        self.asked: set[str] = set()  # clusters whose endpoints it subscribed to on this stream

    def hello(self) -> list[Any]:
        """Return what it says first on a stream."""
        return [self._ask(CLUSTER), self._ask(SCOPE), *self._ask_endpoints()]

    def _ask(self, type_url: str) -> Any:
        known = {name: version for (type_, name), (version, _) in self.has.items() if type_ == type_url}
        return DeltaDiscoveryRequest(type_url=type_url, initial_resource_versions=known)

    def _ask_endpoints(self) -> list[Any]:
        wanted = sorted(name for type_, name in self.has if type_ == CLUSTER)
        self.asked = set(wanted)
        if not wanted:
            return []
        request = self._ask(ENDPOINTS)
        request.resource_names_subscribe.extend(wanted)
        return [request]

    def answer(self, take: int) -> list[Any]:
        """Take the oldest response; of one with something bad in it `take` tells which good ones (bits). Say so."""
        response = self.waiting.popleft()
        puts = [((response.type_url, r.name), r.version, json.loads(r.resource.value)) for r in response.resources]
        bad = [key for key, _, content in puts if content.get("bad")]
        for number, (key, version, content) in enumerate(puts):
            if key[0] == ENDPOINTS and key[1] not in self.asked:
                continue  # on its way when the client lost interest
            if key not in bad and (not bad or take >> number & 1):
                self.has[key] = (version, content)
                self._warm(key)
        if not bad:
            for name in response.removed_resources:
                self.has.pop((response.type_url, name), None)
        request = DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        if bad:
            request.error_detail.message = f"{bad[0][1]} is bad"
        return [request, *self._follow_clusters(response)]

    def _warm(self, key: ResourceKey) -> None:
        """A cluster that is new or changed is used when its endpoints have come, again if need be."""
        if key[0] == CLUSTER:
            self.warming.add(key[1])
        elif key[0] == ENDPOINTS:
            self.warming.discard(key[1])

    def ask_anew(self, name: str) -> list[Any]:
        """Forget the endpoints of a cluster and ask for them again."""
        if name not in self.asked:
            return []
        self.has.pop((ENDPOINTS, name), None)
        return [DeltaDiscoveryRequest(type_url=ENDPOINTS, resource_names_subscribe=[name])]

    def _follow_clusters(self, response: Any) -> list[Any]:
        """Ask for the endpoints of each cluster that it has heard of now; forget those of one that went."""
        if response.type_url != CLUSTER:
            return []
        new = [r.name for r in response.resources if (CLUSTER, r.name) in self.has and r.name not in self.asked]
        gone = [name for name in response.removed_resources if (CLUSTER, name) not in self.has and name in self.asked]
        self.asked = (self.asked | set(new)) - set(gone)
        for name in gone:
            self.has.pop((ENDPOINTS, name), None)
            self.warming.discard(name)
        return [
            DeltaDiscoveryRequest(
                type_url=ENDPOINTS, resource_names_subscribe=new, resource_names_unsubscribe=gone
            )
        ] if new or gone else []  # fmt: skip


class Play:
    """Publishes, answers, breaks; looks at each response that goes out."""

    def __init__(self) -> None:
        self.catalog = Catalog()
        self.client = Client()
        self.count = 0
        self.connect()

    def connect(self) -> None:
        """Begin a stream."""
        self.client.waiting.clear()
        self.client.warming.clear()  # not promised: Envoy ends its wait after 15 s
        self.sent: dict[ResourceKey, str] = {key: version for key, (version, _) in self.client.has.items()}
        self.session = Session(self.catalog)
        self.catalog.listeners = {self.session.invalidate}
        for request in self.client.hello():
            self.session.receive(request)

    # The control plane
    def publish(self, name: str, bad: bool) -> None:
        """A release comes, or changes; its endpoints with it."""
        self.count += 1
        cluster = pack((CLUSTER, name), number=self.count, bad=bad)
        endpoints = pack((ENDPOINTS, name), number=self.count)
        self.catalog.apply({(CLUSTER, name): cluster, (ENDPOINTS, name): endpoints})

    def move(self, name: str) -> None:
        """Its instances are others now."""
        self.count += 1
        if self.catalog.get((ENDPOINTS, name)):
            self.catalog.apply({(ENDPOINTS, name): pack((ENDPOINTS, name), number=self.count)})

    def route(self, host: str, name: str, bad: bool) -> None:
        """A host's requests go to it."""
        self.count += 1
        if self.catalog.get((CLUSTER, name)):
            self.catalog.apply({(SCOPE, host): pack((SCOPE, host), to=name, number=self.count, bad=bad)})

    def unroute(self, host: str) -> None:
        self.catalog.apply({}, [(SCOPE, host)])

    def remove(self, name: str) -> None:
        """A release goes, with every route to it."""
        routes = [(SCOPE, host) for host in SCOPES if self.find_target(host) == name]
        self.catalog.apply({}, [(CLUSTER, name), (ENDPOINTS, name), *routes])

    def find_target(self, host: str) -> str | None:
        found = self.catalog.get((SCOPE, host))
        return json.loads(found.body)["to"] if found else None

    # The stream
    def send(self) -> None:
        """One response goes out."""
        self.send_one()

    def send_one(self) -> bool:
        data = self.session.next_response()
        if data is None:
            return False
        response = DeltaDiscoveryResponse.FromString(data)
        self.check_order(response)
        self.client.waiting.append(response)
        for resource in response.resources:
            self.sent[response.type_url, resource.name] = resource.version
        for name in response.removed_resources:
            self.sent.pop((response.type_url, name), None)
        return True

    def check_order(self, response: Any) -> None:
        """Nothing is sent before what it names, nor is anything removed before what names it."""
        if response.type_url == SCOPE:
            for resource in response.resources:
                target = json.loads(resource.resource.value)["to"]
                there = self.catalog.get((CLUSTER, target))
                assert there is None or self.was_sent((CLUSTER, target), there.version), (
                    f"{resource.name} before {target}"
                )
        if response.type_url == CLUSTER and response.removed_resources:
            assert not any(waiting.type_url == SCOPE for waiting in self.client.waiting), "routes are unanswered"
            refused = self.session.ledger.rejected  # an old route stays: a rollout that is refused keeps its release
            held = [(key, content) for key, (_, content) in self.client.has.items() if key[0] == SCOPE]
            named = {content["to"] for key, content in held if key not in refused}
            assert not named & set(response.removed_resources), f"routes name {named}"

    def was_sent(self, key: ResourceKey, version: str) -> bool:
        refused = self.session.ledger.rejected.get(key, ("", ""))[0]
        return version in (self.sent.get(key), refused)

    def answer(self, take: int) -> None:
        """The client says yes or no to the oldest response."""
        if self.client.waiting:
            for request in self.client.answer(take):
                self.session.receive(request)

    def ask_anew(self, name: str) -> None:
        """The client begins to watch a cluster's endpoints another time."""
        for request in self.client.ask_anew(name):
            self.session.receive(request)

    def lose(self) -> None:
        """The stream breaks; what was on its way is lost."""
        self.connect()

    def rest(self, take: int) -> None:
        """Everything is sent and answered: the client has what there is, but for what it refuses."""
        for _ in range(1000):
            moved = self.send_one()
            if self.client.waiting:
                self.answer(take)
            elif not moved:
                break
        else:
            raise AssertionError("it never comes to rest")
        self.check_rest()

    def check_rest(self) -> None:
        keys = {(type_, name) for type_ in (CLUSTER, ENDPOINTS, SCOPE) for name in self.catalog.of_type(type_)}
        for key in keys:
            now = self.catalog.get(key)
            assert now is not None
            content, has = json.loads(now.body), self.client.has.get(key)
            if content.get("bad"):
                assert has is None or has[0] != now.version, f"it was not meant to take {key}"
                assert self.session.ledger.rejected[key][0] == now.version, f"nobody is told that {key} was refused"
            elif key[0] == ENDPOINTS and (CLUSTER, key[1]) not in self.client.has:
                assert has is None, "endpoints of a cluster that it does not have"
            else:
                assert has is not None, f"it lacks {key}"
                assert has[0] == now.version, f"it has another {key}"
        assert self.client.has.keys() <= keys, f"it still has {self.client.has.keys() - keys}"
        assert not self.client.warming, f"{self.client.warming} have no endpoints"
        assert self.session.settled

    def check_ledger(self) -> None:
        """Whatever the ledger says was taken, was."""
        for key, version in self.session.ledger.acked.items():
            if version and key in self.client.has and not self.session.is_behind(key):
                assert self.client.has[key][0] == version


WORDS = ("publish", "move", "route", "unroute", "remove", "send", "answer", "ask_anew", "lose", "rest")
OFTEN = (3, 2, 3, 1, 2, 8, 8, 1, 1, 1)


def draw(dice: random.Random) -> Act:
    """Choose what happens next, and everything that it may need."""
    (word,) = dice.choices(WORDS, OFTEN)
    bad = dice.random() < 0.3
    return word, {
        "name": dice.choice(CLUSTERS), "host": dice.choice(SCOPES), "bad": bad, "take": dice.randrange(256),
    }  # fmt: skip


def play(acts: Sequence[Act]) -> str:
    """Return what goes wrong; "" if nothing does."""
    stage = Play()
    try:
        for word, given in acts:
            act = getattr(stage, word)
            act(**{name: given[name] for name in inspect.signature(act).parameters})
            stage.check_ledger()
        stage.rest(take=0)
    except AssertionError as error:
        return str(error) or "it fails"
    return ""


def shrink(acts: list[Act]) -> list[Act]:
    """Leave out what is not needed to fail."""
    at = 0
    while at < len(acts):
        fewer = acts[:at] + acts[at + 1 :]
        acts, at = (fewer, at) if play(fewer) else (acts, at + 1)
    return acts


@pytest.mark.timeout(1200)
def test_a_client_at_its_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    """At rest it has what there is, but for what it refuses; nothing comes too early, nothing goes too early."""
    monkeypatch.setattr(xds, "BATCH", 2)
    monkeypatch.setattr(xds, "UNDER_WAY", 3)
    for seed in range(15 * SCHEDULES):
        dice = random.Random(seed)
        acts = [draw(dice) for _ in range(STEPS)]
        if play(acts):
            acts = shrink(acts)
            story = "".join(f"\n  {word} {given}" for word, given in acts)
            raise AssertionError(f"seed {seed}: {play(acts)}{story}")

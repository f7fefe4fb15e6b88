"""What a delta session may send when: endpoints drain after the routes have left them, and nobody waits for others."""

from __future__ import annotations

import asyncio

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from seaway.router.base import ResourceKey
from seaway.router.catalog import Resource
from seaway.router.draining import RouteCatalog
from seaway.router.envoy import CLUSTER, ENDPOINTS, MAKE_ORDER, SCOPE, translate_app, translate_host
from seaway.router.following import HealthEvent
from seaway.router.reports import Reporter
from seaway.router.table import build_app_table, build_hosts
from seaway.router.warming import WARM_LIMIT, Warming
from seaway.router.xds import Session
from tests.clock import jumping
from tests.contract.router_lab import make_app, make_instance


class Client:
    """A client of one session: says what it has, takes what is sent, answers when told to."""

    def __init__(self, session: Session, has: dict[ResourceKey, str] | None = None) -> None:
        self.session = session
        self.nonces: list[tuple[str, str]] = []
        for kind in MAKE_ORDER:
            versions = {key[1]: version for key, version in (has or {}).items() if key[0] == kind}
            session.receive(
                DeltaDiscoveryRequest(type_url=kind, resource_names_subscribe=["*"], initial_resource_versions=versions)
            )

    def take(self) -> list[ResourceKey]:
        """Return the keys of everything that is sent now."""
        keys: list[ResourceKey] = []
        while (data := self.session.next_response()) is not None:
            response = DeltaDiscoveryResponse.FromString(data)
            self.nonces.append((response.type_url, response.nonce))
            keys += [(response.type_url, resource.name) for resource in response.resources]
        return keys

    def answer(self, *kinds: str) -> None:
        """Acknowledge what came of these types (none: of all)."""
        for kind, nonce in [pair for pair in self.nonces if not kinds or pair[0] in kinds]:
            self.nonces.remove((kind, nonce))
            self.session.receive(DeltaDiscoveryRequest(type_url=kind, response_nonce=nonce))


def publish(catalog: RouteCatalog, name: str, release: int, drained: int | None = None) -> None:
    """Route app `name` to a release; the instance of release `drained` takes no requests any more."""
    old = make_instance(name, drained or release, 8001)
    new = make_instance(name, release, 8002)
    table = build_app_table(make_app(name, {release: 100}, drains=(old.id,) if drained else ()), {}, [old, new], "x")
    resources = translate_app(table)
    for host, rules in build_hosts([table]).items():
        resources |= translate_host(host, rules)
    catalog.apply({key: Resource.pack(key, body) for key, body in resources.items()})


def make_client(catalog: RouteCatalog) -> Client:
    """Return a client that has acknowledged all there is; changes reach its session as they do on a stream."""
    client = Client(Session(catalog, may_send=catalog.allows))
    catalog.listeners.add(client.session.invalidate)
    client.take()
    client.answer()
    return client


def test_instances_drain_once_the_routes_have_left_them() -> None:
    """Everything of a release at once: the old one's endpoints change when the new routes are acknowledged."""
    catalog = RouteCatalog()
    publish(catalog, "shop", 1)
    client = make_client(catalog)
    publish(catalog, "shop", 2, drained=1)
    assert client.take() == [(CLUSTER, "shop:v2"), (ENDPOINTS, "shop:v2"), (SCOPE, "shop.x")]
    client.answer(CLUSTER, ENDPOINTS)
    assert client.take() == []
    client.answer()
    assert client.take() == [(ENDPOINTS, "shop:v1")]


def test_instances_drain_at_once_if_no_route_changes() -> None:
    """The step by step of an ordinary rollout, and an app that goes to sleep: nothing to wait for."""
    catalog = RouteCatalog()
    publish(catalog, "shop", 1)
    client = make_client(catalog)
    publish(catalog, "shop", 1, drained=1)
    assert client.take() == [(ENDPOINTS, "shop:v1")]


def test_draining_does_not_wait_for_the_routes_of_others() -> None:
    """Another app's route that is not acknowledged yet keeps nobody back."""
    catalog = RouteCatalog()
    for name in ("shop", "cafe"):
        publish(catalog, name, 1)
    client = make_client(catalog)
    publish(catalog, "cafe", 2)
    client.take()
    publish(catalog, "shop", 1, drained=1)
    assert client.take() == [(ENDPOINTS, "shop:v1")]


def test_client_that_comes_with_an_old_route_keeps_its_instances_until_it_has_the_new_one() -> None:
    """After a loss of contact only the version of what the client has is known: it may name anything."""
    catalog = RouteCatalog()
    publish(catalog, "shop", 1)
    has = {(kind, name): found.version for kind in MAKE_ORDER for name, found in catalog.of_type(kind).items()}
    later = RouteCatalog()
    publish(later, "shop", 2, drained=1)
    client = Client(Session(later, may_send=later.allows), has)
    assert client.take() == [(CLUSTER, "shop:v2"), (ENDPOINTS, "shop:v2"), (SCOPE, "shop.x")]
    client.answer()
    assert client.take() == [(ENDPOINTS, "shop:v1")]


@jumping
async def test_route_waits_for_health_and_not_for_ever() -> None:
    """Acknowledged clusters are not healthy ones; from when both are acknowledged a sick release has WARM_LIMIT."""
    catalog, poked = RouteCatalog(), asyncio.Event()
    warming = Warming(catalog, Reporter(), poked.set)
    session = Session(catalog, warming.hear, may_send=warming.allows)
    warming.begin(session)
    publish(catalog, "shop", 1)
    client = Client(session)
    catalog.listeners.add(session.invalidate)
    client.take()
    client.answer()
    publish(catalog, "shop", 2)
    client.take()
    client.answer(CLUSTER)
    assert not warming.allows(session, (SCOPE, "shop.x"))
    client.answer(ENDPOINTS)
    assert client.take() == []
    async with asyncio.timeout(2 * WARM_LIMIT):
        while not (sent := client.take()):  # the time of the first release may be over before that of the second
            poked.clear()
            await poked.wait()
    assert sent == [(SCOPE, "shop.x")]


async def test_instance_that_drains_is_no_healthy_one() -> None:
    """Of two endpoints of a cluster the healthy one takes no requests any more: the route waits for the other."""
    catalog, reporter = RouteCatalog(), Reporter()
    warming = Warming(catalog, reporter, lambda: None)
    session = Session(catalog, warming.hear, may_send=warming.allows)
    warming.begin(session)
    client = Client(session)
    client.take()
    client.answer()
    catalog.listeners.add(session.invalidate)
    publish(catalog, "shop", 1, drained=1)
    reporter.set_endpoints("shop:v1", frozenset({"127.0.0.1:8001", "127.0.0.1:8002"}))
    reporter.note(HealthEvent("shop:v1", "127.0.0.1:8001", healthy=True))
    client.take()
    client.answer()
    assert client.take() == []
    reporter.note(HealthEvent("shop:v1", "127.0.0.1:8002", healthy=True))
    assert client.take() == [(SCOPE, "shop.x")]

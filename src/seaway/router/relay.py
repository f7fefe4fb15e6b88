"""The relay between the control plane and one Envoy: keeps the last good resources, passes answers on.

Downstream it is Envoy's delta ADS and load reporting server. Upstream it is a delta ADS client that acknowledges
a resource only when Envoy has; what Envoy rejects is rejected upstream with Envoy's message, and the last good
version stays. The control plane may be away for any time; resources are on disk before Envoy gets them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog
from envoy.config.core.v3.base_pb2 import Node
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from envoy.service.load_stats.v3.lrs_pb2 import LoadStatsResponse

from seaway.router.base import ResourceKey
from seaway.router.catalog import Resource
from seaway.router.disk import LastGood
from seaway.router.draining import RouteCatalog
from seaway.router.envoy import CLUSTER, ENDPOINTS, MAKE_ORDER
from seaway.router.links import Connector, ControlLinks, StreamEnded
from seaway.router.reports import Reporter
from seaway.router.serving import (
    ADS_METHOD,
    ADS_SERVICE,
    GRPC_OPTIONS,
    Context,
    SessionStream,
    ads_handler,
    lrs_handler,
)
from seaway.router.warming import Warming
from seaway.router.xds import Session

log = structlog.get_logger("seaway.router")

LOAD_INTERVALS = ((1_000, 0.5), (10_000, 1.0), (1 << 30, 2.0))
"""Seconds between load reports, by the number of clusters: a report names them all."""


@dataclass(frozen=True)
class _Trial:
    """What of one response was put before Envoy (versions), and the messages for what it had rejected before."""

    puts: Mapping[ResourceKey, str]
    removals: tuple[ResourceKey, ...]
    refusals: tuple[str, ...]


class Relay:
    """See the module. `start` serves Envoy; `follow` keeps to the control plane until cancelled."""

    def __init__(self, name: str, last_good: LastGood, reporter: Reporter) -> None:
        self._name = name
        self._disk = last_good
        self._reporter = reporter
        self._catalog = RouteCatalog()
        self._catalog.apply(last_good.load())
        self._last_good: dict[ResourceKey, Resource | None] = {}  # of what is on trial
        self._refused: dict[ResourceKey, tuple[str, str]] = {}  # version and message of what Envoy rejected
        self._stream: SessionStream | None = None
        self._answered = asyncio.Event()
        self._server: grpc.aio.Server | None = None
        self._warming = Warming(self._catalog, reporter, self._poke)
        self._missing = set(() if self._catalog.of_type(CLUSTER) else MAKE_ORDER)  # types nobody has told of yet
        self._complete = False
        for cluster in self._catalog.of_type(ENDPOINTS):
            self._note_endpoints((ENDPOINTS, cluster))

    @property
    def complete(self) -> bool:
        """Whether Envoy, since it connected, had said yes or no to everything there was, from control plane or disk."""
        if not self._complete and self._stream and not self._missing:
            self._complete = self._stream.session.settled
        return self._complete

    async def start(self, socket: Path) -> None:
        """Serve Envoy on a unix socket."""
        self._server = grpc.aio.server(options=GRPC_OPTIONS)
        self._server.add_generic_rpc_handlers((ads_handler(self._serve_envoy), lrs_handler(self._take_load)))
        self._server.add_insecure_port(f"unix:{socket}")
        await self._server.start()
        socket.chmod(0o600)

    async def stop(self) -> None:
        """Close Envoy's streams; it keeps what it has."""
        if self._server:
            await self._server.stop(grace=None)
            self._server = None

    # Downstream

    async def _serve_envoy(self, requests: AsyncIterator[Any], context: Context) -> None:
        session = Session(self._catalog, self._hear_envoy, may_send=self._warming.allows)
        self._warming.begin(session)
        stream = self._stream = SessionStream(session, self._catalog)
        log.info("Envoy connected")
        try:
            await stream.run(requests, context)
        finally:
            if self._stream is stream:
                self._stream, self._complete = None, False
                self._set_settled(False)

    def _hear_envoy(self, keys: Collection[ResourceKey]) -> None:
        self._answered.set()
        self._answered = asyncio.Event()
        self._warming.hear(keys)
        if self._stream and self._stream.session.settled:
            self._set_settled(True)

    def _set_settled(self, settled: bool) -> None:
        self._reporter.set_ready(settled)

    def _poke(self) -> None:
        if self._stream:
            self._stream.poke()

    async def _take_load(self, requests: AsyncIterator[Any], context: Context) -> None:
        interval = 0.0
        async for request in requests:
            clusters = self._catalog.of_type(CLUSTER)
            self._reporter.note_load(request, clusters)
            wanted = next(seconds for limit, seconds in LOAD_INTERVALS if len(clusters) <= limit)
            if wanted != interval:
                interval = wanted
                response = LoadStatsResponse(send_all_clusters=True, report_endpoint_granularity=True)
                response.load_reporting_interval.FromMilliseconds(int(interval * 1000))
                await context.write(response)

    # Upstream

    async def follow(self, connector: Connector) -> None:
        """Keep to the control plane's replicas, for ever."""
        await ControlLinks(connector, self._reporter, self._exchange).run()

    async def _exchange(self, channel: Any, metadata: Any) -> None:
        """Run the ADS stream until it breaks."""
        stream = channel.stream_stream(
            f"/{ADS_SERVICE}/{ADS_METHOD}",
            request_serializer=DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=DeltaDiscoveryResponse.FromString,
        )(metadata=metadata)
        for type_url in MAKE_ORDER:
            await stream.write(self._greet(type_url))
        async with asyncio.TaskGroup() as tasks:
            writing = asyncio.Lock()
            async for response in stream:
                # At once, in the order received; the answers take their time: Envoy's for clusters waits for endpoints.
                trial = self._begin_trial(response)
                self._missing.discard(response.type_url)
                tasks.create_task(self._answer(stream, writing, response, trial))
            raise StreamEnded

    async def _answer(self, stream: Any, writing: asyncio.Lock, response: Any, trial: _Trial) -> None:
        """Tell the control plane what Envoy said to a response, once it has."""
        await self._wait_for_verdicts(trial)
        refusals = (*trial.refusals, *self._keep_last_good(trial.puts))
        for key in trial.removals:
            if self._catalog.get(key) is None:
                self._reporter.set_acked(key, None)
        answer = DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        if refusals:
            answer.error_detail.code = grpc.StatusCode.INVALID_ARGUMENT.value[0]
            answer.error_detail.message = "; ".join(refusals)
        async with writing:
            await stream.write(answer)

    def _greet(self, type_url: str) -> Any:
        """Return the first request of a type: what is here already, except what Envoy has yet to answer."""
        versions = {
            name: resource.version
            for name, resource in self._catalog.of_type(type_url).items()
            if self._find_verdict((type_url, name), resource.version) is not None or self._stream is None
        }
        for name, version in versions.items():
            self._reporter.set_acked((type_url, name), version)
        return DeltaDiscoveryRequest(
            node=Node(id=self._name, cluster="seaway-router"),
            type_url=type_url,
            resource_names_subscribe=["*"],
            initial_resource_versions=versions,
        )

    def _begin_trial(self, response: Any) -> _Trial:
        """Put a response's resources before Envoy, except versions that it rejected before."""
        kind = response.type_url
        puts: dict[ResourceKey, Resource] = {}
        refusals: list[str] = []
        for entry in response.resources:
            key = (kind, entry.name)
            refused = self._refused.get(key)
            if refused and refused[0] == entry.version:
                refusals.append(refused[1])
                self._reporter.set_rejected(key, refused[1])
            else:
                puts[key] = Resource.pack(key, entry.resource.value, entry.version)
                self._last_good.setdefault(key, self._catalog.get(key))
        removals = tuple((kind, name) for name in response.removed_resources)
        self._apply(puts, removals)
        return _Trial({key: resource.version for key, resource in puts.items()}, removals, tuple(refusals))

    def _apply(self, puts: Mapping[ResourceKey, Resource], removals: Iterable[ResourceKey]) -> None:
        removals = tuple(removals)
        self._disk.apply(puts, removals)
        self._catalog.apply(puts, removals)
        for key in (*puts, *removals):
            if key[0] == ENDPOINTS:
                self._note_endpoints(key)

    def _note_endpoints(self, key: ResourceKey) -> None:
        resource = self._catalog.get(key)
        addresses = parse_addresses(resource.body) if resource else frozenset()
        self._reporter.set_endpoints(key[1], addresses)

    async def _wait_for_verdicts(self, trial: _Trial) -> None:
        waiting: dict[ResourceKey, str | None] = {**trial.puts, **dict.fromkeys(trial.removals)}
        while waiting := {key: v for key, v in waiting.items() if self._find_verdict(key, v) is None}:
            answered = self._answered
            await answered.wait()

    def _find_verdict(self, key: ResourceKey, version: str | None) -> bool | None:
        """Return whether Envoy took this version (None: the removal) of a resource; None while it has not said.

        What is superseded meanwhile counts as taken: Envoy may never see it.
        """
        now = self._catalog.get(key)
        if (now.version if now else None) != version:
            return True
        if key[0] == ENDPOINTS and self._catalog.get((CLUSTER, key[1])) is None:
            return True  # Envoy never asks for the endpoints of a cluster that is not there
        if self._stream is None:
            return None
        ledger = self._stream.session.ledger
        if version is None:
            return True if key not in ledger.acked else None
        if ledger.acked.get(key) == version:
            return True
        return False if ledger.rejected.get(key, ("",))[0] == version else None

    def _keep_last_good(self, puts: Mapping[ResourceKey, str]) -> list[str]:
        """End the trial of `puts`: put back what was good before those that Envoy rejected; return its messages."""
        messages = []
        good: dict[ResourceKey, Resource] = {}
        gone = []
        for key, version in puts.items():
            now = self._catalog.get(key)
            if now is None or now.version != version:
                continue  # a newer version is on trial
            previous = self._last_good.pop(key, None)
            if self._find_verdict(key, version) is not False or self._stream is None:
                self._refused.pop(key, None)
                self._reporter.set_acked(key, version)
                continue
            message = self._stream.session.ledger.rejected[key][1]
            self._refused[key] = (version, message)
            messages.append(message)
            self._reporter.set_rejected(key, message)
            log.error("Envoy rejects a resource: the last good one stays", type=key[0], name=key[1], message=message)
            if previous:
                good[key] = previous
            else:
                gone.append(key)
        if good or gone:
            self._apply(good, gone)
        return messages


def parse_addresses(body: bytes) -> frozenset[str]:
    """Return the addresses ("ip:port") in a serialised ClusterLoadAssignment."""
    assignment = ClusterLoadAssignment.FromString(body)
    return frozenset(
        f"{endpoint.endpoint.address.socket_address.address}:{endpoint.endpoint.address.socket_address.port_value}"
        for group in assignment.endpoints
        for endpoint in group.lb_endpoints
    )

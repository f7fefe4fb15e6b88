"""Puts xDS sessions on gRPC streams: for the control plane's routers and for each relay's Envoy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any

import grpc
from envoy.service.load_stats.v3.lrs_pb2 import LoadStatsRequest, LoadStatsResponse

from seaway.router.base import ResourceKey
from seaway.router.catalog import Catalog
from seaway.router.xds import Session, parse_request

ADS_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
ADS_METHOD = "DeltaAggregatedResources"
LRS_SERVICE = "envoy.service.load_stats.v3.LoadReportingService"
LRS_METHOD = "StreamLoadStats"
REPORT_SERVICE = "seaway.router.v1.Reports"
REPORT_METHOD = "Stream"

GRPC_OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # the first response of 10,000 apps has tens of megabytes
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
)

Context = grpc.aio.ServicerContext[Any, Any]
StreamHandler = Callable[[AsyncIterator[Any], Context], Awaitable[None]]


class SessionStream:
    """Runs one session on one gRPC stream until the client goes."""

    def __init__(self, session: Session, catalog: Catalog) -> None:
        self.session = session
        self._catalog = catalog
        self._wake = asyncio.Event()

    def poke(self) -> None:
        """Look again whether there is something to send."""
        self._wake.set()

    async def run(self, requests: AsyncIterator[Any], context: Context) -> None:
        """Serve; return when the client has gone, raise what broke the stream."""
        self._catalog.listeners.add(self._hear)
        reader = asyncio.create_task(self._read(requests))
        try:
            while not reader.done():
                self._wake.clear()
                if (response := self.session.next_response()) is not None:
                    await context.write(response)
                else:
                    await self._wake.wait()
            await reader
        finally:
            self._catalog.listeners.discard(self._hear)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[Any]) -> None:
        try:
            async for request in requests:
                self.session.receive(request)
                self._wake.set()
        finally:
            self._wake.set()

    def _hear(self, keys: Collection[ResourceKey]) -> None:
        self.session.invalidate(keys)
        self._wake.set()


def ads_handler(handler: StreamHandler) -> grpc.GenericRpcHandler[Any, Any]:
    """Return the delta ADS service; `handler` gets DeltaDiscoveryRequests and writes serialised responses."""
    return _service(ADS_SERVICE, ADS_METHOD, handler, parse_request, None)


def lrs_handler(handler: StreamHandler) -> grpc.GenericRpcHandler[Any, Any]:
    """Return the load reporting service; `handler` gets LoadStatsRequests and writes LoadStatsResponses."""
    return _service(LRS_SERVICE, LRS_METHOD, handler, LoadStatsRequest.FromString, LoadStatsResponse.SerializeToString)


def report_handler(handler: StreamHandler) -> grpc.GenericRpcHandler[Any, Any]:
    """Return the service that takes routers' reports: bytes of JSON."""
    return _service(REPORT_SERVICE, REPORT_METHOD, handler, None, None)


def _service(
    service: str, method: str, handler: StreamHandler, deserialise: Any, serialise: Any
) -> grpc.GenericRpcHandler[Any, Any]:
    stream = grpc.stream_stream_rpc_method_handler(
        handler,
        request_deserializer=deserialise,
        response_serializer=serialise,
    )
    return grpc.method_handlers_generic_handler(service, {method: stream})

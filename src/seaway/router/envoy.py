"""The router table as packed Envoy resources: Cluster, ClusterLoadAssignment, ScopedRouteConfiguration. Pure.

Equal input gives equal bytes, so a resource's hash is its version. Message classes come from xds-protos; the
docs at https://www.envoyproxy.io/docs/envoy/latest/api-v3/api describe each field.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import timedelta
from functools import lru_cache
from typing import Any

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.config_source_pb2 import ConfigSource
from envoy.config.core.v3.health_check_pb2 import HealthCheck
from envoy.config.core.v3.protocol_pb2 import HttpProtocolOptions as Protocol
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.route.v3.route_components_pb2 import RetryPolicy, Route, RouteAction, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration
from envoy.extensions.health_check.event_sinks.file.v3.file_pb2 import HealthCheckEventFileSink
from envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.struct_pb2 import Struct

from seaway.model import Check
from seaway.model.app import make_check_headers
from seaway.router.base import ResourceKey
from seaway.router.limits import CONNECTION_BUFFER, HEADER_LINES, HEADERS_KIB, RETRY_BUFFER
from seaway.router.table import AppTable, Backend, Endpoint, Rule, Target, cluster_name

_PREFIX = "type.googleapis.com/"
CLUSTER = _PREFIX + Cluster.DESCRIPTOR.full_name
ENDPOINTS = _PREFIX + ClusterLoadAssignment.DESCRIPTOR.full_name
SCOPE = _PREFIX + ScopedRouteConfiguration.DESCRIPTOR.full_name

MAKE_ORDER = (CLUSTER, ENDPOINTS, SCOPE)
"""Make before break: a resource is sent after what it names, and removed before it."""

HEALTH_LOG = "health.log"
"""File of health check events in the router's folder, which is Envoy's working directory."""

CONNECT_TIMEOUT = 0.5  # seconds; endpoints are in the same network, and the kernel sends no second SYN within 1 s
DEAD_AFTER = 8.0  # seconds that an endpoint's kernel may acknowledge nothing before its connections are ended
UNHEALTHY_INTERVAL = 0.5  # seconds between checks of an endpoint that is not (yet) healthy, for declared checks
CHECK_JITTER = 10  # percent that is added to intervals at the most
EJECTION = 5.0  # seconds; the next good active check ends it earlier
CHECK_MARGIN = 1.0  # seconds by which a check's connection outlives its timeout
LEAST_AGE = 0.4  # seconds at which connections are closed that have no idle time of their own, at the least
CHECK_TIMEOUT_LIMIT = 5.0  # seconds; Envoy answers for clusters only after a first check of each
ONLY_HEALTHY = 100_000  # percent: one healthy endpoint of 1,000 takes all requests, degraded ones get none
CHOICES = 5
"""Instances that are drawn for each request, which goes to the one of them with the fewest in flight.

One that hangs keeps what it got, so it gets no more unless only it is drawn: 1 of 32 requests where there are two, and
1 of 243 where there are three; of 2 drawn it would be 1 of 4. Not all are compared: a dead one has the fewest in
flight, and each next try would be its again.
"""

RETRIES = 3
OTHER_DRAWS = 200  # times that a next try draws until it finds an instance that had none
RETRY_FIRST = 0.001  # seconds: at once, as it is another instance's turn, and what comes of a body meanwhile is kept
RETRY_LAST = 0.1  # seconds between tries at the most; each waits for a random part of twice as long as the one before

SAFE_FOR_ALL = "connect-failure,refused-stream,reset-before-request"
"""Retried for every method: the instance cannot have seen the request."""
SAFE_FOR_IDEMPOTENT = "connect-failure,refused-stream,reset"
"""Retried for methods that may be repeated: also when the instance went away before it answered."""
IDEMPOTENT = "GET|HEAD|OPTIONS"

NO_RELEASE_BODY = "Seaway: app {app} has no release that serves; deploy one, or see `seaway releases list -a {app}`.\n"
NO_WEB_BODY = "Seaway: app {app} takes no requests, as it has no web process; `seaway ps -a {app}` shows the others.\n"


def version_of(body: bytes) -> str:
    """Return the version of a resource: 64 bits of a hash of its bytes."""
    return hashlib.blake2b(body, digest_size=8).hexdigest()


def translate_app(table: AppTable) -> dict[ResourceKey, bytes]:
    """Return the clusters and endpoints of one app."""
    resources: dict[ResourceKey, bytes] = {}
    for backend in table.backends:
        resources[CLUSTER, backend.cluster] = _serialise(build_cluster(backend))
        resources[ENDPOINTS, backend.cluster] = _serialise(build_endpoints(backend))
    return resources


def translate_host(host: str, rules: Iterable[Rule]) -> dict[ResourceKey, bytes]:
    """Return the scoped route configuration of one host; `rules` are longest prefix first."""
    return {(SCOPE, host): _serialise(build_scope(host, rules))}


def build_cluster(backend: Backend) -> Any:
    """Return the Cluster of one release."""
    cluster = Cluster(
        name=backend.cluster,
        type=Cluster.EDS,
        eds_cluster_config={"eds_config": ConfigSource(ads={}, resource_api_version="V3")},
        connect_timeout=timedelta(seconds=CONNECT_TIMEOUT),
        upstream_connection_options=_KEEPALIVE,
        upstream_bind_config={"socket_options": [_USER_TIMEOUT]},
        lb_policy=Cluster.LEAST_REQUEST,
        least_request_lb_config={"choice_count": {"value": CHOICES}},
        health_checks=[_build_health_check(backend)],
        ignore_health_on_host_removal=True,
        # An endpoint that fails is out at once, even if it is the last one: a clear 503 beats a gamble.
        common_lb_config={"healthy_panic_threshold": {"value": 0}, "update_merge_window": timedelta(0)},
        per_connection_buffer_limit_bytes={"value": CONNECTION_BUFFER},
        circuit_breakers={"thresholds": [_build_breakers(backend.policy.max_requests)]},
        outlier_detection=_OUTLIERS,
    )
    patience = min(backend.check.timeout, CHECK_TIMEOUT_LIMIT) if backend.check else 0.0
    cluster.typed_extension_protocol_options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"].CopyFrom(
        _build_upstream_options(backend.policy.keepalive, patience)
    )
    cluster.metadata.filter_metadata["seaway"].CopyFrom(_struct(app=backend.app, release=f"v{backend.release}"))
    return cluster


_ANY_NUMBER = (1 << 32) - 1


def _build_breakers(requests: int) -> dict[str, Any]:
    """Return what a release may have of one router: beyond it requests are refused at once, and nobody waits.

    Connections have no limit of their own: a thread opens one only for a request that finds none idle in it, so what is
    in flight and what waits bounds them. With a limit those that one thread keeps idle have a request of another wait.
    """
    limits = {
        "max_requests": requests,
        "max_pending_requests": requests,  # those that wait for a connection to be made
        "max_connections": _ANY_NUMBER,  # not said, it would be 1,024
        "max_retries": requests,
    }
    return {name: {"value": value} for name, value in limits.items()}


# A node that vanishes says nothing: its kernel's silence ends a connection, however slow the app may be.
_KEEPALIVE: dict[str, Any] = {"tcp_keepalive": {"keepalive_time": {"value": 2}, "keepalive_interval": {"value": 2}}}
_USER_TIMEOUT: dict[str, Any] = {
    "description": "TCP_USER_TIMEOUT",
    "level": 6,  # IPPROTO_TCP
    "name": 18,
    "int_value": int(DEAD_AFTER * 1000),
    "state": "STATE_PREBIND",
}

# Failures of the connection eject, and runs of 502, 503 and 504; other errors are the app's own business.
# At most half of the endpoints are out at a time, so that an app with one instance is never without.
_OUTLIERS: dict[str, Any] = {
    "split_external_local_origin_errors": True,
    "consecutive_local_origin_failure": {"value": 3},
    "enforcing_consecutive_local_origin_failure": {"value": 100},
    "consecutive_gateway_failure": {"value": 10},
    "enforcing_consecutive_gateway_failure": {"value": 100},
    "enforcing_consecutive_5xx": {"value": 0},
    "enforcing_success_rate": {"value": 0},
    "enforcing_local_origin_success_rate": {"value": 0},
    "interval": timedelta(seconds=1),
    "base_ejection_time": timedelta(seconds=EJECTION),
    "max_ejection_time": timedelta(seconds=6 * EJECTION),
    "max_ejection_percent": {"value": 50},
}


@lru_cache(maxsize=64)
def _build_upstream_options(keepalive: float, patience: float) -> AnyMessage:
    """Return HTTP/1.1 upstream with connections closed after `keepalive` idle seconds (0: never reused).

    Envoy 1.40 takes the connection of an HTTP check for idle while it waits for the answer, so a check that took longer
    than `keepalive` failed. It ends no check by a connection's age: where checks may take as long (`patience`,
    seconds), connections are closed at the age of `keepalive`, in use or not; a request in flight is not touched. At
    less than LEAST_AGE a busy app had so many new ones that a router could run out of ports.
    """
    common = Protocol(
        max_headers_count={"value": HEADER_LINES}, max_response_headers_kb={"value": HEADERS_KIB}
    )  # fmt: skip
    if keepalive == 0:
        common.max_requests_per_connection.value = 1
    elif keepalive > patience:
        common.idle_timeout.FromTimedelta(timedelta(seconds=keepalive))
    else:
        common.idle_timeout.FromTimedelta(timedelta(seconds=patience + CHECK_MARGIN))
        common.max_connection_duration.FromTimedelta(timedelta(seconds=max(keepalive, LEAST_AGE)))
    return _pack(
        HttpProtocolOptions(common_http_protocol_options=common, explicit_http_config={"http_protocol_options": {}})
    )


TCP_CHECK = Check(tcp=True, interval=0.8, timeout=0.25, unhealthy_after=3)
"""Of processes that declare none, and quick: it is the kernel that answers, however slow the app."""
TCP_RETRY_INTERVAL = 0.15  # seconds between tries of an endpoint that does not answer it


def find_blind_time(check: Check | None) -> float:
    """Return after how many seconds at most an endpoint whose node vanished is unhealthy by this check."""
    check, again = (check, UNHEALTHY_INTERVAL) if check else (TCP_CHECK, TCP_RETRY_INTERVAL)
    jitter, timeout = 1 + CHECK_JITTER / 100, min(check.timeout, CHECK_TIMEOUT_LIMIT)
    tries = check.unhealthy_after
    return max(check.interval, again) * jitter + tries * timeout + (tries - 1) * again * jitter


def _build_health_check(backend: Backend) -> Any:
    check, again = (backend.check, UNHEALTHY_INTERVAL) if backend.check else (TCP_CHECK, TCP_RETRY_INTERVAL)
    message = HealthCheck(
        timeout=timedelta(seconds=min(check.timeout, CHECK_TIMEOUT_LIMIT)),
        interval=timedelta(seconds=max(check.interval, again)),
        interval_jitter_percent=CHECK_JITTER,
        unhealthy_interval=timedelta(seconds=again),
        unhealthy_edge_interval=timedelta(seconds=UNHEALTHY_INTERVAL),
        healthy_edge_interval=timedelta(seconds=UNHEALTHY_INTERVAL),
        # These hold as long as a cluster's own statistics say that it never had a connection: always, as routers
        # keep none (see seaway.router.bootstrap).
        no_traffic_interval=timedelta(seconds=again),
        no_traffic_healthy_interval=timedelta(seconds=max(check.interval, again)),
        unhealthy_threshold={"value": check.unhealthy_after},
        healthy_threshold={"value": check.healthy_after},
        reuse_connection={"value": False},
        event_logger=[{"name": "envoy.health_check.event_sinks.file", "typed_config": _EVENT_SINK}],
    )
    if check.http is not None:
        http = message.http_health_check
        http.path, http.host = check.http, backend.host
        http.expected_statuses.add(start=200, end=400)
        for key, value in {"User-Agent": "seaway-router", **make_check_headers("")}.items():
            http.request_headers_to_add.add(**_header(key.lower(), value))
    else:
        message.tcp_health_check.SetInParent()
    return message


def build_endpoints(backend: Backend) -> Any:
    """Return the ClusterLoadAssignment of one release; draining endpoints stay in it as DRAINING.

    Degraded ones get no request while any other is healthy.
    """
    assignment = ClusterLoadAssignment(
        cluster_name=backend.cluster, policy={"overprovisioning_factor": {"value": ONLY_HEALTHY}}
    )
    group = assignment.endpoints.add()
    for endpoint in backend.endpoints:
        entry = group.lb_endpoints.add(health_status=_find_status(endpoint))
        entry.endpoint.address.socket_address.address = endpoint.address
        entry.endpoint.address.socket_address.port_value = endpoint.port
    return assignment


def _find_status(endpoint: Endpoint) -> str:
    if endpoint.draining:
        return "DRAINING"
    return "DEGRADED" if endpoint.degraded else "UNKNOWN"


def build_scope(host: str, rules: Iterable[Rule]) -> Any:
    """Return the ScopedRouteConfiguration of one host, with its routes inline."""
    routes = [route for rule in rules for route in _build_routes(rule)]
    return ScopedRouteConfiguration(
        name=host,
        key={"fragments": [{"string_key": host}]},
        route_configuration=RouteConfiguration(
            name=host, virtual_hosts=[VirtualHost(name=host, domains=["*"], routes=routes)]
        ),
    )


def _build_routes(rule: Rule) -> list[Any]:
    """Return the Envoy routes of one rule: idempotent methods first, because they may be retried more often."""
    if not rule.target.weights:
        return [_build_refusal(rule)]
    idempotent, rest = _start_route(rule), _start_route(rule)
    idempotent.match.headers.add(name=":method", string_match={"safe_regex": {"regex": IDEMPOTENT}})
    idempotent.route.CopyFrom(_build_action(rule.target, SAFE_FOR_IDEMPOTENT))
    rest.route.CopyFrom(_build_action(rule.target, SAFE_FOR_ALL))
    if len(rule.target.weights) == 1:
        for route in (idempotent, rest):
            route.response_headers_to_add.add(**_header("x-seaway-release", f"v{rule.target.weights[0][0]}"))
    return [idempotent, rest]


def _build_refusal(rule: Rule) -> Any:
    reason, body = ("no-web-process", NO_WEB_BODY) if rule.target.webless else ("no-release", NO_RELEASE_BODY)
    route = _start_route(rule)
    route.direct_response.status = 503
    route.direct_response.body.inline_string = body.format(app=rule.target.app)
    route.response_headers_to_add.add(**_header("x-seaway-reason", reason))
    return route


def _start_route(rule: Rule) -> Any:
    route = Route(request_body_buffer_limit={"value": RETRY_BUFFER})
    if rule.path == "/":
        route.match.prefix = "/"
    else:
        route.match.path_separated_prefix = rule.path
    route.metadata.filter_metadata["seaway"].CopyFrom(_struct(app=rule.target.app))
    return route


def _build_action(target: Target, retry_on: str) -> Any:
    action = RouteAction(
        timeout=timedelta(0),  # streams may take as long as they move
        idle_timeout=timedelta(seconds=target.idle_timeout),
        retry_policy=RetryPolicy(
            retry_on=retry_on,
            num_retries={"value": RETRIES},
            retry_host_predicate=[{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": _PREVIOUS}],
            host_selection_retry_max_attempts=OTHER_DRAWS,
            retry_back_off={
                "base_interval": timedelta(seconds=RETRY_FIRST), "max_interval": timedelta(seconds=RETRY_LAST)
            },
        ),
    )  # fmt: skip
    if len(target.weights) == 1:
        action.cluster = cluster_name(target.app, target.weights[0][0])
        return action
    for number, weight in target.weights:
        entry = action.weighted_clusters.clusters.add(name=cluster_name(target.app, number), weight={"value": weight})
        entry.response_headers_to_add.add(**_header("x-seaway-release", f"v{number}"))
    return action


def _header(key: str, value: str) -> dict[str, Any]:
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _struct(**fields: str) -> Struct:
    struct = Struct()
    struct.update(fields)
    return struct


def _pack(message: Any) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message, deterministic=True)
    return packed


def _serialise(message: Any) -> bytes:
    body: bytes = message.SerializeToString(deterministic=True)
    return body


_EVENT_SINK = _pack(HealthCheckEventFileSink(event_log_path=HEALTH_LOG))
_PREVIOUS = _pack(PreviousHostsPredicate())

__all__ = [
    "CLUSTER", "ENDPOINTS", "HEALTH_LOG", "MAKE_ORDER", "SCOPE", "build_cluster",
    "build_endpoints", "build_scope", "find_blind_time", "translate_app", "translate_host", "version_of",
]  # fmt: skip

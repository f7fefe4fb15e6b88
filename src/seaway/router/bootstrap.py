"""Envoy's bootstrap for one router: listener, connection manager, access log, Seaway's own answers. Pure.

Everything here is fixed for the life of an Envoy; what changes comes over ADS from the relay. Paths are relative
to the router's folder, Envoy's working directory, except sockets (their paths are bounded in length).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from seaway.router.limits import (
    CONNECTION_BUFFER,
    HEADER_LINES,
    HEADERS_KIB,
    HEADERS_TIMEOUT,
    IDLE_CONNECTION,
    RETRY_AFTER,
    STREAMS,
)

ACCESS_LOG = "access.log"
HTTP_STATS = "http.ingress."
RELAY_CLUSTER = "seaway_relay"
UPGRADE = "websocket"
"""The only protocol that connections are upgraded to. A request for another is an ordinary one (RFC 9110, 7.8, lets a
server ignore Upgrade; nginx passes such requests on without it, too). Envoy by itself answers 403."""

_TYPE = "type.googleapis.com/envoy."


@dataclass(frozen=True)
class RouterConfig:
    """What one router needs to know. `relay_socket` and `admin_socket` are paths of unix sockets.

    `connections`: how many of clients it takes at a time. `trusted`: networks, as ADDRESS/BITS, of proxies that are
    believed what they say of a client.
    """

    name: str
    bind: str
    port: int
    relay_socket: str
    admin_socket: str
    connections: int
    trusted: tuple[str, ...] = ()


@dataclass(frozen=True)
class LocalReply:
    """What Seaway answers itself: which Envoy response flags, status (None: Envoy's), reason code and sentence.

    `code`: Envoy's own status instead of flags, for requests that it could not read: it has no flags for them yet when
    it answers. `retry_after`: seconds to wait, told to the client.
    """

    flags: tuple[str, ...]
    status: int | None
    reason: str
    text: str
    code: int | None = None
    retry_after: int | None = None


LOCAL_REPLIES = (
    LocalReply(("NR",), 404, "no-such-app", "no app has a route for %REQ(:authority)%%REQ(:path)%"),
    LocalReply(("NC",), 503, "no-release", "the release for this request is not in this router yet"),
    LocalReply(("UH",), 503, "no-healthy-instance", "app %METADATA(ROUTE:seaway:app)% has no healthy instance"),
    LocalReply(
        ("UT", "SI", "DT"),
        None,
        "timed-out",
        "the request to app %METADATA(ROUTE:seaway:app)% timed out: no byte came for too long",
    ),
    LocalReply(
        ("UO",),
        503,
        "overloaded",
        "app %METADATA(ROUTE:seaway:app)% has too many requests in flight; try again later",
        retry_after=RETRY_AFTER,
    ),
    LocalReply(
        ("UF",), 502, "instance-unreachable", "no instance of app %METADATA(ROUTE:seaway:app)% accepts connections"
    ),
    LocalReply(
        ("UPE",),
        502,
        "bad-answer",
        "what the instance of app %METADATA(ROUTE:seaway:app)% answered is no valid HTTP, or has more than"
        f" {HEADERS_KIB} KiB or {HEADER_LINES} lines of headers",
    ),
    LocalReply(
        ("UC", "UR", "LR", "URX"),
        502,
        "instance-failed",
        "the instance of app %METADATA(ROUTE:seaway:app)% broke off before it answered",
    ),
    LocalReply(
        (),
        431,
        "headers-too-large",
        f"the request has more than {HEADERS_KIB} KiB or {HEADER_LINES} lines of headers",
        code=431,
    ),
    LocalReply(
        (),
        408,
        "timed-out",
        f"the first line and the headers of the request took longer than {HEADERS_TIMEOUT:g} s",
        code=408,
    ),
    LocalReply(
        (),
        502,
        "instance-failed",
        "the instance of app %METADATA(ROUTE:seaway:app)% was gone before it took the request, of whose body too much"
        " had come to be sent to another",
        code=507,
    ),
    LocalReply((), 426, "bad-request", "HTTP before version 1.1 is not spoken here", code=426),
    LocalReply((), 400, "bad-request", "this is no valid HTTP request", code=400),
    LocalReply(("DPE",), None, "bad-request", "this is no valid HTTP request"),
)

ACCESS_FIELDS = {
    "@timestamp": "%START_TIME(%Y-%m-%dT%H:%M:%E3SZ)%",
    "ecs.version": "8.11",
    "event.dataset": "seaway.access",
    "event.duration": "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:ns)%",
    "http.request.method": "%REQ(:method)%",
    "http.request.id": "%REQ(x-request-id)%",
    "http.request.body.bytes": "%BYTES_RECEIVED%",
    "http.response.status_code": "%RESPONSE_CODE%",
    "http.response.body.bytes": "%BYTES_SENT%",
    "http.version": "%PROTOCOL%",
    "url.domain": "%REQ(:authority)%",
    "url.path": "%PATH(NQ)%",
    "user_agent.original": "%REQ(user-agent)%",
    "client.ip": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "destination.address": "%UPSTREAM_HOST%",
    "service.name": "%METADATA(ROUTE:seaway:app)%",
    "service.version": "%METADATA(CLUSTER:seaway:release)%",
    "seaway.cluster": "%UPSTREAM_CLUSTER_RAW%",
    "seaway.attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "seaway.flags": "%RESPONSE_FLAGS%",
    "seaway.detail": "%RESPONSE_CODE_DETAILS%",
}
"""Fields of a line of the access log; docs/router.md explains them."""

CHECK_HOST = """
function envoy_on_request(handle)
  local headers = handle:headers()
  local host = headers:get(":authority")
  if string.find(host, ",", 1, true) then
    handle:respond({[":status"] = "400"})
    return
  end
  headers:replace(":authority", string.lower(host))
  handle:clearRouteCache()
end
"""
"""Of two Host headers Envoy makes one with a comma; RFC 9112, 3.2, has such requests answered 400."""
PLAIN_HOST = "[^A-Z,]*"  # what the above need not look at


def build_bootstrap(config: RouterConfig) -> dict[str, Any]:
    """Return the bootstrap as the JSON that Envoy reads."""
    return {
        "node": {"id": config.name, "cluster": "seaway"},
        "admin": {"address": {"pipe": {"path": config.admin_socket, "mode": 0o600}}},
        "static_resources": {
            "listeners": [_build_listener(config)],
            "clusters": [_build_relay_cluster(config.relay_socket)],
        },
        "dynamic_resources": {
            "ads_config": _grpc_source("DELTA_GRPC"),
            "cds_config": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"},
        },
        "cluster_manager": {"load_stats_config": _grpc_source("GRPC")},
        "overload_manager": {"resource_monitors": [_build_connection_limit(config.connections)]},
        # Statistics of clusters make large tables slow; requests are counted from load reports.
        "stats_config": {
            "stats_matcher": {
                "inclusion_list": {
                    "patterns": [
                        {"prefix": HTTP_STATS},
                        {"prefix": "server."},
                        {"prefix": "listener_manager."},
                        {"prefix": "cluster_manager."},
                        {"prefix": "control_plane."},
                        {"exact": "filesystem.write_failed"},
                    ]
                }
            }
        },
    }


def _grpc_source(api_type: str) -> dict[str, Any]:
    backoff = {"base_interval": "0.05s", "max_interval": "0.5s"}
    return {
        "api_type": api_type,
        "transport_api_version": "V3",
        "set_node_on_first_message_only": True,
        "grpc_services": [{"envoy_grpc": {"cluster_name": RELAY_CLUSTER, "retry_policy": {"retry_back_off": backoff}}}],
    }


def _build_connection_limit(connections: int) -> dict[str, Any]:
    """Return the limit of clients' connections; Envoy closes those beyond as soon as it has accepted them."""
    return {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {
            "@type": _TYPE + "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
            "max_active_downstream_connections": connections,
        },
    }


def _build_relay_cluster(socket: str) -> dict[str, Any]:
    options = {
        "@type": _TYPE + "extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    endpoint = {"endpoint": {"address": {"pipe": {"path": socket}}}}
    return {
        "name": RELAY_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        "load_assignment": {"cluster_name": RELAY_CLUSTER, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _build_listener(config: RouterConfig) -> dict[str, Any]:
    return {
        "name": "http",
        "address": {"socket_address": {"address": config.bind, "port_value": config.port}},
        "enable_reuse_port": True,  # several routers share the port
        "tcp_backlog_size": 4096,
        "per_connection_buffer_limit_bytes": CONNECTION_BUFFER,
        "filter_chains": _build_chains(config),
    }


def _build_chains(config: RouterConfig) -> list[dict[str, Any]]:
    """Return a chain for everybody, and before it one for connections that come from trusted proxies, if there are any.

    Who is trusted is thereby a matter of a connection's peer, and of nothing that is in a request.
    """
    everybody = {"filters": [_wrap_manager(_build_manager(config) | _DISTRUST)]}
    if not config.trusted:
        return [everybody]
    cidrs = [_build_cidr(network) for network in config.trusted]
    trusted = {
        "name": "trusted",
        "filter_chain_match": {"direct_source_prefix_ranges": cidrs},
        "filters": [_wrap_manager(_build_manager(config) | _build_trust(cidrs))],
    }
    return [trusted, {"name": "everybody", **everybody}]


def _wrap_manager(manager: dict[str, Any]) -> dict[str, Any]:
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}


def _build_cidr(network: str) -> dict[str, Any]:
    address, _, bits = network.partition("/")
    return {"address_prefix": address, "prefix_len": int(bits)}


def _build_trust(cidrs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a manager does with requests from trusted proxies: X-Forwarded-Proto stays, where there is one.

    The client is the last address in X-Forwarded-For that is no trusted proxy's. Envoy takes such a request for one
    from inside, of which it believes more than that: headers of its own are removed here.
    """
    return {
        "use_remote_address": False,
        "original_ip_detection_extensions": [
            {
                "name": "envoy.http.original_ip_detection.xff",
                "typed_config": {
                    "@type": _TYPE + "extensions.http.original_ip_detection.xff.v3.XffConfig",
                    "xff_trusted_cidrs": {"cidrs": cidrs},
                    "skip_xff_append": True,
                },
            }
        ],
        "early_header_mutation_extensions": [
            _build_mutation({"remove_on_match": {"key_matcher": {"prefix": "x-envoy-", "ignore_case": True}}}),
            _build_forwarded_for("APPEND_IF_EXISTS_OR_ADD"),
        ],
    }


def _build_manager(config: RouterConfig) -> dict[str, Any]:
    """Return what all connections have in common."""
    return {
        "@type": _TYPE + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ingress",
        "scoped_routes": _build_scopes(),
        "http_filters": [_build_host_check(), _build_router_filter()],
        "upgrade_configs": [{"upgrade_type": UPGRADE}],
        "http_protocol_options": {
            "ignore_http_11_upgrade": [{"safe_regex": {"google_re2": {}, "regex": build_other_than(UPGRADE)}}]
        },
        "internal_address_config": {"cidr_ranges": [_NOBODY]},  # nobody's x-envoy- headers are trusted
        "skip_xff_append": True,  # Envoy would put its own address in place of 127.0.0.1
        "append_x_forwarded_port": True,
        "server_header_transformation": "PASS_THROUGH",
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        "request_id_extension": {
            "typed_config": {
                "@type": _TYPE + "extensions.request_id.uuid.v3.UuidRequestIdConfig",
                "pack_trace_reason": False,  # ids pass unchanged
            }
        },
        "normalize_path": True,  # else /a/../b would escape a path prefix
        "strip_trailing_host_dot": True,
        "request_headers_timeout": f"{HEADERS_TIMEOUT:g}s",
        "delayed_close_timeout": "1s",
        "common_http_protocol_options": {"idle_timeout": f"{IDLE_CONNECTION:g}s", "max_headers_count": HEADER_LINES},
        "max_request_headers_kb": HEADERS_KIB,
        "http2_protocol_options": {"max_concurrent_streams": STREAMS},
        "access_log": [_build_access_log(config.name)],
        "local_reply_config": {
            "mappers": [_build_mapper(reply) for reply in LOCAL_REPLIES],
        },
    }


def build_other_than(word: str) -> str:
    """Return a regular expression for all texts but the word, in whatever case."""
    others = [f"{word[:n]}(?:[^{word[n]}].*)?" for n in range(len(word))]
    return f"(?i:{'|'.join(others)}|{word}.+)"


_NOBODY = {"address_prefix": "255.255.255.255", "prefix_len": 32}


def _build_forwarded_for(action: str) -> dict[str, Any]:
    header = {"key": "x-forwarded-for", "value": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"}
    return _build_mutation({"append": {"header": header, "append_action": action}})


def _build_mutation(mutation: dict[str, Any]) -> dict[str, Any]:
    """Return a change to a request's headers that is made before anything looks at them."""
    return {
        "name": "change-headers",
        "typed_config": {
            "@type": _TYPE + "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            "mutations": [mutation],
        },
    }


_DISTRUST: dict[str, Any] = {
    "use_remote_address": True,  # X-Forwarded-Proto is what the connection is
    "early_header_mutation_extensions": [_build_forwarded_for("OVERWRITE_IF_EXISTS_OR_ADD")],
}
"""What a manager does with requests of everybody: what they say of their client may be a lie."""


def _build_scopes() -> dict[str, Any]:
    """Return the selection of a scope by Host without its port; the header itself reaches the app as it came."""
    source = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    extractor = {"name": ":authority", "element_separator": ":", "index": 0}
    return {
        "name": "hosts",
        "scope_key_builder": {"fragments": [{"header_value_extractor": extractor}]},
        "rds_config_source": source,
        "scoped_rds": {"scoped_rds_config_source": source},
    }


def _build_host_check() -> dict[str, Any]:
    """Return a filter that lower-cases the Host header and refuses two, skipped (for the price of one match) mostly."""
    return {
        "name": "check-host",
        "typed_config": {
            "@type": _TYPE + "extensions.common.matching.v3.ExtensionWithMatcher",
            "extension_config": {
                "name": "envoy.filters.http.lua",
                "typed_config": {
                    "@type": _TYPE + "extensions.filters.http.lua.v3.Lua",
                    "default_source_code": {"inline_string": CHECK_HOST},
                },
            },
            "xds_matcher": {
                "matcher_list": {
                    "matchers": [
                        {
                            "predicate": {
                                "single_predicate": {
                                    "input": {
                                        "name": "host",
                                        "typed_config": {
                                            "@type": _TYPE + "type.matcher.v3.HttpRequestHeaderMatchInput",
                                            "header_name": ":authority",
                                        },
                                    },
                                    "value_match": {"safe_regex": {"google_re2": {}, "regex": PLAIN_HOST}},
                                }
                            },
                            "on_match": {
                                "action": {
                                    "name": "skip",
                                    "typed_config": {
                                        "@type": _TYPE + "extensions.filters.common.matcher.action.v3.SkipFilter"
                                    },
                                }
                            },
                        }
                    ]
                }
            },
        },
    }


def _build_router_filter() -> dict[str, Any]:
    return {
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": _TYPE + "extensions.filters.http.router.v3.Router",
            "suppress_envoy_headers": True,
        },
    }


def _build_access_log(router: str) -> dict[str, Any]:
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": _TYPE + "extensions.access_loggers.file.v3.FileAccessLog",
            "path": ACCESS_LOG,
            "log_format": {
                "json_format": {**ACCESS_FIELDS, "seaway.router": router},
                "omit_empty_values": True,
            },
        },
    }


def _build_mapper(reply: LocalReply) -> dict[str, Any]:
    headers = {"x-seaway-reason": reply.reason}
    if reply.retry_after is not None:
        headers["retry-after"] = str(reply.retry_after)
    mapper: dict[str, Any] = {
        "filter": _build_reply_filter(reply),
        "headers_to_add": [
            {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for key, value in headers.items()
        ],
        "body_format_override": {
            "text_format_source": {"inline_string": f"Seaway: {reply.text}.\n"},
            "content_type": "text/plain; charset=utf-8",
        },
    }
    if reply.status is not None:
        mapper["status_code"] = reply.status
    return mapper


def _build_reply_filter(reply: LocalReply) -> dict[str, Any]:
    if reply.code is None:
        return {"response_flag_filter": {"flags": list(reply.flags)}}
    value = {"default_value": reply.code, "runtime_key": f"seaway.status_of.{reply.reason}"}  # Envoy insists on a key
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


__all__ = ["ACCESS_FIELDS", "ACCESS_LOG", "HTTP_STATS", "LOCAL_REPLIES", "RouterConfig", "build_bootstrap"]

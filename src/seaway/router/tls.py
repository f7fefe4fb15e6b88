"""xDS between machines: mutual TLS. Files are read anew for each connection, so that renewed ones need no restart.

A folder holds `ca.crt`, `tls.crt` and `tls.key`, as a Kubernetes Secret of type kubernetes.io/tls mounted whole
does. Whoever shows a certificate of that CA with the common name ROUTER_NAME is a router.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

from seaway.router.links import ROUTER_HEADER, Connector
from seaway.router.serving import GRPC_OPTIONS

SERVER_NAME = "seaway-control"  # a DNS name in the control plane's certificate
ROUTER_NAME = "seaway-router"  # the common name of routers' certificates


def make_server_credentials(folder: Path) -> Any:
    """Return credentials that ask each client for a certificate; renewed files are taken up by new connections."""

    def read() -> Any:
        pair = ((folder / "tls.key").read_bytes(), (folder / "tls.crt").read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=(folder / "ca.crt").read_bytes())

    return grpc.dynamic_ssl_server_credentials(read(), read, require_client_authentication=True)


def is_router(auth_context: Any) -> bool:
    """Return whether a peer showed the certificate of a router."""
    return ROUTER_NAME.encode() in (auth_context or {}).get("x509_common_name", ())


def connect_tls(host: str, port: int, folder: Path, name: str) -> Connector:
    """Return the way to every replica behind a DNS name that has all their addresses (a headless Service)."""

    async def resolve() -> Sequence[str]:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = {(info[0], str(info[4][0])) for info in found}
        return sorted(
            f"ipv6:[{address}]:{port}" if family == socket.AF_INET6 else f"ipv4:{address}:{port}"
            for family, address in addresses
        )

    def connect(target: str) -> Any:
        credentials = grpc.ssl_channel_credentials(
            (folder / "ca.crt").read_bytes(), (folder / "tls.key").read_bytes(), (folder / "tls.crt").read_bytes()
        )
        options = (*GRPC_OPTIONS, ("grpc.ssl_target_name_override", SERVER_NAME))
        return grpc.aio.secure_channel(target, credentials, options=options)

    return Connector(resolve=resolve, connect=connect, metadata=lambda: ((ROUTER_HEADER, name),))

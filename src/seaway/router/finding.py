"""Where the replicas of the control plane are, for a router in a cluster.

Asked in this order: the addresses it was given; the API server, for the one Endpoints object that names every
replica; DNS. If none of them answers, those that are known stay, and a router that has just started takes the ones
it wrote down last. So neither a dead DNS nor a dead API server parts routers from the control plane.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import structlog
from lightkube.core.exceptions import ConfigError

from seaway.kube.client import KubeClient
from seaway.kube.errors import KubeError

log = structlog.get_logger("seaway.router")

ASK_LIMIT = 2.0  # seconds for each way of asking
Ask = Callable[[], Awaitable[Collection[str]]]
"""Returns gRPC targets; raises OSError or KubeError if nobody answers."""


class _Address(msgspec.Struct):
    ip: str


class _Subset(msgspec.Struct, rename="camel"):
    addresses: list[_Address] = []
    not_ready_addresses: list[_Address] = []


class _Endpoints(msgspec.Struct):
    subsets: list[_Subset] = []


def ask_kubernetes(client: KubeClient, namespace: str, service: str, port: int) -> Ask:
    """Ask the API server for a Service's Endpoints, ready or not. Answered from its memory: this costs it little."""
    path = f"/api/v1/namespaces/{namespace}/endpoints/{service}"

    async def ask() -> Collection[str]:
        try:
            found = await client.fetch(_Endpoints, path, {"resourceVersion": "0"})
        except (ConfigError, msgspec.MsgspecError) as error:  # no token in this pod, or not Kubernetes that answers
            raise OSError(str(error)) from error
        every = (subset.addresses + subset.not_ready_addresses for subset in found.subsets)
        return {make_target(address.ip, port) for addresses in every for address in addresses}

    return ask


def ask_dns(hosts: Iterable[tuple[str, int]]) -> Ask:
    """Ask DNS for the addresses of each (host, port); an address is its own answer."""

    async def ask() -> Collection[str]:
        loop = asyncio.get_running_loop()
        found = set()
        for host, port in hosts:
            infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found |= {make_target(str(info[4][0]), port) for info in infos}
        return found

    return ask


def make_target(address: str, port: int) -> str:
    """Return the gRPC target of an IP address and a port."""
    if ipaddress.ip_address(address.partition("%")[0]).version == 6:
        return f"ipv6:[{address}]:{port}"
    return f"ipv4:{address}:{port}"


def parse_addresses(text: str, port: int) -> tuple[tuple[str, int], ...]:
    """Parse "host, host:port, [v6]:port"; `port` is for those without one; ValueError names what is wrong."""
    found = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        parts = urlsplit(f"//{word}")
        try:
            number = parts.port or port
        except ValueError:
            number = 0
        if not parts.hostname or parts.path or not number:
            raise ValueError(f"{word!r} is no address: write HOST or HOST:PORT")
        found.append((parts.hostname, number))
    return tuple(found)


class ControlFinder:
    """Asks `ways` in turn; `memory` is a file that keeps the last answer."""

    def __init__(self, ways: Sequence[Ask], memory: Path) -> None:
        self._ways = ways
        self._memory = memory
        self._known: tuple[str, ...] = ()

    async def find(self) -> Sequence[str]:
        """Return gRPC targets; raise OSError if nobody says and none are known."""
        problems = []
        for ask in self._ways:
            try:
                async with asyncio.timeout(ASK_LIMIT):
                    found = tuple(sorted(await ask()))
            except (OSError, KubeError, TimeoutError) as error:
                problems.append(str(error) or type(error).__name__)
                continue
            if found:
                self._keep(found)
                return found
            problems.append("no replica is named")  # the control plane is being replaced: keep to what is known
        if not self._known:
            self._known = self._recall()
            if not self._known:
                raise OSError("; ".join(problems))
            log.warning("the control plane is looked for where it was last", replicas=self._known, problems=problems)
        return self._known

    def _keep(self, found: tuple[str, ...]) -> None:
        if found == self._known:
            return
        log.info("replicas of the control plane", replicas=found)
        self._known = found
        temporary = self._memory.with_suffix(".new")
        temporary.write_text(json.dumps(found))
        temporary.replace(self._memory)

    def _recall(self) -> tuple[str, ...]:
        try:
            return tuple(map(str, json.loads(self._memory.read_text())))
        except (OSError, ValueError, TypeError):
            return ()

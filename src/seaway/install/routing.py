"""A router in a cluster: what its environment says, made into a router's parts."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from seaway.home import Home, Settings
from seaway.install.settings import DRAIN_LIMIT, IDLE_LIMIT, XDS_PORT, XDS_SERVICE, ClusterSettings
from seaway.kube.client import KubeClient
from seaway.kube.errors import Misconfigured
from seaway.router.finding import Ask, ControlFinder, ask_dns, ask_kubernetes, parse_addresses
from seaway.router.running import Balanced, run_router
from seaway.router.tls import connect_tls

MEMORY = "control.json"


async def run_cluster_router(name: str, home: Home, settings: ClusterSettings) -> int:
    """Run the router of this pod until it is told to stop; return the exit code."""
    service = f"{XDS_SERVICE}.{settings.namespace}.svc"
    async with AsyncExitStack() as stack:
        ways: list[Ask] = []
        if settings.control:
            ways.append(ask_dns(parse_addresses(settings.control, XDS_PORT)))
        else:
            try:
                client = KubeClient.open()
            except Misconfigured:  # a pod without the right to ask: DNS is left
                pass
            else:
                stack.push_async_callback(client.close)
                ways.append(ask_kubernetes(client, settings.namespace, XDS_SERVICE, XDS_PORT))
            ways.append(ask_dns([(service, XDS_PORT)]))
        folder = home.router(name)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        finder = ControlFinder(ways, folder / MEMORY)
        connector = replace(connect_tls(service, XDS_PORT, Path(settings.tls_folder), name), resolve=finder.find)
        return await run_router(
            name,
            home,
            Settings(
                bind=settings.bind,
                http_port=settings.http_port,
                domain=settings.domain,
                trusted_proxies=settings.trusted_proxies,
            ),
            DRAIN_LIMIT,
            connector,
            balanced=Balanced(settings.bind, settings.ready_port, settings.balancer_wait, IDLE_LIMIT),
        )

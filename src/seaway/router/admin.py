"""Envoy's admin interface, on a unix socket that only this user can open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

ADMIN_TIMEOUT = 10.0  # seconds; a table of 10,000 apps takes a while to print
LIVE_TIMEOUT = 4.0  # seconds; whoever asks for this, as a kubelet does, waits 5 and then hears nothing of why

_UNHEALTHY = ("failed_active_health_check", "pending_active_hc")


class EnvoyAdmin:
    """Calls Envoy's admin interface; every method may raise httpx2.HTTPError."""

    def __init__(self, socket: Path) -> None:
        # A socket has no certificates, and reading them takes a while.
        transport = httpx2.AsyncHTTPTransport(uds=str(socket), verify=False)
        self._client = httpx2.AsyncClient(transport=transport, base_url="http://admin", timeout=ADMIN_TIMEOUT)

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()

    async def _post(self, path: str) -> None:
        (await self._client.post(path)).raise_for_status()

    async def reopen_logs(self) -> None:
        """Make Envoy open its log files anew, after they were renamed."""
        await self._post("/reopen_logs")

    async def is_live(self) -> bool:
        """Return whether Envoy serves: its listeners are up, and it is not draining by its own decision."""
        return (await self._client.get("/ready", timeout=LIVE_TIMEOUT)).status_code == httpx2.codes.OK

    async def begin_draining(self) -> None:
        """Ask clients to go (Connection: close, GOAWAY) from now on; connections are accepted as before."""
        await self._post("/drain_listeners?graceful&skip_exit")

    async def count_active(self) -> int:
        """Return the requests in flight, upgraded connections included."""
        return await self._read_stat("http.ingress.downstream_rq_active")

    async def count_connections(self) -> int:
        """Return the clients' connections, idle ones included."""
        return await self._read_stat("http.ingress.downstream_cx_active")

    async def count_failed_writes(self) -> int:
        """Return how often Envoy could not write to one of its logs: what it would have said there is lost."""
        return await self._read_stat("filesystem.write_failed")

    async def _read_stat(self, name: str) -> int:
        response = await self._client.get(f"/stats?filter=^{name}$&format=json")
        response.raise_for_status()
        stats = response.json()["stats"]
        return sum(int(stat.get("value", 0)) for stat in stats)

    async def list_healthy(self) -> dict[str, set[str]]:
        """Return the addresses ("ip:port") per cluster that active health checks find good now."""
        response = await self._client.get("/clusters?format=json")
        response.raise_for_status()
        healthy: dict[str, set[str]] = {}
        for cluster, address in _find_healthy(response.json()):
            healthy.setdefault(cluster, set()).add(address)
        return healthy


def _find_healthy(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for cluster in document.get("cluster_statuses", ()):
        for host in cluster.get("host_statuses", ()):
            address = host.get("address", {}).get("socket_address")
            status = host.get("health_status", {})
            if address and not any(status.get(field) for field in _UNHEALTHY):
                yield cluster["name"], f"{address['address']}:{address['port_value']}"

"""Proxies in front of a real Envoy: whose word about a request's client is believed, and whose is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from seaway.router.bootstrap import ACCESS_LOG
from tests.contract.router_lab import Lab, make_app, make_instance

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROXY, IN_NETWORK, STRANGER, NEAR = "127.0.0.5", "127.1.2.3", "127.0.0.1", "127.2.0.1"  # all of 127/8 is this machine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    async with running(tmp_path_factory.mktemp("home"), trusted_proxies=f"{PROXY},127.1.0.0/16,2001:db8::/32") as lab:
        yield lab


@asynccontextmanager
async def running(root: Path, **settings: Any) -> AsyncIterator[Lab]:
    """Yield a router with an app behind it."""
    lab = Lab(root, **settings)
    try:
        await lab.start_plane()
        blue = await lab.start_backend("blue")
        lab.set_app(make_app("shop", {1: 100}), make_instance("shop", 1, blue.port))
        lab.plane.open()
        await lab.start_router("r1")
        await lab.until_acked("shop")
        await lab.until_healthy("shop:v1")
        yield lab
    finally:
        await lab.close()


@dataclass(frozen=True)
class Seen:
    """What the app was told of a client, and what the access log says."""

    chain: str
    scheme: str
    logged: str


async def ask(lab: Lab, peer: str, *headers: str) -> Seen:
    """Send a request from an address of this machine."""
    reader, writer = await asyncio.open_connection(lab.settings.bind, lab.settings.http_port, local_addr=(peer, 0))
    path = f"/{peer}/{abs(hash(headers))}"
    lines = [f"GET {path} HTTP/1.1", "Host: shop.localhost", "Connection: close", *headers, "", ""]
    async with asyncio.timeout(10):
        writer.write("\r\n".join(lines).encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        told = json.loads(answer.partition(b"\r\n\r\n")[2])["headers"]
        assert {value for name, value in told.items() if name.startswith("x-envoy-")} <= {peer}
        while True:
            lines = (lab.home.router("r1") / ACCESS_LOG).read_text().rpartition("\n")[0].splitlines()
            found = [line["client.ip"] for line in map(json.loads, lines) if line["url.path"] == path]
            if found:
                break
            await asyncio.sleep(0.02)  # a file: nobody is told
    return Seen(told["x-forwarded-for"].replace(" ", ""), told["x-forwarded-proto"], found[-1])


HTTPS = "X-Forwarded-Proto: https"
FORGED = ["x-envoy-retry-on: 5xx", "x-envoy-internal: true", "X-Envoy-External-Address: 203.0.113.9"]


@pytest.mark.parametrize("proxy", [PROXY, IN_NETWORK])
async def test_a_trusted_proxy_is_believed(lab: Lab, proxy: str) -> None:
    """Who the client is and that it came by HTTPS; the app is told of the proxy, too."""
    seen = await ask(lab, proxy, "X-Forwarded-For: 192.0.2.7", HTTPS, *FORGED)
    assert seen == Seen(f"192.0.2.7,{proxy}", "https", "192.0.2.7")
    seen = await ask(lab, proxy, "X-Forwarded-For: 2001:db9::7", "X-Forwarded-Proto: http")
    assert seen == Seen(f"2001:db9::7,{proxy}", "http", "2001:db9::7")


@pytest.mark.parametrize("stranger", [STRANGER, NEAR])
async def test_nobody_else_is(lab: Lab, stranger: str) -> None:
    """Neither header, however often it is sent, nor one that names a trusted proxy."""
    for forged in (["X-Forwarded-For: 192.0.2.7"], ["X-Forwarded-For: 192.0.2.7", f"X-Forwarded-For: {PROXY}"],
                   [f"x-forwarded-for: {PROXY}, {PROXY}"], []):  # fmt: skip
        seen = await ask(lab, stranger, *forged, HTTPS, HTTPS, *FORGED)
        assert seen == Seen(stranger, "http", stranger)


async def test_a_client_cannot_forge_through_a_trusted_proxy(lab: Lab) -> None:
    """What it wrote stands left of what the proxy saw; of several proxies all that are trusted are passed over."""
    seen = await ask(lab, PROXY, f"X-Forwarded-For: 203.0.113.9, 192.0.2.7, {IN_NETWORK}", HTTPS)
    assert seen == Seen(f"203.0.113.9,192.0.2.7,{IN_NETWORK},{PROXY}", "https", "192.0.2.7")


async def test_a_trusted_proxy_that_says_nothing_is_the_client(lab: Lab) -> None:
    assert await ask(lab, PROXY) == Seen(PROXY, "http", PROXY)


@pytest.mark.parametrize(("trusted", "believed"), [("::1", True), ("2001:db8::/32", False)])
async def test_proxies_have_addresses_of_either_family(tmp_path: Path, trusted: str, believed: bool) -> None:
    async with running(tmp_path, bind="::1", trusted_proxies=trusted) as lab:
        seen = await ask(lab, "::1", "X-Forwarded-For: 192.0.2.7", HTTPS)
    assert seen == (Seen("192.0.2.7,::1", "https", "192.0.2.7") if believed else Seen("::1", "http", "::1"))

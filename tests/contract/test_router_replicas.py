"""A real router between two replicas of the control plane, over mutual TLS."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from seaway.install.pki import Pair, issue, make_ca
from seaway.router.plane import XdsPlane
from seaway.router.serving import REPORT_METHOD, REPORT_SERVICE
from seaway.router.tls import ROUTER_NAME, SERVER_NAME, connect_tls
from tests.contract.router_lab import Lab, make_app, make_instance
from tests.ports import free_port

ROUTER = """
import asyncio, json, pathlib, sys
from seaway.home import Home
from seaway.router.links import Connector
from seaway.router.running import run_router
from seaway.router.tls import connect_tls
root, name, ports, tls = sys.argv[1:]
home = Home(pathlib.Path(root))
one = [connect_tls("127.0.0.1", port, pathlib.Path(tls), name) for port in json.loads(ports)]
async def resolve():
    return [target for connector in one for target in await connector.resolve()]
connector = Connector(resolve=resolve, connect=one[0].connect, metadata=one[0].metadata)
raise SystemExit(asyncio.run(run_router(name, home, home.read_settings(), connector=connector)))
"""


def write(folder: Path, ca: Pair, pair: Pair) -> Path:
    folder.mkdir()
    for name, data in (("ca.crt", ca.certificate), ("tls.crt", pair.certificate), ("tls.key", pair.key)):
        (folder / name).write_bytes(data)
    return folder


class Replicas(Lab):
    """Two planes; `plane` is the first, whose views the lab's helpers look at."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.planes = [self.plane, XdsPlane()]
        self.ports = [free_port(), free_port()]
        ca = make_ca("seaway", datetime.now(UTC))
        self.server = write(root / "server", ca, issue(ca, "control", datetime.now(UTC), [SERVER_NAME]))
        self.router_tls = write(root / "client", ca, issue(ca, ROUTER_NAME, datetime.now(UTC)))
        self.stranger_tls = write(root / "stranger", ca, issue(ca, "somebody", datetime.now(UTC)))

    async def start_planes(self) -> None:
        for number, (plane, port) in enumerate(zip(self.planes, self.ports, strict=True)):
            await plane.start(self.home.socket(f"xds-{number}"), "secret", (f"127.0.0.1:{port}", self.server))

    def set_everywhere(self, port: int, release: int = 1) -> None:
        for plane in self.planes:
            self.plane = plane
            self.set_app(make_app("shop", {release: 100}), make_instance("shop", release, port))
        self.plane = self.planes[0]

    async def start_tls_router(self, name: str, tls: Path) -> None:
        arguments = [sys.executable, "-c", ROUTER, str(self.home.root), name, json.dumps(self.ports), str(tls)]
        self.routers[name] = await asyncio.create_subprocess_exec(*arguments)

    async def until_everywhere(self, release: int = 1) -> None:
        """Wait until every open plane knows that the router took everything and sees the instance healthy."""
        for plane in self.planes:
            self.plane = plane
            await self.until_acked("shop")
            await self.until_healthy(f"shop:v{release}")
        self.plane = self.planes[0]

    async def close(self) -> None:
        await super().close()
        for plane in self.planes:
            await plane.stop()


@pytest_asyncio.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Replicas]:
    lab = Replicas(tmp_path)
    try:
        await lab.start_planes()
        yield lab
    finally:
        await lab.close()


async def test_every_replica_knows_what_a_router_has(lab: Replicas) -> None:
    """Acknowledgements and health reach the replica that the resources did not come from."""
    blue = await lab.start_backend("blue")
    lab.set_everywhere(blue.port)
    for plane in lab.planes:
        plane.open()
    await lab.start_tls_router("r1", lab.router_tls)
    await lab.until_everywhere()
    assert await lab.get("shop.localhost") == (200, "blue")


@pytest.mark.parametrize("how", ["stops", "closes"])
async def test_another_replica_takes_over(lab: Replicas, how: str) -> None:
    """When the replica that serves a router stops, or says it is out of date, changes come from the other one."""
    blue = await lab.start_backend("blue")
    green = await lab.start_backend("green")
    lab.set_everywhere(blue.port)
    lab.planes[0].open()
    await lab.start_tls_router("r1", lab.router_tls)
    await lab.until_acked("shop")
    await lab.until_healthy("shop:v1")
    lab.planes[1].open()
    if how == "stops":
        await lab.planes[0].stop()
    else:
        lab.planes[0].close()
    lab.plane = lab.planes[1]
    lab.set_app(make_app("shop", {2: 100}), make_instance("shop", 2, green.port))
    await lab.until_acked("shop")
    await lab.until_healthy("shop:v2")
    assert await lab.get("shop.localhost") == (200, "green")


async def test_routes_come_from_the_replica_that_leads(lab: Replicas) -> None:
    """Also where replicas see things differently; whenever another one leads, routers move to it."""
    blue = await lab.start_backend("blue")
    green = await lab.start_backend("green")
    for plane, backend in zip(lab.planes, (blue, green), strict=True):
        lab.plane = plane
        lab.set_app(make_app("shop", {1: 100}), make_instance("shop", 1, backend.port))
        plane.open()
    await lab.start_tls_router("r1", lab.router_tls)
    for leader, follower, colour in ((1, 0, "green"), (0, 1, "blue"), (1, 0, "green")):
        lab.planes[follower].lead(False)
        lab.planes[leader].lead(True)
        lab.plane = lab.planes[leader]
        await lab.until_acked("shop")
        await lab.until_healthy("shop:v1")
        assert await lab.get("shop.localhost") == (200, colour)


async def test_certificate_of_somebody_else_is_refused(lab: Replicas) -> None:
    """A certificate of the CA that is not a router's gives no access; one that is a router's does."""
    way = connect_tls("127.0.0.1", lab.ports[0], lab.router_tls, "r1")
    (target,) = await way.resolve()
    async with way.connect(target) as channel:
        stream = channel.stream_stream(f"/{REPORT_SERVICE}/{REPORT_METHOD}")(metadata=way.metadata())
        assert json.loads(await stream.read()) == {"open": False, "leads": False}
    async with connect_tls("127.0.0.1", lab.ports[0], lab.stranger_tls, "r1").connect(target) as channel:
        stream = channel.stream_stream(f"/{REPORT_SERVICE}/{REPORT_METHOD}")(metadata=way.metadata())
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stream.read()
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED

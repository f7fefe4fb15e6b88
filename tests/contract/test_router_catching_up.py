"""A router that gets everything of a new release at once, as after a loss of contact: its routes wait for it.

In each test the new instance does not listen before Envoy has found that out by its first check, and the old one
answers all the while: whatever of the order of traffic the router gets wrong costs requests.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from seaway.model import InstanceState
from seaway.router.disk import LastGood
from seaway.router.envoy import CLUSTER, SCOPE, translate_app
from seaway.router.running import RESOURCES_FILE
from seaway.router.table import build_app_table
from tests.contract.router_lab import Lab, Traffic, make_app, make_instance
from tests.ports import free_port

SHOP = (SCOPE, "shop.localhost")


class Shift:
    """Release v1 of an app serves; v2 is at a port where nothing listens yet."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.old = make_instance("shop", 1, lab.backends[0].port)
        self.port = free_port()
        self.new = make_instance("shop", 2, self.port)
        self.traffic = Traffic(lab)

    async def end(self) -> None:
        """Let v2 listen once its first check has failed; every request until it serves has to be answered."""
        await self.lab.until_check_failed("r1", "shop:v2")
        before = self.traffic.asked
        while self.traffic.asked < before + 20:
            await asyncio.sleep(0.01)
        await self.lab.start_backend("green", self.port)
        await self.lab.until_acked("shop")
        await self.lab.until_healthy("shop:v2")
        assert await self.lab.get("shop.localhost") == (200, "green")
        await self.traffic.stop()
        assert self.traffic.bad == []


@pytest_asyncio.fixture
async def shift(tmp_path: Path) -> AsyncIterator[Shift]:
    lab = Lab(tmp_path)
    try:
        await lab.start_plane()
        backend = await lab.start_backend("blue")
        lab.set_app(make_app("shop", {1: 100}), make_instance("shop", 1, backend.port))
        lab.plane.open()
        await lab.start_router("r1")
        await lab.until_acked("shop")
        await lab.until_healthy("shop:v1")
        yield Shift(lab)
    finally:
        await lab.close()


async def test_routes_wait_for_an_instance_whose_first_check_failed(shift: Shift) -> None:
    """A cluster that Envoy has warmed up is not a cluster that can serve."""
    shift.lab.set_app(make_app("shop", {2: 100}), shift.old, shift.new)
    await shift.end()


async def test_routes_wait_for_endpoints_that_came_after_their_cluster(shift: Shift) -> None:
    """Envoy asks for a new cluster's endpoints before the relay has been told of any: none is no answer for good."""
    table = build_app_table(make_app("shop", {1: 100}), {}, [shift.old, shift.new], "localhost")
    resources = translate_app(table)
    shift.lab.plane._put("shop", {key: body for key, body in resources.items() if key[0] == CLUSTER or "v1" in key[1]})
    await shift.lab.until(lambda: (CLUSTER, "shop:v2") in shift.lab.plane.views()[0].acked)
    shift.lab.set_app(make_app("shop", {2: 100}), shift.old, shift.new)
    await shift.end()


async def test_old_instances_serve_until_the_routes_have_left_them(shift: Shift) -> None:
    """The old release drains in the same step: it gets no request any more from when Envoy has the new routes."""
    shift.lab.set_app(make_app("shop", {2: 100}, drains=(shift.old.id,)), shift.old, shift.new)
    await shift.end()


async def test_old_instances_that_left_serve_until_the_routes_have_left_them(shift: Shift) -> None:
    """The same for an old release that is to have no instance any more."""
    stopping = make_instance("shop", 1, shift.lab.backends[0].port, InstanceState.STOPPING)
    shift.lab.set_app(make_app("shop", {2: 100}), stopping, shift.new)
    await shift.end()


async def test_routes_wait_after_a_relay_was_killed_in_the_middle(shift: Shift) -> None:
    """kill -9 of a relay that has a release on disk which Envoy has not taken: the next one makes its routes wait."""
    envoy = shift.lab.envoys("r1")[0]
    os.kill(envoy, signal.SIGSTOP)
    try:
        shift.lab.set_app(make_app("shop", {2: 100}, drains=(shift.old.id,)), shift.old, shift.new)
        wanted = shift.lab.plane.app_versions("shop")[SHOP]
        disk = LastGood(shift.lab.home.router("r1") / RESOURCES_FILE)
        while disk.load()[SHOP].version != wanted:
            await asyncio.sleep(0.01)
        disk.close()
        await shift.lab.kill_router("r1")
    finally:
        os.kill(envoy, signal.SIGCONT)
    await shift.lab.start_router("r1")
    await shift.end()

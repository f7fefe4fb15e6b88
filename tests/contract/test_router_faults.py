"""A real router under faults: bad resources, a dead control plane, killed relays and Envoys, stops under traffic."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from seaway.model import InstanceState
from seaway.rollout.instances import COUNT_MARGIN
from seaway.router.envoy import CLUSTER, SCOPE
from seaway.router.plane import XdsPlane
from seaway.router.serving import Context
from tests.contract.router_lab import Backend, Lab, Traffic, make_app, make_instance
from tests.pace import Stopwatch
from tests.ports import free_port


@pytest_asyncio.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    lab = Lab(tmp_path)
    try:
        await lab.start_plane()
        backend = await lab.start_backend("blue")
        lab.set_app(make_app("shop", {1: 100}), make_instance("shop", 1, backend.port))
        lab.plane.open()
        yield lab
    finally:
        await lab.close()


async def start(lab: Lab, *names: str) -> Backend:
    for name in names:
        await lab.start_router(name)
    await lab.until_acked("shop")
    await lab.until_healthy("shop:v1")
    return lab.backends[0]


def list_pids(lab: Lab) -> list[int]:
    """Return every router's process and its Envoy's."""
    return [pid for name, router in lab.routers.items() for pid in (router.pid, *lab.envoys(name))]


def watch_routers(lab: Lab) -> Stopwatch:
    """Return a stopwatch of what the routers that run do."""
    return Stopwatch(*list_pids(lab))


async def until_served(lab: Lab, host: str, seconds: float) -> float:
    """Ask until a 200; return how long it took the routers."""
    begun = watch_routers(lab)
    async with asyncio.timeout(seconds):
        while True:
            try:
                if (await lab.get(host))[0] == 200:
                    return begun.took(*list_pids(lab))
            except aiohttp.ClientError:
                await asyncio.sleep(0.01)


async def test_rejected_resource_keeps_nothing_else_back(lab: Lab) -> None:
    """Good resources of a batch are acknowledged; the bad one is named with Envoy's words; its last good stays."""
    await start(lab, "r1")
    bad = (CLUSTER, "bad")
    lab.plane.publish("bad", {bad: b"\x0a\x03bad\x10\x63", (SCOPE, "bad.localhost"): b"\x0a\x0dbad.localhost"})
    for number in range(20):
        lab.set_app(make_app(f"app{number}", {1: 1}), make_instance(f"app{number}", 1, lab.backends[0].port))
    await lab.until_acked(*(f"app{number}" for number in range(20)))
    await lab.until(lambda: {bad, (SCOPE, "bad.localhost")} <= lab.plane.views()[0].rejected.keys())
    assert lab.plane.views()[0].rejected[bad]
    assert await lab.get("app7.localhost") == (200, "blue")


async def test_rejected_change_leaves_the_last_good_version(lab: Lab) -> None:
    """A host whose new routes Envoy refuses goes on with the old ones, and takes the next good ones."""
    await start(lab, "r1")
    key = (SCOPE, "shop.localhost")
    good = lab.plane._catalog.get(key)
    assert good
    lab.plane._put("host shop.localhost", {key: b"\x0a\x0eshop.localhost"})
    await lab.until(lambda: key in lab.plane.views()[0].rejected)
    assert await lab.get("shop.localhost") == (200, "blue")
    lab.plane._put("host shop.localhost", {key: good.body})
    await lab.until(lambda: key not in lab.plane.views()[0].rejected)
    await lab.until_acked("shop")


async def test_removed_endpoint_gets_no_request_within_a_second(lab: Lab) -> None:
    """From COUNT_MARGIN after the acknowledgement on, not one request reaches an endpoint that left.

    Envoy acknowledges from its main thread; its workers take the change up a moment later, and what they had sent
    before is still on its way. The decisions allow for exactly that before they believe a count of zero.
    """
    blue = await start(lab, "r1")
    green = await lab.start_backend("green")
    both = (make_instance("shop", 1, blue.port), make_instance("shop", 1, green.port))
    lab.set_app(make_app("shop", {1: 1}), *both)
    await lab.until_healthy("shop:v1", 2)
    traffic = Traffic(lab)
    begun = watch_routers(lab)
    lab.set_app(make_app("shop", {1: 1}), both[0])
    await lab.until_acked("shop")
    assert begun.took() < 1
    await asyncio.sleep(COUNT_MARGIN.total_seconds())
    seen = green.requests
    await lab.until(lambda: lab.plane.views()[0].healthy["shop:v1"] == {f"127.0.0.1:{blue.port}"})
    before = traffic.good
    while traffic.good < before + 100:
        await asyncio.sleep(0.01)
    await traffic.stop()
    assert (green.requests - seen, traffic.bad) == (0, [])


async def test_dead_endpoint_is_seen_and_avoided(lab: Lab) -> None:
    """An instance that dies unannounced costs no request, and its loss is reported."""
    blue = await start(lab, "r1")
    green = await lab.start_backend("green")
    lab.set_app(make_app("shop", {1: 1}), make_instance("shop", 1, blue.port), make_instance("shop", 1, green.port))
    await lab.until_healthy("shop:v1", 2)
    traffic = Traffic(lab)
    await green.stop()
    await lab.until_healthy("shop:v1", 1)
    await traffic.stop()
    assert traffic.bad == []


async def test_release_shift_under_traffic_loses_nothing(lab: Lab) -> None:
    """Everything of a new release at once, as after a loss of contact: routes wait for the warm cluster."""
    blue = await start(lab, "r1")
    green = await lab.start_backend("green")
    traffic = Traffic(lab)
    for round_ in range(2, 8):
        backend = green if round_ % 2 == 0 else blue
        lab.set_app(
            make_app("shop", {round_: 100}),
            make_instance("shop", round_ - 1, (blue if backend is green else green).port),
            make_instance("shop", round_, backend.port),
        )
        await lab.until_acked("shop")
        assert (await lab.get("shop.localhost"))[1] == backend.label
    await traffic.stop()
    assert traffic.bad == []


async def test_router_restarts_without_control_plane(lab: Lab) -> None:
    """With the control plane dead, a router killed with its Envoy serves every route within two seconds."""
    await start(lab, "r1")
    await lab.plane.stop()
    await lab.kill_router("r1")
    os.kill(lab.envoys("r1")[0], signal.SIGKILL)
    await lab.start_router("r1")
    assert await until_served(lab, "shop.localhost", 10) < 2


async def test_killed_relay_leaves_envoy_serving_and_adopts_it(lab: Lab) -> None:
    """kill -9 of the relay: not one request fails, Envoy stays the same, changes and health go on."""
    blue = await start(lab, "r1")
    envoys = lab.envoys("r1")
    traffic = Traffic(lab)
    await lab.kill_router("r1")
    await lab.until(lambda: not lab.plane.views()[0].connected)
    await lab.start_router("r1")
    await lab.until_acked("shop")
    await lab.until_healthy("shop:v1")
    green = await lab.start_backend("green")
    lab.set_app(make_app("shop", {1: 1}), make_instance("shop", 1, blue.port), make_instance("shop", 1, green.port))
    await lab.until_healthy("shop:v1", 2)
    await traffic.stop()
    assert traffic.bad == []
    assert traffic.good > 100
    assert lab.envoys("r1") == envoys
    assert len(envoys) == 1


async def test_killed_envoy_is_started_again(lab: Lab) -> None:
    """kill -9 of Envoy: the relay starts another, and the router counts as connected only when it has everything."""
    await start(lab, "r1")
    os.kill(lab.envoys("r1")[0], signal.SIGKILL)
    assert await until_served(lab, "shop.localhost", 10) < 2
    await lab.until_acked("shop")
    await lab.until_healthy("shop:v1")
    assert len(lab.envoys("r1")) == 1


async def test_stopped_envoy_is_replaced(lab: Lab) -> None:
    """SIGSTOP: connections are taken and nothing is answered; the relay sees it and starts another."""
    await start(lab, "r1")
    (stopped,) = lab.envoys("r1")
    os.kill(stopped, signal.SIGSTOP)
    await lab.until(lambda: lab.envoys("r1") not in ([], [stopped]), 20)
    assert await until_served(lab, "shop.localhost", 10) < 2
    await lab.until_acked("shop")


async def test_two_routers_share_the_port_and_one_stops(lab: Lab) -> None:
    """A router that is told to stop finishes its requests and takes its Envoy along; the other goes on alone."""
    blue = await start(lab, "r1", "r2")
    slow = [asyncio.create_task(lab.get("shop.localhost", "/slow", "POST")) for _ in range(12)]
    await lab.until(lambda: all(view.active.get("shop:v1") for view in lab.plane.views()) or watch_active(lab))
    stopping = asyncio.create_task(lab.stop_router("r1"))
    await asyncio.sleep(1.5)  # longer than Envoy's drain time: only requests in flight hold the router now
    assert lab.envoys("r1")
    blue.release.set()
    assert await asyncio.gather(*slow) == [(200, "blue")] * 12
    assert await stopping == 0
    assert (lab.envoys("r1"), len(lab.envoys("r2"))) == ([], 1)
    assert await lab.get("shop.localhost") == (200, "blue")


def watch_active(lab: Lab) -> bool:
    """In-flight counts wake watchers only while something drains: mark the app as draining."""
    blue = lab.backends[0]
    gone = make_instance("shop", 1, free_port(), InstanceState.STOPPING)
    lab.set_app(make_app("shop", {1: 100}, drains=(gone.id,)), make_instance("shop", 1, blue.port), gone)
    return False


async def test_wrong_secret_is_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A router that shows another secret gets nothing, however often it asks."""
    refused, authenticate = 0, lab.plane._authenticate

    async def count(context: Context) -> str:
        nonlocal refused
        try:
            return await authenticate(context)
        except BaseException:
            refused += 1
            raise

    monkeypatch.setattr(lab.plane, "_authenticate", count)
    (lab.home.root / "router.secret").write_text("guess")
    await lab.start_router("r1")
    async with asyncio.timeout(30):
        while refused < 4 and not lab.plane.views():
            await asyncio.sleep(0.01)
    assert lab.plane.views() == ()


async def test_nothing_is_sent_before_the_plane_is_open(tmp_path: Path) -> None:
    """A control plane that has not published everything yet takes no route away."""
    first = Lab(tmp_path)
    try:
        await first.start_plane()
        backend = await first.start_backend("blue")
        first.set_app(make_app("shop", {1: 1}), make_instance("shop", 1, backend.port))
        first.plane.open()
        await first.start_router("r1")
        await first.until_acked("shop")
        await first.plane.stop()
        first.plane = type(first.plane)()
        await first.start_plane()
        await first.until(lambda: first.plane.views() and first.plane.views()[0].connected)
        assert await first.get("shop.localhost") == (200, "blue")
        first.plane.open()
        async with asyncio.timeout(10):  # the app has no owner any more, so the plane tells nobody: look
            while await first.get("shop.localhost") != (404, "no-such-app"):
                await asyncio.sleep(0.05)
    finally:
        await first.close()


async def test_apps_that_are_held_keep_their_routes_after_a_restart_of_the_control_plane(lab: Lab) -> None:
    """What cannot be published stays as it was; others change and go; once it is published all is as usual."""
    blue = await start(lab, "r1")
    green = await lab.start_backend("green")
    for name in ("cafe", "kiosk"):
        lab.set_app(make_app(name, {1: 100}), make_instance(name, 1, green.port))
    await lab.until_acked("shop", "cafe", "kiosk")
    await lab.until_healthy("cafe:v1")
    await lab.plane.stop()
    lab.plane = XdsPlane()
    await lab.start_plane()
    lab.set_app(make_app("cafe", {1: 100}), make_instance("cafe", 1, blue.port))
    lab.set_app(make_app("kiosk", {1: 100}), make_instance("kiosk", 1, green.port))
    lab.plane.hold({"shop", "cafe"})
    lab.plane.open()
    await lab.until_acked("cafe", "kiosk")
    await lab.until(lambda: lab.plane.views()[0].healthy.get("cafe:v1") == {f"127.0.0.1:{blue.port}"})
    assert await lab.get("cafe.localhost") == (200, "blue")
    assert await lab.get("shop.localhost") == (200, "blue")
    lab.plane.remove_app("kiosk")
    await lab.until_gone(lambda: (SCOPE, "kiosk.localhost") not in lab.plane.views()[0].acked)
    assert (await lab.get("kiosk.localhost"))[0] == 404
    assert (SCOPE, "shop.localhost") in lab.plane.views()[0].acked
    lab.set_app(make_app("shop", {2: 100}), make_instance("shop", 2, green.port))
    await lab.until_acked("shop")
    await lab.until_healthy("shop:v2")
    await lab.until_gone(lambda: (CLUSTER, "shop:v1") not in lab.plane.views()[0].acked)
    assert await lab.get("shop.localhost") == (200, "green")

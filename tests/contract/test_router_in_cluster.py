"""A router as its pod runs it: mutual TLS, `/ready` and `/alive`, and an end that drops no request."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from seaway.kube.errors import Unavailable
from seaway.router.finding import ControlFinder, ask_dns, make_target, parse_addresses
from seaway.router.process import find_envoys
from seaway.sandbox.cgroups import Cgroups
from tests.contract.test_router_replicas import Replicas
from tests.pace import Stopwatch
from tests.ports import free_port

WAIT = 1.5  # seconds that this balancer needs


class Pod(Replicas):
    """Two replicas of the control plane and one router that is started as in its pod."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.ready_port = free_port()

    async def start_pod(self, name: str = "r1") -> asyncio.subprocess.Process:
        given = {
            "SEAWAY_HOME": str(self.home.root),
            "SEAWAY_NAMESPACE": "seaway-system",
            "SEAWAY_POD": name,
            "SEAWAY_ADDRESS": "127.0.0.1",
            "SEAWAY_CONTROL": ",".join(f"127.0.0.1:{port}" for port in self.ports),
            "SEAWAY_TLS_FOLDER": str(self.router_tls),
            "SEAWAY_HTTP_PORT": str(self.settings.http_port),
            "SEAWAY_READY_PORT": str(self.ready_port),
            "SEAWAY_BALANCER_WAIT": f"{WAIT}s",
        }
        arguments = [sys.executable, "-m", "seaway", "router", name]
        self.routers[name] = await asyncio.create_subprocess_exec(*arguments, env=os.environ | given)
        return self.routers[name]

    async def probe(self, path: str) -> tuple[int, str]:
        """Return what a kubelet would hear; 0 if nobody listens."""
        try:
            async with self.client.get(f"http://127.0.0.1:{self.ready_port}{path}") as answer:
                return answer.status, (await answer.text()).strip()
        except aiohttp.ClientConnectionError:
            return 0, ""

    async def until_probe(self, path: str, status: int, seconds: float = 20) -> str:
        async with asyncio.timeout(seconds):
            while (heard := await self.probe(path))[0] != status:
                await asyncio.sleep(0.02)
        return heard[1]


@pytest_asyncio.fixture
async def pod(tmp_path: Path) -> AsyncIterator[Pod]:
    pod = Pod(tmp_path)
    try:
        yield pod
    finally:
        await pod.close()


async def serve_shop(pod: Pod) -> None:
    backend = await pod.start_backend("blue")
    pod.set_everywhere(backend.port)
    for plane in pod.planes:
        plane.open()
    await pod.start_planes()
    await pod.start_pod()
    await pod.until_everywhere()


async def test_ready_only_with_every_route(pod: Pod) -> None:
    """Without a control plane a new router is alive and not ready; ready once Envoy has all that there is."""
    await pod.start_pod()
    assert "every route" in await pod.until_probe("/ready", 503)
    assert (await pod.probe("/alive"))[0] == 200
    assert (await pod.probe("/other"))[0] == 404
    blue = await pod.start_backend("blue")
    pod.set_everywhere(blue.port)
    pod.planes[1].open()
    await pod.start_planes()
    await pod.until_probe("/ready", 200)
    assert await pod.get("shop.localhost") == (200, "blue")


async def test_ready_without_any_app(pod: Pod) -> None:
    """A platform with no app is served too, else nothing could ever be installed."""
    pod.planes[0].open()
    await pod.start_planes()
    await pod.start_pod()
    await pod.until_probe("/ready", 200)


async def test_restarted_without_a_control_plane_it_is_ready_from_its_disk(pod: Pod) -> None:
    """The container died and every replica of the control plane is gone: the last good routes are served."""
    await serve_shop(pod)
    await pod.until_probe("/ready", 200)
    for plane in pod.planes:
        await plane.stop()
    await pod.kill_router("r1")
    for pid in pod.envoys("r1"):  # a container takes every process with it
        os.kill(pid, signal.SIGKILL)
    await pod.start_pod()
    await pod.until_probe("/ready", 200)
    assert await pod.get("shop.localhost") == (200, "blue")


async def test_not_ready_while_envoy_is_away_and_ready_again(pod: Pod) -> None:
    """An Envoy that was killed is back with every route before the router says that it is ready."""
    await serve_shop(pod)
    await pod.until_probe("/ready", 200)
    (envoy,) = pod.envoys("r1")
    os.kill(envoy, signal.SIGKILL)
    await pod.until_probe("/ready", 503)
    assert (await pod.probe("/alive"))[0] == 200
    await pod.until_probe("/ready", 200)
    assert await pod.get("shop.localhost") == (200, "blue")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can freeze a process in a control group")
async def test_an_envoy_that_hangs_is_not_alive(pod: Pod) -> None:
    """A kubelet hears of one that runs and does not answer before the router itself would replace it."""
    await serve_shop(pod)
    await pod.until_probe("/ready", 200)
    (envoy,) = pod.envoys("r1")
    cgroups = Cgroups.open(pod.home.root)
    assert cgroups is not None
    for procs in cgroups.make("frozen").split():
        Path(procs).write_text(str(envoy))
    freeze = cgroups.base / "frozen" / "cgroup.freeze"
    freeze.write_text("1")  # SIGSTOP is another matter: the router sees it at once
    try:
        assert "does not answer" in await pod.until_probe("/alive", 503)
    finally:
        freeze.write_text("0")
    await pod.until_probe("/alive", 200)
    assert pod.envoys("r1") == [envoy]


async def load(pod: Pod, said: list[str], stop: asyncio.Event, *, keep: bool) -> int:
    """Ask again and again over connections that are kept (or not); count what was answered, note what failed.

    After `stop` there are no new connections, as behind a balancer; one that is kept goes on until it is told to go.
    """
    count = 0
    connector = aiohttp.TCPConnector(force_close=not keep)
    async with aiohttp.ClientSession(connector=connector) as session:
        told_to_go = not keep
        while not (stop.is_set() and told_to_go):
            url = f"http://127.0.0.1:{pod.settings.http_port}/"
            try:
                async with session.post(url, headers={"Host": "shop.localhost"}) as answer:
                    await answer.read()
                    told_to_go = not keep or answer.headers.get("Connection") == "close"
                    if answer.status != 200:
                        said.append(f"status {answer.status}")
            except aiohttp.ClientError as error:
                said.append(repr(error))
            count += 1
            await asyncio.sleep(0.005)
    return count


async def test_stopping_drops_no_request(pod: Pod) -> None:
    """Not ready at once, served for as long as the balancer needs, then requests in flight end; then it is gone."""
    await serve_shop(pod)
    await pod.until_probe("/ready", 200)
    failures, stop = list[str](), asyncio.Event()
    loads = [asyncio.create_task(load(pod, failures, stop, keep=keep)) for keep in (True, True, False)]
    slow = asyncio.create_task(pod.get("shop.localhost", "/slow", "POST"))
    await pod.backends[0].waiting.wait()
    process = pod.routers["r1"]
    told = Stopwatch(process.pid)
    process.terminate()
    said = await pod.until_probe("/ready", 503)
    assert "stopping" in said
    assert told.took() < 0.5
    await asyncio.sleep(WAIT)  # this balancer sends no more
    stop.set()
    counts = await asyncio.gather(*loads)
    assert process.returncode is None  # the slow request is in flight
    pod.backends[0].release.set()
    assert await slow == (200, "blue")
    assert await asyncio.wait_for(process.wait(), 20) == 0
    del pod.routers["r1"]
    assert not find_envoys(pod.home.router("r1") / "bootstrap.json")
    assert failures == []
    assert min(counts) > 20


async def test_addresses_outlive_everybody_who_knows_them(tmp_path: Path) -> None:
    """A dead API server is made up for by DNS, both by what is known, and that is known after a restart too."""

    async def dead() -> list[str]:
        raise Unavailable("the API server cannot be reached")

    async def late() -> list[str]:
        await asyncio.sleep(60)
        return []

    memory = tmp_path / "control.json"
    assert await ControlFinder([dead, ask_dns([("127.0.0.1", 7)])], memory).find() == ("ipv4:127.0.0.1:7",)
    assert json.loads(memory.read_text()) == ["ipv4:127.0.0.1:7"]
    assert await ControlFinder([dead, ask_dns([("nowhere.invalid", 7)])], memory).find() == ("ipv4:127.0.0.1:7",)
    memory.write_text("{")
    with pytest.raises(OSError, match=r"cannot be reached; .*TimeoutError"):
        await ControlFinder([dead, late], memory).find()


def test_addresses_that_are_given() -> None:
    """Names, addresses of both families, with and without a port; what is wrong is named."""
    assert parse_addresses("a.example, 10.0.0.1:9,[fd00::1]:8", 7) == (
        ("a.example", 7),
        ("10.0.0.1", 9),
        ("fd00::1", 8),
    )
    assert make_target("fd00::1", 8) == "ipv6:[fd00::1]:8"
    with pytest.raises(ValueError, match="'a:b'"):
        parse_addresses("a:b", 7)

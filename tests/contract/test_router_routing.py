"""Requests through a real Envoy: where they go, what they carry, and what Seaway answers itself."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import pytest_asyncio

from seaway.model import Check, Health, InstanceState, Meta, Process, Release, ReleaseSpec, Route, RouterPolicy
from tests.contract.router_lab import Lab, make_app, make_instance
from tests.ports import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("home"))
    try:
        await lab.start_plane()
        blue, green, docs = [await lab.start_backend(label) for label in ("blue", "green", "docs")]
        shop = make_app("shop", {1: 100}, (Route(host="shop.example.com"),))
        lab.set_app(shop, make_instance("shop", 1, blue.port), make_instance("shop", 2, green.port))
        lab.set_app(
            make_app("docs", {1: 1}, (Route(host="shop.example.com", path="/docs"),)),
            make_instance("docs", 1, docs.port),
        )
        lab.set_app(make_app("empty", {}))
        lab.set_app(make_app("broken", {1: 100}), make_instance("broken", 1, free_port()))
        jobs = ReleaseSpec(app="jobs", number=1, processes={"worker": Process(command="x")})
        lab.releases["jobs"] = {1: Release(meta=Meta(name="jobs.v1"), spec=jobs)}
        lab.set_app(make_app("jobs", {1: 100}))
        lab.plane.open()
        await lab.start_router("r1")
        await lab.until_acked("shop", "docs", "empty", "broken", "jobs")
        await lab.until_healthy("shop:v1")
        yield lab
    finally:
        await lab.close()


async def test_routes_by_host_and_longest_path_prefix(lab: Lab) -> None:
    """A prefix matches whole segments; what it does not match goes to the shorter one."""
    assert await lab.get("shop.localhost", "/any/where?x=1") == (200, "blue")
    assert await lab.get("docs.localhost") == (200, "docs")
    assert await lab.get("shop.example.com", "/docs") == (200, "docs")
    assert await lab.get("shop.example.com", "/docs/a") == (200, "docs")
    assert await lab.get("shop.example.com", "/docsearch") == (200, "blue")
    assert await lab.get("shop.example.com", "/a/../docs") == (200, "docs")


@pytest.mark.parametrize("host", ["SHOP.localhost", "Shop.LocalHost:8080", "shop.localhost:1", "shop.localhost."])
async def test_host_is_found_in_any_case_and_with_any_port(lab: Lab, host: str) -> None:
    """Letter case, port and a final dot of the Host header do not matter."""
    assert await lab.get(host) == (200, "blue")


async def test_checks_are_as_requests_of_the_apps_users(lab: Lab) -> None:
    """The app's own host, over HTTPS as far as it can tell."""
    heads: asyncio.Queue[bytes] = asyncio.Queue()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.put_nowait(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        writer.close()

    health = Health(readiness=Check(http="/up"))
    spec = ReleaseSpec(app="picky", number=1, processes={"web": Process(command="x", health=health)})
    lab.releases["picky"] = {1: Release(meta=Meta(name="picky.v1"), spec=spec)}
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server, asyncio.timeout(20):
        lab.set_app(make_app("picky", {1: 100}), make_instance("picky", 1, server.sockets[0].getsockname()[1]))
        head = (await heads.get()).decode().lower().split("\r\n")
        lab.plane.remove_app("picky")
    assert head[0] == "get /up http/1.1"
    assert {"host: picky.localhost", "x-forwarded-proto: https"} <= set(head)


async def test_app_gets_the_host_it_was_asked_by(lab: Lab) -> None:
    """The port stays in Host, so that absolute links and redirects work."""
    async with lab.ask("shop.localhost:8080") as response:
        assert (await response.json())["headers"]["host"] == "shop.localhost:8080"


async def test_forwarded_headers_and_request_id(lab: Lab) -> None:
    """The app learns who asked and how; a client's request id is kept; its x-envoy headers are not trusted."""
    sent = {"x-request-id": "mine-1", "x-forwarded-for": "192.0.2.7", "x-envoy-retry-on": "5xx"}
    async with lab.ask("shop.localhost", headers=sent) as response:
        headers = (await response.json())["headers"]
        assert headers["x-forwarded-for"] == "127.0.0.1"
        assert headers["x-forwarded-proto"] == "http"
        assert headers["x-request-id"] == response.headers["x-request-id"] == "mine-1"
        assert not {"x-envoy-retry-on", "x-envoy-internal"} & headers.keys()
        assert response.headers["x-seaway-release"] == "v1"


@pytest.mark.parametrize(
    ("host", "status", "reason", "word"),
    [
        ("nobody.localhost", 404, "no-such-app", "no app has a route for nobody.localhost/"),
        ("empty.localhost", 503, "no-release", "empty"),
        ("jobs.localhost", 503, "no-web-process", "app jobs takes no requests, as it has no web process"),
        ("broken.localhost", 503, "no-healthy-instance", "broken"),
    ],
)
async def test_seaway_says_why_it_answers_itself(lab: Lab, host: str, status: int, reason: str, word: str) -> None:
    """Status, reason code and one sentence, for each way a request finds nobody."""
    async with lab.ask(host) as response:
        assert (response.status, response.headers["x-seaway-reason"]) == (status, reason)
        assert word in await response.text()


async def test_weights_split_requests(lab: Lab) -> None:
    """Both releases get about their share, and the response says which one answered."""
    blue, green = (make_instance("shop", n, lab.backends[n - 1].port) for n in (1, 2))
    routes = (Route(host="shop.example.com"),)
    lab.set_app(make_app("shop", {1: 75, 2: 25}, routes), blue, green)
    await lab.until_acked("shop")
    seen = Counter([(await lab.get("shop.localhost"))[1] for _ in range(200)])
    lab.set_app(make_app("shop", {1: 100, 2: 0}, routes), blue, green)
    await lab.until_acked("shop")
    assert 20 <= seen["green"] <= 85
    assert seen["blue"] == 200 - seen["green"]
    assert {(await lab.get("shop.localhost"))[1] for _ in range(30)} == {"blue"}


async def test_websocket(lab: Lab) -> None:
    """An upgraded connection carries messages both ways."""
    url = f"http://127.0.0.1:{lab.settings.http_port}/ws"
    async with lab.client.ws_connect(url, headers={"Host": "docs.localhost"}) as socket:
        await socket.send_str("hello")
        assert await socket.receive_str() == "docs:hello"


async def test_requests_in_flight_are_seen(lab: Lab) -> None:
    """A slow request shows up per cluster and address, on a draining endpoint too, and goes when it is done."""
    docs = lab.backends[2]
    address = f"127.0.0.1:{docs.port}"
    instance = make_instance("docs", 1, docs.port)
    asked = asyncio.create_task(lab.get("docs.localhost", "/slow", "POST"))
    await docs.waiting.wait()
    routes = (Route(host="shop.example.com", path="/docs"),)
    lab.set_app(
        make_app("docs", {1: 1}, routes, (instance.id,)), instance.model_copy(update={"state": InstanceState.STOPPING})
    )
    await lab.until_acked("docs")
    await lab.until(lambda: lab.plane.views()[0].busy.get("docs:v1") == {address: 1})
    assert lab.plane.views()[0].active["docs:v1"] == 1
    assert await lab.get("docs.localhost") == (503, "no-healthy-instance")
    docs.release.set()
    assert await asked == (200, "docs")
    await lab.until(lambda: "docs:v1" not in lab.plane.views()[0].active)
    lab.set_app(make_app("docs", {1: 1}, routes), instance)
    await lab.until_acked("docs")


async def test_failing_instance_is_told_apart(lab: Lab) -> None:
    """An instance that breaks off before it answers gives 502 and its reason; the app's own errors pass as they are."""

    async def slam(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with_request = await _.read(1)
        writer.transport.abort() if with_request else writer.close()

    server = await asyncio.start_server(slam, "127.0.0.1", 0)
    async with server:
        lab.set_app(make_app("slam", {1: 1}), make_instance("slam", 1, server.sockets[0].getsockname()[1]))
        await lab.until_acked("slam")
        await lab.until_healthy("slam:v1")
        assert await lab.get("slam.localhost", method="POST", data=b"x") == (502, "instance-failed")
    lab.plane.remove_app("slam")
    await lab.until_gone(lambda: not any("slam" in key[1] for key in lab.plane.views()[0].acked))
    assert await lab.get("slam.localhost") == (404, "no-such-app")


async def test_only_what_changes_nothing_is_tried_again(lab: Lab) -> None:
    """A POST that an instance has read reaches no second one when that instance breaks off; a GET does."""
    read: Counter[bytes] = Counter()

    async def slam(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):  # a health check: it connects and goes
            read[(await reader.readuntil(b"\r\n\r\n")).split()[0]] += 1
        writer.transport.abort()

    servers = [await asyncio.start_server(slam, "127.0.0.1", 0) for _ in range(3)]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    lab.set_app(make_app("slam", {1: 1}), *(make_instance("slam", 1, port) for port in ports))
    await lab.until_acked("slam")
    await lab.until_healthy("slam:v1", 3)
    assert (await lab.get("slam.localhost", method="POST", data=b"x"))[0] == 502
    assert read == {b"POST": 1}
    assert (await lab.get("slam.localhost"))[0] == 502
    assert read[b"GET"] > 1
    for server in servers:
        server.close()
    lab.plane.remove_app("slam")
    await lab.until_gone(lambda: not any("slam" in key[1] for key in lab.plane.views()[0].acked))


async def test_access_log_is_json_with_ecs_names(lab: Lab) -> None:
    """Each request is one line that names app, release and router."""
    await lab.get("shop.localhost", "/find-me?secret=1")
    path = lab.home.router("r1") / "access.log"
    async with asyncio.timeout(5):
        while not (lines := [line for line in path.read_text().splitlines() if "/find-me" in line]):
            await asyncio.sleep(0.05)
    entry = json.loads(lines[0])
    assert (entry["service.name"], entry["service.version"], entry["seaway.router"]) == ("shop", "v1", "r1")
    assert (entry["http.response.status_code"], entry["url.path"]) == (200, "/find-me")
    assert entry["event.duration"] > 0


async def test_idle_request_times_out_with_reason(lab: Lab) -> None:
    """A request without a byte for the release's idle timeout ends with 504 and a reason."""
    idle = await lab.start_backend("idle")
    policy = RouterPolicy(idle_timeout=0.3)
    spec = ReleaseSpec(app="idle", number=1, processes={"web": Process(command="x")}, router=policy)
    lab.releases["idle"] = {1: Release(meta=Meta(name="idle.v1"), spec=spec)}
    lab.set_app(make_app("idle", {1: 1}), make_instance("idle", 1, idle.port))
    await lab.until_acked("idle")
    await lab.until_healthy("idle:v1")
    assert await lab.get("idle.localhost", "/slow") == (504, "timed-out")


async def test_bad_requests_are_refused(lab: Lab) -> None:
    """What is no HTTP gets 400."""
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.settings.http_port)
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 400")
    writer.close()
    await writer.wait_closed()


async def ask_raw(lab: Lab, request: str) -> str:
    """Send a request as it is, which has its connection closed, and return the whole answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.settings.http_port)
    async with asyncio.timeout(10):
        writer.write(request.replace("\n", "\r\n").encode())
        answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    return answer


UPGRADES = ["foo", "h2c", "TLS/1.0", "websockets", "web", "foo, bar"]


@pytest.mark.parametrize("protocol", UPGRADES)
@pytest.mark.parametrize("body", ["", "hello"])
async def test_an_upgrade_to_another_protocol_is_an_ordinary_request(lab: Lab, protocol: str, body: str) -> None:
    """The app answers it, and is not told of an upgrade that it could not make."""
    head = f"Host: shop.localhost\nUpgrade: {protocol}\nConnection: upgrade, close\nContent-Length: {len(body)}\n"
    answer = await ask_raw(lab, f"POST /some HTTP/1.1\n{head}\n{body}")
    assert answer.startswith("HTTP/1.1 200 OK\r\n")
    seen = json.loads(answer.partition("\r\n\r\n")[2])
    assert (seen["label"], seen["path"]) == ("blue", "/some")
    assert "upgrade" not in seen["headers"]
    assert "upgrade" not in seen["headers"].get("connection", "").lower()


HOSTS = [
    ("shop.localhost", "other.localhost"), ("shop.localhost", "shop.localhost"), ("shop.localhost:80", "a.localhost"),
    ("Shop.localhost:80", "docs.localhost:80"), ("nowhere", "shop.localhost"),
]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), HOSTS)
async def test_two_hosts_are_refused(lab: Lab, first: str, second: str) -> None:
    """Whatever they are: what one part reads and another does not is how requests are smuggled."""
    answer = await ask_raw(lab, f"GET / HTTP/1.1\nHost: {first}\nHost: {second}\nConnection: close\n\n")
    assert answer.startswith("HTTP/1.1 400 Bad Request\r\n")
    assert "\r\nx-seaway-reason: bad-request\r\n" in answer
    assert answer.endswith("\r\n\r\nSeaway: this is no valid HTTP request.\n")

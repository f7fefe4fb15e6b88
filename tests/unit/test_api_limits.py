"""Limits of the API: at each a clear error to the one who hit it, and nothing to anybody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.api import ApiDeps, changing
from seaway.api.callers import BURST_SECONDS, SECOND, SWEEP, OpenStreams, RateLimiter
from seaway.api.endpoints import routes, tokens
from seaway.api.endpoints.running import MOST_LINES
from seaway.api.endpoints.watching import MOST_EVENTS
from seaway.api.errors import ApiError
from seaway.api.streams import HEARTBEAT
from seaway.control.serving import HEAD_LIMIT
from seaway.model import App, Build, BuildState, Role, Token
from seaway.rollout import releases
from tests.unit.api_support import Bench, connect, error, events_of, open_bench


class Ticks:
    """Nanoseconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(tmp_path) as opened:
        yield opened


def limit(bench: Bench, **settings: Any) -> Ticks:
    """Give the API these settings, and a clock that stands still."""
    deps: ApiDeps = bench.api.state.deps
    ticks = Ticks()
    bench.api.state.deps = replace(deps, settings=deps.settings.model_copy(update=settings), monotonic=ticks)
    return ticks


async def exhaust(client: httpx2.AsyncClient, rate: int, status: int = 200) -> None:
    """Send all that comes at once after a quiet time."""
    for _ in range(BURST_SECONDS * rate):
        assert (await client.get("/v1/apps")).status_code == status


@given(st.integers(1, 7), st.lists(st.integers(0, SECOND // 4), max_size=80))
def test_nobody_gets_more_than_the_burst_and_the_rate(rate: int, pauses: list[int]) -> None:
    """In no span of time, by whole nanoseconds; and who waits as told is admitted."""
    limiter, now, taken = RateLimiter(), 0, list[int]()
    for pause in pauses:
        now += pause
        wait = limiter.admit("ci", rate, now)
        if wait:
            assert limiter.admit("ci", rate, now + wait - 1) == 1
            now += wait
            assert limiter.admit("ci", rate, now) == 0
        taken.append(now)
    for first, begin in enumerate(taken):
        for last, end in enumerate(taken[first:], first):
            assert (last - first + 1 - BURST_SECONDS * rate) * SECOND <= rate * (end - begin)


@given(st.integers(1, 1000))
def test_the_whole_burst_is_admitted_at_once(rate: int) -> None:
    """Whatever the rate is, and not one more."""
    limiter = RateLimiter()
    assert [limiter.admit("ci", rate, 7) for _ in range(BURST_SECONDS * rate)] == [0] * (BURST_SECONDS * rate)
    assert 0 < limiter.admit("ci", rate, 7) <= -(-SECOND // rate)


def test_callers_that_are_quiet_are_forgotten() -> None:
    """Addresses are without number; a full bucket is as good as none."""
    limiter = RateLimiter()
    for number in range(1000):
        limiter.admit(f"address {number}", 50, number)
    limiter.admit("late", 50, SWEEP - 1)
    limiter.admit("ci", 50, SWEEP)
    assert len(limiter) == 2


async def test_a_token_that_asks_too_often_is_told_when_to_ask_again(bench: Bench) -> None:
    """429 with Retry-After; another token is answered meanwhile, and so is this one when it has waited."""
    ticks = limit(bench, token_rate=2)
    async with await bench.client(Role.VIEWER, name="ci") as ci:
        await exhaust(ci, 2)
        answer = await ci.get("/v1/apps")
        body = error(answer, 429)
        assert body["code"] == "too-many-requests"
        assert body["message"] == "the token 'ci' sends more than 2 requests a second"
        assert body["hint"].startswith("send it again in 1 s; --token-rate")
        assert answer.headers["retry-after"] == "1"
        assert (await bench.http.get("/v1/apps")).status_code == 200
        ticks.now += SECOND
        for status in (200, 200, 429):
            assert (await ci.get("/v1/apps")).status_code == status


async def test_who_shows_no_good_token_is_counted_by_address(bench: Bench) -> None:
    """From the same address a good token is answered, as often as it may ask."""
    limit(bench, token_rate=1)
    async with connect(bench.api, "swy_no") as nobody:
        await exhaust(nobody, 1, 401)
        answer = await nobody.get("/v1/apps")
        assert error(answer, 429)["message"].startswith("the address 127.0.0.1, without a good token, sends")
        assert answer.headers["retry-after"] == "1"
        await exhaust(bench.http, 1)
        error(await bench.http.get("/v1/apps"), 429)


async def test_probes_are_answered_however_often_they_ask(bench: Bench) -> None:
    """Whether the API lives is asked by the platform's own parts and by balancers."""
    limit(bench, token_rate=1)
    await exhaust(bench.http, 1)
    for _ in range(20):
        assert (await bench.http.get("/healthz")).status_code == 200


async def test_no_rate_is_no_limit(bench: Bench) -> None:
    """0, as for all quotas."""
    limit(bench, token_rate=0)
    for _ in range(20):
        assert (await bench.http.get("/v1/apps")).status_code == 200


class Following:
    """A client that follows all events until it is left."""

    def __init__(self, bench: Bench, secret: str) -> None:
        self._bench, self._secret = bench, secret
        self.status, self.body = 0, b""
        self._begun, self._gone = asyncio.Event(), asyncio.Event()

    async def __aenter__(self) -> Following:
        self._task = asyncio.create_task(self._follow())
        await self._begun.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._gone.set()
        await self._task

    async def _follow(self) -> None:
        headers = [(b"authorization", b"Bearer " + self._secret.encode())]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
            "path": "/v1/events", "raw_path": b"/v1/events", "root_path": "", "query_string": b"follow=1&n=0",
            "headers": headers, "client": ("127.0.0.1", 1), "server": ("seaway", 80),
        }  # fmt: skip
        asked = False

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await self._gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            self.status = message.get("status", self.status)
            self.body += message.get("body", b"")
            if message["type"] == "http.response.body":
                self._begun.set()

        await self._bench.api(scope, receive, send)


async def test_streams_at_once(bench: Bench) -> None:
    """The one too many is refused without Retry-After; another token's is not, and one that ends makes room."""
    bench.api.state.deps = replace(bench.api.state.deps, streams=OpenStreams(2))
    admin = bench.home.admin_token.read_text().strip()
    async with AsyncExitStack() as stack, await bench.client(Role.VIEWER, name="ci") as ci:
        first = await stack.enter_async_context(Following(bench, admin))
        async with Following(bench, admin) as second:
            assert (first.status, first.body, second.status) == (200, HEARTBEAT, 200)
            answer = await bench.http.get("/v1/events?follow=1")
            assert error(answer, 429)["code"] == "too-many-streams"
            assert "retry-after" not in answer.headers
            assert (await bench.http.get("/v1/events")).status_code == 200
            other = ci.headers["authorization"].removeprefix("Bearer ")
            assert (await stack.enter_async_context(Following(bench, other))).status == 200
        assert (await stack.enter_async_context(Following(bench, admin))).status == 200


def test_streams_that_have_ended_leave_nothing() -> None:
    """However they ended."""
    streams = OpenStreams(1)
    for _ in range(3):
        with pytest.raises(ApiError), streams.hold("ci"), streams.hold("ci"):
            pass


async def test_apps_of_a_team(bench: Bench) -> None:
    """The team that has as many as it may is told so; another team creates its own."""
    limit(bench, team_apps=1)
    assert (await bench.http.post("/v1/apps", json={"name": "shop", "team": "red"})).status_code == 201
    body = error(await bench.http.post("/v1/apps", json={"name": "blog", "team": "red"}), 422)
    assert (body["code"], body["field"]) == ("too-many-apps", "team")
    assert body["message"] == "the team red may have 1 apps, it has 1"
    assert "--team-apps" in body["hint"]
    assert error(await bench.http.post("/v1/apps", json={"name": "shop", "team": "red"}), 409)["code"] == "exists"
    assert (await bench.http.post("/v1/apps", json={"name": "blog", "team": "blue"})).status_code == 201
    limit(bench, team_apps=0)
    assert (await bench.http.post("/v1/apps", json={"name": "wiki", "team": "red"})).status_code == 201
    assert len((await bench.store.list(App)).documents) == 3


async def test_tokens_of_a_team(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of another team do not count; one that is revoked makes room."""
    monkeypatch.setattr(tokens, "MOST_TOKENS", 1)
    assert (await bench.http.post("/v1/tokens", json={"name": "ci", "team": "red"})).status_code == 201
    body = error(await bench.http.post("/v1/tokens", json={"name": "cd", "team": "red"}), 422)
    assert (body["code"], body["message"]) == (
        "too-many-tokens", "there are 1 tokens of the team red, the most there may be",
    )  # fmt: skip
    assert "revoke" in body["hint"]
    assert (await bench.http.post("/v1/tokens", json={"name": "cd", "team": "blue"})).status_code == 201
    assert (await bench.http.delete("/v1/tokens/ci")).status_code == 200
    assert (await bench.http.post("/v1/tokens", json={"name": "cd-2", "team": "red"})).status_code == 201
    assert len((await bench.store.list(Token)).documents) == 3


@pytest.mark.parametrize(("most", "size", "said"), [(2, 1000, "3 config values"), (9, 20, "would take 21 bytes")])
async def test_config_of_an_app(bench: Bench, monkeypatch: pytest.MonkeyPatch, most: int, size: int, said: str) -> None:
    """The change that makes it too large is refused whole, one that makes it smaller never; other apps have theirs."""
    await bench.http.post("/v1/apps", json={"name": "shop"})
    await bench.http.post("/v1/apps", json={"name": "blog"})
    config = {"A": "x" * 6, "B": "x" * 6, "C": "x" * 6}
    path, three = "/v1/apps/shop/config", {"set": config}
    with monkeypatch.context() as patch:
        patch.setattr(releases, "MOST_CONFIG", most)
        patch.setattr(releases, "LARGEST_CONFIG", size)
        body = error(await bench.http.patch(path, json=three), 422)
        assert body["code"] == "config-too-large"
        assert said in body["message"]
        two = {"set": {"A": "x" * 6, "B": "x" * 6}}
        assert (await bench.http.patch(path, json=two)).status_code == 201
        assert (await bench.http.patch("/v1/apps/blog/config", json=two)).status_code == 201
    assert (await bench.http.patch(path, json=three)).status_code == 201
    monkeypatch.setattr(releases, "MOST_CONFIG", 1)
    monkeypatch.setattr(releases, "LARGEST_CONFIG", 10)
    assert (await bench.http.patch(path, json={"unset": ["A"]})).status_code == 201


async def test_routes_of_an_app(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one too many is refused; another app has its own, and one that is removed makes room."""
    monkeypatch.setattr(routes, "MOST_ROUTES", 1)
    for app in ("shop", "blog"):
        await bench.http.post("/v1/apps", json={"name": app})
    path = "/v1/apps/shop/routes"
    assert (await bench.http.post(path, json={"host": "a.example.com"})).status_code == 201
    body = error(await bench.http.post(path, json={"host": "b.example.com"}), 422)
    assert (body["code"], body["message"]) == ("too-many-routes", "shop has 1 routes, the most there may be")
    assert (await bench.http.post("/v1/apps/blog/routes", json={"host": "b.example.com"})).status_code == 201
    assert (await bench.http.delete(path, params={"host": "a.example.com"})).status_code == 200
    assert (await bench.http.post(path, json={"host": "c.example.com"})).status_code == 201


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("GET", f"events?n={MOST_EVENTS + 1}", None, "n"),
        ("GET", f"apps/shop/logs?n={MOST_LINES + 1}", None, "n"),
        ("PUT", "apps/shop/scale", {"web": 1001}, "web"),
        ("PATCH", "apps/shop/config", {"set": {"A": "é" * 65025}}, "set.A"),
        ("PATCH", "apps/shop/config", {"set": {"A" * 257: "x"}}, "set." + "A" * 257),
        ("POST", "apps/shop/run", {"command": "x" * 8193}, "command"),
        ("POST", "apps/shop/run", {"command": "cat", "stdin": "A" * 4 * 180_000}, "stdin"),
        ("POST", "apps/shop/run", {"command": "x", "timeout": "8d"}, "timeout"),
        ("POST", "apps/shop/run", {"command": "x", "timeout": 7 * 86400 + 1}, "timeout"),
        ("POST", "apps/shop/releases", {"image": "sha256:" + "a" * 64, "procfile": "x" * (256 * 1024 + 1)}, "procfile"),
    ],
)
async def test_sizes_of_what_is_asked_for(bench: Bench, method: str, path: str, body: object, field: str) -> None:
    """422 names the field; nothing is done."""
    await bench.http.post("/v1/apps", json={"name": "shop"})
    await bench.deploy()
    before = await bench.reasons()
    assert error(await bench.http.request(method, f"/v1/{path}", json=body), 422)["field"] == field
    assert (await bench.reasons(), bench.engine.tasks) == (before, {})


async def test_who_follows_from_too_far_back_is_told(bench: Bench) -> None:
    """As one whose revision is of another history; the error says what to do, and is no error of Seaway's own."""
    await bench.http.post("/v1/apps", json={"name": "shop"})
    answer = await bench.http.get("/v1/apps/shop/watch", params={"since": 1 << 40})
    (name, data), *others = events_of(answer.text)
    assert (answer.status_code, name, others) == (200, "error", [])
    assert (data["error"]["code"], data["error"]["field"]) == ("expired", "since")


@pytest.mark.parametrize("path", ["/healthz", "/v1/apps"])
async def test_headers_and_query_that_are_too_large(bench: Bench, path: str) -> None:
    """431, whoever asks for what; as much as may be is taken."""
    half = "x" * (HEAD_LIMIT // 2)
    assert error(await bench.http.get(path, headers={"X-Long": half * 2}), 431)["code"] == "head-too-large"
    assert error(await bench.http.get(path, headers={"X-Long": half}, params={"x": half}), 431)["hint"]
    assert (await bench.http.get(path, headers={"X-Long": "x" * (HEAD_LIMIT - 1000)})).status_code == 200


async def test_builds_that_wait(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one too many is refused; another app has its own, and one that has ended makes room."""
    monkeypatch.setattr(changing, "MOST_WAITING", 2)
    new = {"source": {"git": "https://example.com/shop.git"}}
    for app in ("shop", "blog"):
        await bench.http.post("/v1/apps", json={"name": app})
    for _ in range(2):
        assert (await bench.http.post("/v1/apps/shop/builds", json=new)).status_code == 201
    body = error(await bench.http.post("/v1/apps/shop/builds", json=new), 409)
    assert (body["code"], body["message"]) == ("too-many-builds", "2 builds of shop wait, the most there may be")
    assert (await bench.http.post("/v1/apps/blog/builds", json=new)).status_code == 201
    ended = await bench.store.get(Build, "shop.b1")
    status = ended.status.model_copy(update={"state": BuildState.CANCELLED})
    await bench.store.update(ended.model_copy(update={"status": status}))
    assert (await bench.http.post("/v1/apps/shop/builds", json=new)).status_code == 201

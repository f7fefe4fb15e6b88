"""Who may do what: tokens, roles, teams, limits on what is sent."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from seaway.api import ensure_admin_token
from seaway.api.auth import make_secret
from seaway.engine.kubernetes.settings import KubernetesEngineSettings
from seaway.engine.kubernetes.teams import judge_place
from seaway.model import App, Role, Token
from tests.unit.api_support import Bench, connect, error, open_bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(tmp_path) as opened:
        yield opened


@pytest.mark.parametrize(
    "header", ["", "Basic abc", "Bearer", "Bearer swy_short", f"Bearer {make_secret()}", "Bearer \xff"]
)
async def test_requests_without_a_good_token_are_refused(bench: Bench, header: str) -> None:
    """401 with what to do, whatever is wrong with the header."""
    async with connect(bench.api, None) as nobody:
        answer = await nobody.get("/v1/apps", headers=[(b"Authorization", header.encode("latin-1"))])
        body = error(answer, 401)
        assert body["hint"]
        assert answer.headers["www-authenticate"] == "Bearer"
        error(await nobody.post("/v1/apps", content=b"not json"), 401)
        error(await nobody.get("/v1/nothing"), 401)


async def test_a_token_may_come_in_a_header_of_its_own(bench: Bench) -> None:
    """A cluster's API server keeps Authorization for itself; what comes along there counts for nothing."""
    secret = bench.home.admin_token.read_text().strip()
    async with connect(bench.api, None) as other:
        headers = {"X-Seaway-Token": secret, "Authorization": "Bearer of-the-cluster"}
        assert (await other.get("/v1/apps", headers=headers)).status_code == 200
        error(await other.get("/v1/apps", headers=headers | {"X-Seaway-Token": "swy_no"}), 401)


async def test_health_and_schema_need_no_token(bench: Bench) -> None:
    """Load balancers and browsers may ask these."""
    async with connect(bench.api, None) as nobody:
        assert (await nobody.get("/healthz")).json() == {"status": "ok"}
        assert (await nobody.get("/openapi.json")).status_code == 200


async def test_admin_token_is_made_once_and_readable_by_its_owner_only(bench: Bench) -> None:
    """Its file has mode 0600; the store has its hash, not the secret; a second start changes nothing."""
    secret = bench.home.admin_token.read_text().strip()
    assert stat.S_IMODE(bench.home.admin_token.stat().st_mode) == 0o600
    token = await bench.store.get(Token, "admin")
    assert secret not in token.model_dump_json()
    await ensure_admin_token(bench.store, bench.home, bench.clock())
    assert bench.home.admin_token.read_text().strip() == secret
    assert (await bench.http.get("/v1/tokens")).status_code == 200


async def test_lost_admin_token_file_gets_another_token(bench: Bench) -> None:
    """Nobody is locked out, and the old token goes on working."""
    bench.home.admin_token.unlink()
    await ensure_admin_token(bench.store, bench.home, bench.clock())
    async with connect(bench.api, bench.home.admin_token.read_text().strip()) as other:
        names = [token["meta"]["name"] for token in (await other.get("/v1/tokens")).json()]
    assert names == ["admin", "admin-2"]
    assert (await bench.http.get("/v1/apps")).status_code == 200


async def test_revoked_token_is_refused_by_the_next_request(bench: Bench) -> None:
    """Revoking takes effect at once."""
    made = (await bench.http.post("/v1/tokens", json={"name": "ci", "role": "developer"})).json()
    assert made["secret"].startswith("swy_")
    assert len(made["secret"]) == 47
    assert "hash" not in str(made)
    async with connect(bench.api, made["secret"]) as ci:
        assert (await ci.get("/v1/apps")).status_code == 200
        assert (await bench.http.delete("/v1/tokens/ci")).status_code == 200
        assert "revoked" in error(await ci.get("/v1/apps"), 401)["message"]
    error(await bench.http.delete("/v1/tokens/ci"), 404)
    assert await bench.reasons() == ["TokenCreated", "TokenCreated", "TokenRevoked"]


async def test_expired_token_is_refused(bench: Bench) -> None:
    """From the second it expires."""
    made = (await bench.http.post("/v1/tokens", json={"name": "ci", "expires_in": 60})).json()
    async with connect(bench.api, made["secret"]) as ci:
        bench.clock.advance(59)
        assert (await ci.get("/v1/apps")).status_code == 200
        bench.clock.advance(1)
        assert "expired" in error(await ci.get("/v1/apps"), 401)["message"]


class Cluster:
    """Says what a Kubernetes engine says of a cluster without teams."""

    async def judge_team(self, team: str) -> str:
        return judge_place(team, KubernetesEngineSettings(own_namespace="seaway-system"), None)


async def test_a_team_without_a_place_gets_neither_app_nor_token(bench: Bench) -> None:
    """409 names the field and says what to do; nothing is made."""
    bench.api.state.deps = replace(bench.api.state.deps, teams=Cluster())
    for path in ("/v1/apps", "/v1/tokens"):
        body = error(await bench.http.post(path, json={"name": "shop", "team": "system"}), 409)
        assert (body["code"], body["field"]) == ("team-taken", "team")
        assert "seaway-system, which is the control plane's own: choose another team" in body["message"]
    assert (await bench.store.list(App)).documents == ()
    assert [token.name for token in (await bench.store.list(Token)).documents] == ["admin"]
    assert (await bench.http.post("/v1/apps", json={"name": "shop", "team": "red"})).status_code == 201


async def test_last_admin_token_stays(bench: Bench) -> None:
    """Nobody can lock everybody out, not even with an expired or a team's admin token beside it."""
    await bench.client(Role.ADMIN, "red")
    await bench.client(Role.ADMIN, name="old", seconds=1)
    bench.clock.advance(2)
    assert error(await bench.http.delete("/v1/tokens/admin"), 409)["code"] == "last-admin"
    await bench.client(Role.ADMIN, name="second")
    assert (await bench.http.delete("/v1/tokens/admin")).status_code == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": "Not A Name"}, "name"),
        ({"name": "x", "role": "owner"}, "role"),
        ({"name": "x", "team": "-"}, "team"),
        ({"name": "x", "expires_in": -1}, "expires_in"),
        ({"name": "x", "expires_in": 1e999}, "expires_in"),
        ({"name": "x", "expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "x", "colour": "red"}, "colour"),
    ],
)
async def test_bad_tokens_are_refused_by_field(bench: Bench, body: dict[str, object], field: str) -> None:
    """Every error names the field."""
    answer = await bench.http.post("/v1/tokens", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert error(answer, 422)["field"] == field


async def test_viewer_reads_and_changes_nothing(bench: Bench) -> None:
    """403 says which role is needed."""
    await bench.http.post("/v1/apps", json={"name": "shop"})
    await bench.deploy()
    async with await bench.client(Role.VIEWER) as viewer:
        assert (await viewer.get("/v1/apps/shop")).status_code == 200
        assert (await viewer.get("/v1/apps/shop/config")).status_code == 200
        refused = [
            await viewer.post("/v1/apps", json={"name": "other"}),
            await viewer.delete("/v1/apps/shop?confirm=shop"),
            await viewer.put("/v1/sources", content=b"\x1f\x8b"),
            await viewer.put("/v1/apps/shop/scale", json={"web": 2}),
            await viewer.patch("/v1/apps/shop/config", json={"set": {"A": "b"}}),
            await viewer.get("/v1/apps/shop/config?reveal=1"),
            await viewer.get("/v1/apps/shop/releases/1?reveal=1"),
            await viewer.post("/v1/apps/shop/run", json={"command": "ls"}),
            await viewer.post("/v1/apps/shop/rollback", json={}),
            await viewer.get("/v1/tokens"),
        ]
    assert all("role" in error(answer, 403)["message"] for answer in refused)


async def test_developer_manages_no_tokens(bench: Bench) -> None:
    """Only admins do."""
    async with await bench.client(Role.DEVELOPER) as developer:
        assert "needs admin" in error(await developer.post("/v1/tokens", json={"name": "x"}), 403)["message"]


async def test_other_teams_apps_do_not_exist(bench: Bench) -> None:
    """A team's token sees its own apps only; the others are 404, also in suggestions and events."""
    await bench.http.post("/v1/apps", json={"name": "red-shop", "team": "red"})
    await bench.http.post("/v1/apps", json={"name": "blue-shop", "team": "blue"})
    async with await bench.client(Role.DEVELOPER, "red") as red:
        assert [app["meta"]["name"] for app in (await red.get("/v1/apps")).json()] == ["red-shop"]
        body = error(await red.get("/v1/apps/blue-shop"), 404)
        assert "blue-shop" not in body["hint"]
        error(await red.delete("/v1/apps/blue-shop?confirm=blue-shop"), 404)
        error(await red.put("/v1/apps/blue-shop/scale", json={"web": 1}), 404)
        events = (await red.get("/v1/events")).json()
        assert {event["spec"]["app"] for event in events} == {"red-shop"}
        error(await red.get("/v1/events?app=blue-shop"), 404)
        assert error(await red.post("/v1/apps", json={"name": "x", "team": "blue"}), 403)["field"] == "team"
        assert (await red.post("/v1/apps", json={"name": "mine"})).json()["spec"]["team"] == "red"


async def test_team_admin_manages_its_teams_tokens_only(bench: Bench) -> None:
    """It can neither see nor make tokens of others, nor one of every team."""
    async with await bench.client(Role.ADMIN, "red") as red:
        assert (await red.post("/v1/tokens", json={"name": "ci"})).json()["spec"]["team"] == "red"
        error(await red.post("/v1/tokens", json={"name": "other", "team": "blue"}), 403)
        assert {token["spec"]["team"] for token in (await red.get("/v1/tokens")).json()} == {"red"}
        error(await red.delete("/v1/tokens/admin"), 404)


async def test_large_bodies_are_refused(bench: Bench) -> None:
    """413, by the announced length or by what arrives."""
    big = b'{"name": "' + b"x" * (1 << 20) + b'"}'
    assert "1 MiB" in error(await bench.http.post("/v1/apps", content=big), 413)["message"]

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100_000

    error(await bench.http.post("/v1/apps", content=chunks()), 413)
    huge = {"Content-Length": str(600 << 20)}
    assert ".seawayignore" in error(await bench.http.put("/v1/sources", content=b"", headers=huge), 413)["hint"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"nonsense",
        b"[" * 500_000,
        b'{"set":' * 100_000 + b"1",
        b'{"a":' + b"1" * 5000 + b"}",
        b"\xff\xfe",
        b'"\\ud800"',
        b"[]",
        b"null",
    ],
)
async def test_bodies_that_are_not_what_they_should_be(bench: Bench, content: bytes) -> None:
    """Not JSON, too deep, wrong type: 400 or 422, never 500."""
    headers = {"Content-Type": "application/json"}
    answer = await bench.http.post("/v1/apps", content=content, headers=headers)
    assert answer.status_code in {400, 422}
    error(answer, answer.status_code)


async def test_surrogates_in_keys_and_values_are_refused(bench: Bench) -> None:
    """Text without a UTF-8 form cannot be stored; the error itself can be sent."""
    await bench.http.post("/v1/apps", json={"name": "shop"})
    headers = {"Content-Type": "application/json"}
    for content in (b'{"set": {"A": "\\ud800"}}', b'{"set": {"\\ud800": "x"}}', b'{"\\ud800": 1}'):
        error(await bench.http.patch("/v1/apps/shop/config", content=content, headers=headers), 422)


async def test_unknown_paths_and_methods_have_the_same_shape(bench: Bench) -> None:
    """Errors of the framework look like ours."""
    error(await bench.http.get("/v1/nothing"), 404)
    error(await bench.http.patch("/v1/apps"), 405)
    await bench.http.post("/v1/apps", json={"name": "shop"})
    assert error(await bench.http.get("/v1/apps/shop/builds/zero"), 422)["field"] == "number"

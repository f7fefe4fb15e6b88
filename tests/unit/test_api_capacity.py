"""Scaling, deploying and rolling back to what does not fit: refused with the number that does, unless it is forced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from seaway.model import App, Release, Role
from tests.unit.api_support import IMAGE, Bench, error, open_bench

MIB = 1 << 20


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """An app with web=1, which takes 200 MiB, and worker=0, on a node with 1000 MiB left."""
    async with open_bench(tmp_path) as opened:
        await opened.http.post("/v1/apps", json={"name": "shop"})
        await opened.deploy(scale={"worker": 0})
        opened.add_instance(memory=200 * MIB)
        opened.engine.give_memory(1000 * MIB)
        yield opened


async def messages(bench: Bench, reason: str) -> list[str]:
    events = (await bench.http.get("/v1/events", params={"app": "shop"})).json()
    return [event["spec"]["message"] for event in events if event["spec"]["reason"] == reason]


async def test_scaling_to_more_than_fits_is_refused_with_the_number_that_does(bench: Bench) -> None:
    """Nothing is changed, and the number named is accepted."""
    body = error(await bench.http.put("/v1/apps/shop/scale", json={"web": 50}), 422)
    assert body == {
        "code": "does-not-fit",
        "message": "web=50 does not fit: 6 fit (each takes 200 MiB; 1000 MiB are free on this machine)",
        "field": "web",
        "hint": "scale to web=6, or give --force",
    }
    assert (await bench.store.get(App, "shop")).spec.scale == {}
    assert (await bench.http.put("/v1/apps/shop/scale", json={"web": 6})).status_code == 200
    assert error(await bench.http.put("/v1/apps/shop/scale", json={"web": 7}), 422)["hint"].startswith("scale to web=6")
    assert (await bench.http.put("/v1/apps/shop/scale", json={"web": 2})).status_code == 200


async def test_what_is_forced_is_done_and_told(bench: Bench) -> None:
    """Scaling down again, or saying the same again, needs no force."""
    answer = await bench.http.put("/v1/apps/shop/scale?force=true", json={"web": 900, "worker": 1})
    assert answer.json()["spec"]["scale"] == {"web": 900, "worker": 1}
    (said,) = await messages(bench, "AppScaled")
    assert said.startswith("Scaled to web=900, worker=1. Forced: web=900 does not fit: 6 fit (each takes 200 MiB;")
    for count in (900, 800):
        assert (await bench.http.put("/v1/apps/shop/scale", json={"web": count})).status_code == 200


async def test_only_an_admin_may_force(bench: Bench) -> None:
    """Limits are the platform's, and its machine everybody's; nothing is changed."""
    async with await bench.client(Role.DEVELOPER) as developer:
        answers = [
            await developer.put("/v1/apps/shop/scale?force=true", json={"web": 900}),
            await developer.post("/v1/apps/shop/releases", json={"image": IMAGE, "force": True}),
            await developer.post("/v1/apps/shop/builds", json={"source": {"archive": "0" * 64}, "force": True}),
        ]
    for answer in answers:
        body = error(answer, 403)
        assert body["code"] == "role-too-low"
        assert body["message"].endswith("has the role developer; forcing what does not fit needs admin")
    assert (await bench.store.get(App, "shop")).spec.scale == {}


@pytest.mark.parametrize(
    ("role", "hint", "of_rollback"),
    [
        (Role.ADMIN, "or give --force", "or scale to web=9 with --force"),
        (Role.DEVELOPER, "or ask an admin to force it", "or ask an admin to force web=9"),
    ],
)
async def test_only_an_admin_is_told_of_force(bench: Bench, role: Role, hint: str, of_rollback: str) -> None:
    """Others are told whom to ask, of every change that does not fit."""
    await bench.deploy(image="sha256:" + "b" * 64, scale={"web": 9})
    await bench.deploy(image="sha256:" + "c" * 64, scale={"web": 1})
    bench.engine.give_memory(0)
    async with await bench.client(role) as http:
        scale = error(await http.put("/v1/apps/shop/scale", json={"web": 9}), 422)
        deploy = error(await http.post("/v1/apps/shop/releases", json={"image": IMAGE}), 422)
        rollback = error(await http.post("/v1/apps/shop/rollback", json={"to": 2}), 422)
    assert scale["hint"] == f"scale to web=1, {hint}"
    assert deploy["message"].endswith(f", {hint}")
    assert rollback["message"].endswith(f" first, {of_rollback}")


async def test_what_one_was_granted_no_other_gets(bench: Bench) -> None:
    """Though nothing of it has started yet."""
    await bench.http.post("/v1/apps", json={"name": "blog"})
    await bench.deploy("blog", scale={"web": 0, "worker": 0})
    assert (await bench.http.put("/v1/apps/shop/scale", json={"web": 5})).status_code == 200
    message = error(await bench.http.put("/v1/apps/blog/scale", json={"web": 9}), 422)["message"]
    assert message == "web=9 does not fit: 3 fit (each is expected to take 64 MiB; 200 MiB are free on this machine)"


async def test_of_two_who_ask_at_once_one_is_refused(bench: Bench) -> None:
    """Whoever is second finds that the room is taken."""
    await bench.http.post("/v1/apps", json={"name": "blog"})
    await bench.deploy("blog", scale={"web": 0, "worker": 0})
    bench.engine.give_memory(700 * MIB)
    answers = await asyncio.gather(
        bench.http.put("/v1/apps/shop/scale", json={"web": 4}),
        bench.http.put("/v1/apps/blog/scale", json={"web": 10}),
    )
    assert sorted(answer.status_code for answer in answers) == [200, 422]


async def test_a_deploy_counts_from_when_its_release_is_made(bench: Bench) -> None:
    """Its instances take 200 of the 300 MiB; the rest is not enough for another one."""
    bench.engine.give_memory(300 * MIB)
    assert (await bench.http.post("/v1/apps/shop/releases", json={"image": IMAGE})).status_code == 201
    message = error(await bench.http.put("/v1/apps/shop/scale", json={"web": 2}), 422)["message"]
    assert message == "web=2 does not fit: 1 fits (each takes 400 MiB; 100 MiB are free on this machine)"


async def test_without_word_of_memory_the_limit_per_app_holds(bench: Bench) -> None:
    """As in a cluster, whose scheduler knows better."""
    bench.engine.give_memory(None)
    message = error(await bench.http.put("/v1/apps/shop/scale", json={"web": 900}), 422)["message"]
    assert message == "web=900 does not fit: 100 fit (an app may have 100 instances, this one has 1)"
    assert (await bench.http.put("/v1/apps/shop/scale", json={"web": 100})).status_code == 200


async def test_nobody_needs_the_engine_to_ask_for_less_or_to_force(bench: Bench) -> None:
    """Whoever asks for more is told to try again."""
    bench.engine.available = False
    assert error(await bench.http.put("/v1/apps/shop/scale", json={"web": 2}), 503)["code"] == "engine-unavailable"
    assert (await bench.http.put("/v1/apps/shop/scale", json={"web": 1})).status_code == 200
    assert (await bench.http.put("/v1/apps/shop/scale?force=true", json={"web": 2})).status_code == 200
    assert (await bench.http.post("/v1/apps/shop/restart")).status_code == 201


async def test_a_deploy_that_does_not_fit_beside_what_runs_is_refused(bench: Bench) -> None:
    """The strategy to stop that first has room; so has force, which is told."""
    bench.engine.give_memory(100 * MIB)
    body = error(await bench.http.post("/v1/apps/shop/releases", json={"image": IMAGE}), 422)
    assert body["code"] == "does-not-fit"
    assert body["message"].startswith("web=1 does not fit: none fits (each takes 200 MiB; 100 MiB are free on this")
    assert ": scale something else down first (" in body["message"]
    assert body["message"].endswith("), deploy with --strategy recreate, or give --force")
    assert len((await bench.store.list(Release)).documents) == 1
    for more in ({"force": True}, {"strategy": "recreate"}):
        assert (await bench.http.post("/v1/apps/shop/releases", json={"image": IMAGE, **more})).status_code == 201
    (forced, _) = await messages(bench, "ReleaseCreated")
    assert "Forced: web=1 does not fit: none fits" in forced


async def test_a_rollback_adds_no_more_instances_than_fit(bench: Bench) -> None:
    """One to as many as there are is never held up, however little memory is left."""
    await bench.deploy(image="sha256:" + "b" * 64, scale={"web": 9})
    await bench.deploy(image="sha256:" + "c" * 64, scale={"web": 1})
    bench.engine.give_memory(0)
    assert error(await bench.http.post("/v1/apps/shop/rollback", json={"to": 2}), 422)["code"] == "does-not-fit"
    assert (await bench.http.post("/v1/apps/shop/rollback", json={"to": 1})).status_code == 201
    assert (await bench.http.patch("/v1/apps/shop/config", json={"set": {"A": "1"}})).status_code == 201

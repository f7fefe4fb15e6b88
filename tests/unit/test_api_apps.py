"""Apps, builds, releases, rollouts, config, routes: intent recorded, state shown, errors that help."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from seaway.api.deps import LeaderLink
from seaway.engine.memory import MemoryEngine
from seaway.model import (
    App,
    Build,
    BuildManifest,
    BuildState,
    BuildStatus,
    Drain,
    InstanceState,
    Meta,
    Phase,
    Process,
    Release,
    ReleaseSpec,
    Role,
    Rollout,
    Route,
)
from seaway.rollout.keeping import KEEP_RELEASES
from seaway.rollout.releases import ImageChange, compose_release
from tests.contract.engine_kit import make_task
from tests.unit.api_support import IMAGE, NOW, Bench, error, events_of, open_bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(tmp_path) as opened:
        await opened.http.post("/v1/apps", json={"name": "shop"})
        yield opened


async def upload(bench: Bench, content: bytes = b"source") -> str:
    answer = await bench.http.put("/v1/sources", content=gzip.compress(content, mtime=0))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["digest"])


# Apps


async def test_created_app_is_empty_and_has_a_url(bench: Bench) -> None:
    """What create stored is what get and list show."""
    created = (await bench.http.post("/v1/apps", json={"name": "blog", "team": "red"})).json()
    assert created["url"] == "http://blog.localhost:8080/"
    assert created["spec"]["team"] == "red"
    assert created["status"]["state"] == "empty"
    assert (await bench.http.get("/v1/apps/blog")).json() == created
    assert [app["meta"]["name"] for app in (await bench.http.get("/v1/apps")).json()] == ["blog", "shop"]
    assert (await bench.store.get(App, "blog")).meta.labels == {"team": "red"}


async def test_taken_name_is_refused(bench: Bench) -> None:
    """409 names the field."""
    assert error(await bench.http.post("/v1/apps", json={"name": "shop"}), 409)["field"] == "name"


@pytest.mark.parametrize("name", ["", "Shop", "1shop", "shop-", "a--b", "x" * 31, "sh op", "shop\n", 7, None])
async def test_bad_name_is_refused(bench: Bench, name: object) -> None:
    """422 says what a name looks like; nothing is made."""
    assert error(await bench.http.post("/v1/apps", json={"name": name}), 422)["field"] == "name"
    assert len((await bench.store.list(App)).documents) == 1


async def test_unknown_app_gets_suggestions(bench: Bench) -> None:
    """Did you mean."""
    body = error(await bench.http.get("/v1/apps/shpo"), 404)
    assert body == {
        "code": "no-such-app",
        "message": "there is no app 'shpo'",
        "field": "app",
        "hint": "did you mean shop?",
    }


@pytest.mark.parametrize("name", ["%00", "%FF", "..", "a" * 5000, "%F0%9F%9A%A2", "a%0Ab"])
async def test_strange_names_in_paths_are_not_found(bench: Bench, name: str) -> None:
    """No path makes an error of ours."""
    assert (await bench.http.get(f"/v1/apps/{name}")).status_code in {404, 422}


async def test_destroying_needs_the_name_again_and_is_recorded_as_intent(bench: Bench) -> None:
    """The control loop does it; meanwhile nothing else can be asked of the app."""
    assert error(await bench.http.delete("/v1/apps/shop"), 422)["field"] == "confirm"
    assert error(await bench.http.delete("/v1/apps/shop?confirm=shpo"), 422)["code"] == "not-confirmed"
    assert (await bench.http.delete("/v1/apps/shop?confirm=shop")).status_code == 202
    assert (await bench.store.get(App, "shop")).spec.destroy
    assert (await bench.http.delete("/v1/apps/shop?confirm=shop")).status_code == 202
    assert error(await bench.http.put("/v1/apps/shop/scale", json={"web": 2}), 409)["code"] == "destroying"
    assert await bench.reasons(app="shop") == ["AppCreated", "AppDestroyRequested"]


async def test_scaling_keeps_other_processes_and_names_known_ones(bench: Bench) -> None:
    """Unknown process types are refused with those there are."""
    assert "deploy" in error(await bench.http.put("/v1/apps/shop/scale", json={"web": 2}), 422)["hint"]
    await bench.deploy()
    await bench.http.put("/v1/apps/shop/scale", json={"worker": 4})
    answer = await bench.http.put("/v1/apps/shop/scale", json={"web": 3})
    assert answer.json()["spec"]["scale"] == {"web": 3, "worker": 4}
    body = error(await bench.http.put("/v1/apps/shop/scale", json={"wbe": 3}), 422)
    assert body["field"] == "wbe"
    assert body["hint"] == "its processes are: web, worker"
    for bad in (-1, 1001, "many", 1.5):
        assert error(await bench.http.put("/v1/apps/shop/scale", json={"web": bad}), 422)["field"] == "web"


async def test_a_process_of_a_release_that_failed_can_be_scaled(bench: Bench) -> None:
    """As its rollout advises; whether that fits is judged as of any other."""
    await bench.deploy()
    processes = {name: Process(command="run") for name in ("web", "mill")}
    failed = compose_release(
        await bench.store.get(App, "shop"), (await bench.store.list(Release)).documents, (),
        ImageChange("sha256:" + "b" * 64, BuildManifest(processes=processes, scale={"mill": 1})), "test",
    )  # fmt: skip
    await bench.store.create(failed)
    await bench.roll_out(failed, Phase.FAILED)
    assert (await bench.http.put("/v1/apps/shop/scale", json={"mill": 0})).json()["spec"]["scale"] == {"mill": 0}
    assert (await bench.http.put("/v1/apps/shop/scale", json={"mill": 2})).status_code == 200
    assert error(await bench.http.put("/v1/apps/shop/scale", json={"mlil": 0}), 422)["field"] == "mlil"


async def test_a_release_of_an_image_tells_what_is_not_started(bench: Bench) -> None:
    """In the release itself, and in its event; what another app made of the image is not what its files say."""
    await bench.http.post("/v1/apps", json={"name": "staging"})
    await bench.deploy("staging")
    await bench.deploy()
    assert (await bench.http.put("/v1/apps/shop/scale", json={"web": 2})).status_code == 200
    answer = await bench.http.post("/v1/apps/shop/releases", json={"image": IMAGE})
    spec = answer.json()["spec"]
    assert (spec["note"], spec["scale"], spec["unsaid"]) == ("", {}, {"web": 1, "worker": 0})
    await bench.http.post("/v1/apps", json={"name": "new"})
    note = "worker is not started: nobody has said how many; `seaway ps scale worker=1 -a new`"
    assert (await bench.http.post("/v1/apps/new/releases", json={"image": IMAGE})).json()["spec"]["note"] == note
    events = (await bench.http.get("/v1/events", params={"app": "new"})).json()
    assert events[-1]["spec"]["message"].endswith(f" Note: {note}.")
    assert (await bench.http.post("/v1/apps/new/restart")).json()["spec"]["note"] == ""


async def test_concurrent_changes_of_one_app_are_all_kept(bench: Bench) -> None:
    """Scaling and adding routes at the same time: every intent is there in the end."""
    await bench.deploy()
    answers = await asyncio.gather(
        *(bench.http.put("/v1/apps/shop/scale", json={name: n}) for n in (2, 3) for name in ("web", "worker")),
        *(bench.http.post("/v1/apps/shop/routes", json={"host": f"h{n}.example.com"}) for n in range(6)),
    )
    assert {answer.status_code for answer in answers} == {200, 201}
    app = await bench.store.get(App, "shop")
    assert len(app.spec.routes) == 6
    assert set(app.spec.scale) == {"web", "worker"}


async def test_instances_are_shown_with_release_uptime_and_drain(bench: Bench) -> None:
    """As the engine sees them now; other apps' are not there."""
    first = bench.add_instance(started_at=NOW - timedelta(seconds=90), ready=True, cpu=0.5, memory=1000, restarts=2)
    bench.add_instance(state=InstanceState.CRASHING, reason="exit 1: no module named x")
    bench.add_instance(app="other")
    app = await bench.store.get(App, "shop")
    drain = Drain(since=NOW, limit=NOW, why="v2 serves now")
    await bench.store.update(
        app.model_copy(update={"status": app.status.model_copy(update={"drains": {first.id: drain}})})
    )
    shown = (await bench.http.get("/v1/apps/shop/instances")).json()
    assert [(i["release"], i["process"], i["state"], i["uptime"], i["draining"]) for i in shown] == [
        (1, "web", "running", 90.0, True), (1, "web", "crashing", None, False),
    ]  # fmt: skip
    assert (shown[0]["restarts"], shown[0]["drain_reason"]) == (2, "v2 serves now")
    assert shown[1]["reason"] == "exit 1: no module named x"
    gone = first.model_copy(update={"id": "shop-v1-web-gone", "state": InstanceState.STOPPED})
    bench.engine.instances[gone.id] = gone
    assert (await bench.http.get("/v1/status")).json()["engine"]["instances"] == 2, "a stopped one is none any more"


async def test_engine_that_does_not_answer_is_said_so(bench: Bench) -> None:
    """503 for what needs it; status answers all the same."""
    bench.engine.available = False
    answer = await bench.http.get("/v1/apps/shop/instances")
    assert error(answer, 503)["code"] == "engine-unavailable"
    assert answer.headers["retry-after"]
    status = (await bench.http.get("/v1/status")).json()
    assert status["engine"]["available"] is False
    assert status["app_states"] == {"empty": 1}
    assert status["routers"][0]["connected"] is True


# Sources and builds


async def test_uploaded_source_is_kept_under_its_digest(bench: Bench) -> None:
    """Sending it twice is fine; nothing else stays behind."""
    content = gzip.compress(b"source", mtime=0)
    digest = await upload(bench)
    assert digest == hashlib.sha256(content).hexdigest() == await upload(bench)
    files = list(bench.home.sources.iterdir())
    assert [file.name for file in files] == [f"{digest}.tar.gz"]
    assert files[0].read_bytes() == content


async def test_large_upload_arrives_whole(bench: Bench) -> None:
    """In many parts of odd sizes."""
    body = b"\x1f\x8b" + bytes(range(256)) * 20_000

    async def parts() -> AsyncIterator[bytes]:
        yield body[:1]
        for start in range(1, len(body), 70_001):
            yield body[start : start + 70_001]

    answer = await bench.http.put("/v1/sources", content=parts())
    assert answer.json() == {"digest": hashlib.sha256(body).hexdigest()}
    assert (bench.home.sources / f"{answer.json()['digest']}.tar.gz").read_bytes() == body


@pytest.mark.parametrize("body", [b"", b"\x1f", b"PK\x03\x04zip", b"x" * 3_000_000])
async def test_upload_that_is_no_archive_leaves_nothing(bench: Bench, body: bytes) -> None:
    """400 says what to send."""
    assert error(await bench.http.put("/v1/sources", content=body), 400)["code"] == "not-an-archive"
    assert list(bench.home.sources.iterdir()) == []


async def test_builds_are_numbered_also_when_asked_for_at_once(bench: Bench) -> None:
    """Every request gets a build of its own, with the app's labels."""
    digest = await upload(bench)
    body = {"source": {"archive": digest}, "strategy": "recreate"}
    answers = await asyncio.gather(*(bench.http.post("/v1/apps/shop/builds", json=body) for _ in range(8)))
    assert sorted(answer.json()["spec"]["number"] for answer in answers) == list(range(1, 9))
    assert [build["spec"]["number"] for build in (await bench.http.get("/v1/apps/shop/builds")).json()] == list(
        range(8, 0, -1)
    )
    build = await bench.store.get(Build, "shop.b3")
    assert build.meta.labels == {"app": "shop", "team": "default"}
    assert (build.spec.by, build.spec.deploy, build.spec.strategy) == ("admin", True, "recreate")
    assert (await bench.http.get("/v1/apps/shop/builds/3")).json()["status"]["state"] == "queued"


@pytest.mark.parametrize(
    ("source", "field"),
    [
        ({}, "source"),
        ({"archive": "x"}, "source"),
        ({"archive": "0" * 64}, "source.archive"),
        ({"archive": "0" * 64, "git": "https://example.com/a"}, "source"),
        ({"archive": "../" * 20 + "etc"}, "source"),
        ({"git": "--upload-pack=touch /tmp/x"}, "source"),
        ({"git": "ext::sh -c id"}, "source"),
        ({"git": "https://example.com/a", "ref": "--exec=x"}, "source"),
        ({"git": "https://exa mple.com/a"}, "source"),
        ({"git": 7}, "source.git"),
        ("text", "source"),
    ],
)
async def test_bad_sources_are_refused(bench: Bench, source: object, field: str) -> None:
    """422 names the field; no build is made."""
    assert error(await bench.http.post("/v1/apps/shop/builds", json={"source": source}), 422)["field"] == field
    assert (await bench.store.list(Build)).documents == ()


async def test_credentials_in_git_urls_are_not_shown(bench: Bench) -> None:
    """They are kept for the builder only."""
    body = {"source": {"git": "https://me:secret@example.com/shop.git", "ref": "main"}}
    answer = await bench.http.post("/v1/apps/shop/builds", json=body)
    assert answer.json()["spec"]["source"]["git"] == "https://********@example.com/shop.git"
    assert "secret" not in (await bench.http.get("/v1/apps/shop/builds")).text
    assert (await bench.store.get(Build, "shop.b1")).spec.source.git == body["source"]["git"]


async def test_paths_on_the_platforms_disk_are_for_admins(bench: Bench) -> None:
    """A developer must not read what the platform can read."""
    body = {"source": {"git": "file:///srv/repo"}}
    async with await bench.client(Role.DEVELOPER) as developer:
        error(await developer.post("/v1/apps/shop/builds", json=body), 403)
    assert (await bench.http.post("/v1/apps/shop/builds", json=body)).status_code == 201


async def end_build(bench: Bench, number: int, state: BuildState, **status: object) -> None:
    build = await bench.store.get(Build, f"shop.b{number}")
    await bench.store.update(
        build.model_copy(
            update={"status": BuildStatus.model_validate({"state": state, "reason": "it ended", **status})}
        )
    )


async def test_cancelling_a_build_records_intent_until_it_is_over(bench: Bench) -> None:
    """Twice is fine; afterwards 409 says how it ended."""
    digest = await upload(bench)
    await bench.http.post("/v1/apps/shop/builds", json={"source": {"archive": digest}})
    for _ in range(2):
        assert (await bench.http.post("/v1/apps/shop/builds/1/cancel")).json()["spec"]["cancel"] is True
    await end_build(bench, 1, BuildState.SUCCEEDED)
    assert "succeeded" in error(await bench.http.post("/v1/apps/shop/builds/1/cancel"), 409)["message"]
    error(await bench.http.post("/v1/apps/shop/builds/9/cancel"), 404)
    assert (await bench.reasons()).count("BuildCancelRequested") == 1


async def test_build_log_is_shown_and_followed_to_its_end(bench: Bench) -> None:
    """Following ends with the build's state; a line without an end is not lost."""
    digest = await upload(bench)
    await bench.http.post("/v1/apps/shop/builds", json={"source": {"archive": digest}})
    assert (await bench.http.get("/v1/apps/shop/builds/1/log")).text == ""
    log = bench.home.build_log("shop.b1", (await bench.store.get(Build, "shop.b1")).meta.uid)
    log.write_bytes("first\r\nzweite Zeile ü\n".encode() + b"\xff half")
    shown = await bench.http.get("/v1/apps/shop/builds/1/log")
    assert shown.headers["content-type"].startswith("application/x-ndjson")
    assert shown.text == '{"line": "first"}\n{"line": "zweite Zeile \\u00fc"}\n{"line": "\\ufffd half"}\n'
    following = asyncio.create_task(bench.http.get("/v1/apps/shop/builds/1/log?follow=1"))
    await asyncio.sleep(0.05)
    assert not following.done()
    with log.open("ab") as file:
        file.write(b" done\nlast")
    await end_build(bench, 1, BuildState.FAILED)
    events = events_of((await following).text)
    assert [data.get("line") for _, data in events[:-1]] == ["first", "zweite Zeile ü", "� half done", "last"]
    assert events[-1] == ("end", {"state": "failed", "reason": "it ended"})


# Releases and config


async def test_release_of_a_known_image_takes_its_processes(bench: Bench) -> None:
    """From the newest build of it."""
    digest = await upload(bench)
    await bench.http.post("/v1/apps/shop/builds", json={"source": {"archive": digest}})
    manifest = BuildManifest(processes={"web": Process(command="serve")}, release_command="migrate")
    await end_build(bench, 1, BuildState.SUCCEEDED, image=IMAGE, manifest=manifest)
    answer = await bench.http.post("/v1/apps/shop/releases", json={"image": IMAGE, "strategy": "recreate"})
    assert answer.status_code == 201
    spec = answer.json()["spec"]
    assert (spec["number"], spec["image"], spec["build"]) == (1, IMAGE, "shop.b1")
    assert spec["processes"]["web"]["command"] == "serve"
    assert (spec["release_command"], spec["rollout"]["strategy"]) == ("migrate", "recreate")


async def test_image_of_another_app_can_be_promoted_if_it_is_seen(bench: Bench) -> None:
    """From staging to production; not from another team."""
    await bench.http.post("/v1/apps", json={"name": "staging", "team": "red"})
    await bench.http.post("/v1/apps", json={"name": "prod", "team": "blue"})
    await bench.deploy("staging")
    async with await bench.client(Role.DEVELOPER, "blue") as blue:
        assert error(await blue.post("/v1/apps/prod/releases", json={"image": IMAGE}), 422)["field"] == "image"
    answer = await bench.http.post("/v1/apps/prod/releases", json={"image": IMAGE})
    assert answer.json()["spec"]["processes"]["web"]["command"] == "run web"


async def test_images_that_are_no_longer_kept_are_refused(bench: Bench) -> None:
    """Neither a rollback nor a release brings back an image that pruning may have deleted."""
    await bench.deploy()
    for number in range(KEEP_RELEASES + 1):
        await bench.deploy(image=f"sha256:{number:064d}")
    for path, body in (("rollback", {"to": 1}), ("releases", {"image": IMAGE})):
        answer = error(await bench.http.post(f"/v1/apps/shop/{path}", json=body), 409)
        assert answer["code"] == "image-gone"
        assert "no longer kept" in answer["message"]
    assert (await bench.http.post("/v1/apps/shop/rollback", json={"to": 3})).status_code == 201


async def test_what_is_no_longer_kept_says_so(bench: Bench) -> None:
    """Of a release, rollout or build that is gone; a number that never was is another matter."""
    source = {"archive": await upload(bench)}
    for _ in range(2):
        await bench.deploy()
        assert (await bench.http.post("/v1/apps/shop/builds", json={"source": source})).status_code == 201
    for kind, name in ((Release, "shop.v1"), (Rollout, "shop.v1"), (Build, "shop.b1")):
        await bench.store.delete(kind, name)
    asked = (
        *(("GET", f"{path}/1", None) for path in ("releases", "rollouts", "builds")),
        ("GET", "releases/2/diff/1", None), ("POST", "rollouts/1/cancel", None), ("POST", "rollback", {"to": 1}),
    )  # fmt: skip
    for method, path, body in asked:
        told = error(await bench.http.request(method, f"/v1/apps/shop/{path}", json=body), 404)
        assert "1 of shop is not kept any more" in told["message"]
        assert told["code"].startswith("no-such-")
    for path in ("releases", "rollouts", "builds"):
        assert "shop has no " in error(await bench.http.get(f"/v1/apps/shop/{path}/3"), 404)["message"]
    assert (await bench.deploy()).spec.number == 3


@pytest.mark.parametrize("image", ["", "latest", "sha256:abc", "docker.io/x:1", "sha256:" + "b" * 64])
async def test_unknown_images_are_refused(bench: Bench, image: str) -> None:
    """422, whether it is no digest or one nobody knows."""
    assert error(await bench.http.post("/v1/apps/shop/releases", json={"image": image}), 422)["field"] == "image"


async def test_config_makes_releases_and_is_masked(bench: Bench) -> None:
    """Values show only to those who ask for them."""
    answer = await bench.http.patch("/v1/apps/shop/config", json={"set": {"COLOUR": "mauve", "EMPTY": ""}})
    assert answer.status_code == 201
    assert answer.json()["spec"]["config"] == {"COLOUR": "********", "EMPTY": "********"}
    assert (await bench.http.get("/v1/apps/shop/config")).json() == {
        "app": "shop", "release": 1, "masked": True, "config": {"COLOUR": "********", "EMPTY": "********"},
    }  # fmt: skip
    shown = (await bench.http.get("/v1/apps/shop/config?reveal=1")).json()
    assert shown["config"] == {"COLOUR": "mauve", "EMPTY": ""}
    assert (await bench.http.get("/v1/apps/shop/releases/1?reveal=1")).json()["spec"]["config"]["COLOUR"] == "mauve"
    for path in ("releases", "releases/1", "releases/1/diff/1", "config"):
        assert "mauve" not in (await bench.http.get(f"/v1/apps/shop/{path}")).text
    assert "mauve" not in (await bench.http.get("/v1/events")).text


async def test_config_change_that_changes_nothing_makes_no_release(bench: Bench) -> None:
    """200 with the release that has it already."""
    await bench.http.patch("/v1/apps/shop/config", json={"set": {"A": "1"}})
    again = await bench.http.patch("/v1/apps/shop/config", json={"set": {"A": "1"}})
    assert (again.status_code, again.json()["spec"]["number"]) == (200, 1)
    assert len((await bench.http.get("/v1/apps/shop/releases")).json()) == 1


async def test_unset_removes_and_unknown_keys_are_refused(bench: Bench) -> None:
    """A typo in unset is told."""
    await bench.http.patch("/v1/apps/shop/config", json={"set": {"A": "1", "B": "2"}})
    answer = await bench.http.patch("/v1/apps/shop/config", json={"unset": ["A"], "set": {"C": "3"}})
    assert sorted(answer.json()["spec"]["config"]) == ["B", "C"]
    assert error(await bench.http.patch("/v1/apps/shop/config", json={"unset": ["A"]}), 422)["code"] == "no-such-config"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"set": {"PORT": "1"}},
        {"set": {"SEAWAY_APP": "x"}},
        {"set": {"1A": "x"}},
        {"set": {"A-B": "x"}},
        {"set": {"": "x"}},
        {"set": {"A=B": "x"}},
        {"set": {"A": "nul\x00"}},
        {"set": {"A": "x" * 130_049}},
        {"set": {"A": 1}},
        {"set": {"A": {"deep": {}}}},
        {"set": {"A": "1"}, "unset": ["A"]},
        {"unset": "A"},
    ],
)
async def test_bad_config_is_refused(bench: Bench, body: object) -> None:
    """Nothing is made of it, and no value is repeated."""
    answer = await bench.http.patch("/v1/apps/shop/config", json=body)
    assert "xxxxx" not in str(error(answer, 422))
    assert (await bench.store.list(Release)).documents == ()


async def test_concurrent_config_changes_lose_none(bench: Bench) -> None:
    """Each gets a release of its own that holds the earlier ones."""
    answers = await asyncio.gather(
        *(bench.http.patch("/v1/apps/shop/config", json={"set": {f"K{n}": "v"}}) for n in range(6))
    )
    assert sorted(answer.json()["spec"]["number"] for answer in answers) == [1, 2, 3, 4, 5, 6]
    assert len((await bench.http.get("/v1/apps/shop/config")).json()["config"]) == 6


async def test_rollback_and_restart_make_new_releases(bench: Bench) -> None:
    """Both copy; neither can be done before there is something."""
    error(await bench.http.post("/v1/apps/shop/rollback"), 409)
    error(await bench.http.post("/v1/apps/shop/restart"), 409)
    await bench.deploy()
    await bench.deploy(image="sha256:" + "b" * 64)
    back = (await bench.http.post("/v1/apps/shop/rollback")).json()["spec"]
    assert (back["number"], back["copies"], back["image"]) == (3, 1, IMAGE)
    assert (await bench.http.post("/v1/apps/shop/rollback", json={"to": 2})).json()["spec"]["copies"] == 2
    body = error(await bench.http.post("/v1/apps/shop/rollback", json={"to": 99}), 404)
    assert "v4, " not in body["message"]
    assert body["code"] == "no-such-release"
    assert error(await bench.http.post("/v1/apps/shop/rollback", json={"to": 0}), 422)["field"] == "to"
    assert (await bench.http.post("/v1/apps/shop/restart")).json()["spec"]["number"] == 5
    assert (await bench.reasons()).count("ReleaseCreated") == 3


async def test_diff_tells_what_changed_without_values(bench: Bench) -> None:
    """Image, processes, routes, config keys."""
    await bench.deploy()
    await bench.http.patch("/v1/apps/shop/config", json={"set": {"A": "old"}})
    other = {"web": Process(command="new"), "clock": Process(command="tick")}
    await bench.deploy(image="sha256:" + "b" * 64, processes=other, routes=(Route(host="a.example.com"),))
    await bench.http.patch("/v1/apps/shop/config", json={"set": {"A": "new", "B": "x"}})
    diff = (await bench.http.get("/v1/apps/shop/releases/2/diff/4")).json()
    changes = {change["field"]: (change["from"], change["to"]) for change in diff["changes"]}
    assert changes["image"] == (IMAGE, "sha256:" + "b" * 64)
    assert changes["config.A"] == ("********", "********")
    assert changes["config.B"] == (None, "********")
    assert changes["processes.web.command"] == ("run web", "new")
    assert changes["processes.worker.command"] == ("run worker", None)
    assert changes["routes"] == (None, "a.example.com")
    assert (await bench.http.get("/v1/apps/shop/releases/2/diff/2")).json()["changes"] == []
    error(await bench.http.get("/v1/apps/shop/releases/2/diff/9"), 404)


# Rollouts


async def test_steering_sets_flags_until_the_rollout_has_ended(bench: Bench) -> None:
    """Pause, resume, promote, cancel; then 409 with the sentence of how it ended."""
    await bench.deploy()
    await bench.http.post("/v1/apps/shop/restart")
    await bench.roll_out(await bench.store.get(Release, "shop.v2"), Phase.SHIFTING)
    seen = []
    for verb in ("pause", "pause", "resume", "promote", "cancel", "cancel"):
        answer = await bench.http.post(f"/v1/apps/shop/rollouts/2/{verb}")
        assert answer.status_code == 202
        spec = answer.json()["spec"]
        seen.append((spec["paused"], spec["promote"], spec["cancel"], spec["cancelled_by"]))
    assert seen == [
        (True, False, False, ""), (True, False, False, ""), (False, False, False, ""), (False, True, False, ""),
        (False, True, True, "admin"), (False, True, True, "admin"),
    ]  # fmt: skip
    rollout = await bench.store.get(Rollout, "shop.v2")
    ended = rollout.status.model_copy(update={"phase": Phase.CANCELLED, "reason": "admin cancelled it"})
    await bench.store.update(rollout.model_copy(update={"status": ended}))
    assert (
        "(cancelled): admin cancelled it"
        in error(await bench.http.post("/v1/apps/shop/rollouts/2/pause"), 409)["message"]
    )
    error(await bench.http.post("/v1/apps/shop/rollouts/7/pause"), 404)
    assert [r["spec"]["target"] for r in (await bench.http.get("/v1/apps/shop/rollouts")).json()] == [2, 1]
    reasons = [reason for reason in await bench.reasons() if reason.startswith("Rollout")]
    assert reasons == ["RolloutPaused", "RolloutResumed", "RolloutPromoted", "RolloutCancelRequested"]


# Routes


async def test_routes_show_where_they_come_from(bench: Bench) -> None:
    """Default, the app's own, and what the serving release declares."""
    await bench.deploy(routes=(Route(host="decl.example.com"),))
    await bench.http.post("/v1/apps/shop/routes", json={"host": "Shop.Example.COM", "path": "/a/"})
    routes = (await bench.http.get("/v1/apps/shop/routes")).json()
    assert [(route["host"], route["path"], route["source"]) for route in routes] == [
        ("shop.localhost", "/", "default"), ("shop.example.com", "/a", "app"), ("decl.example.com", "/", "v1"),
    ]  # fmt: skip
    assert routes[1]["url"] == "http://shop.example.com:8080/a"


async def test_colliding_routes_are_refused_and_name_the_owner(bench: Bench) -> None:
    """Another app's own, declared or default route; also a name whose default route is taken."""
    await bench.http.post("/v1/apps", json={"name": "blog"})
    await bench.deploy("blog", routes=(Route(host="decl.example.com"),))
    await bench.http.post("/v1/apps/blog/routes", json={"host": "a.example.com", "path": "/x"})
    for route in ({"host": "a.example.com", "path": "/x"}, {"host": "decl.example.com"}, {"host": "blog.localhost"}):
        body = error(await bench.http.post("/v1/apps/shop/routes", json=route), 409)
        assert "blog" in body["message"]
        assert body["field"] == "host"
    assert (await bench.http.post("/v1/apps/shop/routes", json={"host": "a.example.com"})).status_code == 201
    await bench.http.post("/v1/apps/shop/routes", json={"host": "new.localhost"})
    assert error(await bench.http.post("/v1/apps", json={"name": "new"}), 409)["field"] == "name"


async def test_one_of_two_apps_gets_a_contested_route(bench: Bench) -> None:
    """Asked for at the same time."""
    await bench.http.post("/v1/apps", json={"name": "blog"})
    answers = await asyncio.gather(
        *(bench.http.post(f"/v1/apps/{app}/routes", json={"host": "x.example.com"}) for app in ("shop", "blog") * 3)
    )
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [409] * 3


@pytest.mark.parametrize(
    ("route", "field"),
    [
        ({"host": "http://x.example.com"}, "host"),
        ({"host": "x.example.com:80"}, "host"),
        ({"host": "*.example.com"}, "host"),
        ({"host": "-.example.com"}, "host"),
        ({"path": "/"}, "host"),
        ({"host": "x.example.com", "path": "nope"}, "path"),
        ({"host": "x.example.com", "path": "/a?b"}, "path"),
    ],
)
async def test_bad_routes_are_refused(bench: Bench, route: dict[str, str], field: str) -> None:
    """422 names the part at fault."""
    assert error(await bench.http.post("/v1/apps/shop/routes", json=route), 422)["field"] == field


async def test_removing_routes(bench: Bench) -> None:
    """Only the app's own; the error lists those."""
    await bench.http.post("/v1/apps/shop/routes", json={"host": "a.example.com", "path": "/x"})
    body = error(await bench.http.delete("/v1/apps/shop/routes", params={"host": "shop.localhost"}), 404)
    assert body["hint"] == "its own routes: a.example.com/x"
    answer = await bench.http.delete("/v1/apps/shop/routes", params={"host": "A.example.com", "path": "/x/"})
    assert [route["source"] for route in answer.json()] == ["default"]


# One-offs and logs


async def test_one_off_runs_with_image_and_config_of_the_serving_release(bench: Bench) -> None:
    """Started, looked at, killed."""
    error(await bench.http.post("/v1/apps/shop/run", json={"command": "ls"}), 409)
    await bench.deploy()
    answer = await bench.http.post("/v1/apps/shop/run", json={"command": "ls -l", "timeout": "5m", "stdin": "aGk="})
    identity = answer.json()["id"]
    task, _ = bench.engine.tasks[identity]
    assert identity.startswith("shop-run-")
    assert (task.command, task.image, task.release, task.timeout, task.team) == ("ls -l", IMAGE, 1, 300.0, "default")
    assert task.stdin == "aGk="
    assert (await bench.http.get(f"/v1/apps/shop/run/{identity}")).json()["done"] is False
    bench.engine.end_task(identity, 3)
    assert (await bench.http.get(f"/v1/apps/shop/run/{identity}")).json()["exit_code"] == 3
    await bench.http.post("/v1/apps", json={"name": "other"})
    error(await bench.http.get(f"/v1/apps/other/run/{identity}"), 404)
    error(await bench.http.delete(f"/v1/apps/other/run/{identity}"), 404)
    assert (await bench.http.delete(f"/v1/apps/shop/run/{identity}")).status_code == 200
    assert bench.engine.tasks == {}


async def test_a_one_off_where_nothing_serves_runs_with_the_newest_image(bench: Bench) -> None:
    """As when a first deploy fails for what it was to set up; a release of config alone is none."""
    await bench.http.post("/v1/apps", json={"name": "new"})
    answer = await bench.http.post("/v1/apps/new/run", json={"command": "ls"})
    assert error(answer, 409)["message"] == "new has no release with an image"
    for number, image in ((1, IMAGE), (2, "sha256:" + "b" * 64), (3, None)):
        spec = ReleaseSpec(app="new", number=number, image=image, config={"N": str(number)})
        await bench.store.create(Release(meta=Meta(name=f"new.v{number}", labels={"app": "new"}), spec=spec))
    started = (await bench.http.post("/v1/apps/new/run", json={"command": "ls"})).json()
    assert (started["release"], started["serves"]) == (2, False)
    task, _ = bench.engine.tasks[started["id"]]
    assert (task.image, task.env) == ("sha256:" + "b" * 64, {"N": "2"})


async def test_who_waits_for_a_command_is_told_its_states(bench: Bench) -> None:
    """The state it is in, each change, and the end; one that is killed ends the stream without an end of its own."""
    await bench.deploy()
    engine = MemoryEngine(run_task=lambda task: int(task.command))
    bench.api.state.deps = deps = replace(bench.api.state.deps, engine=engine)
    bodies: list[dict[str, object]] = [{"command": code, "attached": True} for code in "34"]
    ids = [(await bench.http.post("/v1/apps/shop/run", json=body)).json()["id"] for body in bodies]
    await engine.start_task(make_task("shop-v1-release", "0"))
    listed = (await bench.http.get("/v1/apps/shop/run")).json()
    assert {(task["id"], task["attached"], task["done"]) for task in listed} == {(i, True, False) for i in ids}
    paths = [f"/v1/apps/shop/run/{task}/attach" for task in ids]
    streams = [asyncio.create_task(bench.http.get(path)) for path in paths]
    while not all(deps.attachments.is_held(task) for task in ids):
        await asyncio.sleep(0.01)
    assert (await bench.http.delete(f"/v1/apps/shop/run/{ids[1]}")).status_code == 200
    killed = events_of((await streams[1]).text)
    engine.tick()
    first, last = events_of((await streams[0]).text)
    assert [(name, state["done"]) for name, state in killed] == [("state", False)]
    assert (first[0], first[1]["id"], first[1]["done"]) == ("state", ids[0], False)
    assert (last[1]["done"], last[1]["exit_code"]) == (True, 3)
    error(await bench.http.get(paths[1]), 404)
    assert not any(deps.attachments.is_held(task) for task in ids)


async def test_who_waits_for_a_command_may_kill_it_and_asks_the_leader(bench: Bench) -> None:
    """A viewer may not; while nobody leads the answer is to try again."""
    await bench.deploy()
    task = (await bench.http.post("/v1/apps/shop/run", json={"command": "x"})).json()["id"]
    async with await bench.client(Role.VIEWER) as viewer:
        error(await viewer.get(f"/v1/apps/shop/run/{task}/attach"), 403)
    link = LeaderLink(find=lambda: None, http=bench.http)
    bench.api.state.deps = replace(bench.api.state.deps, leader=link)
    assert error(await bench.http.get(f"/v1/apps/shop/run/{task}/attach"), 503)["code"] == "no-leader"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"command": ""},
        {"command": "a\x00b"},
        {"command": "x", "timeout": 0},
        {"command": "x", "timeout": "soon"},
        {"command": "x", "stdin": "?"},
        {"command": "x", "stdin": "A" * 4 * 180_000},
    ],
)
async def test_bad_commands_are_refused(bench: Bench, body: dict[str, object]) -> None:
    """Nothing is started."""
    await bench.deploy()
    error(await bench.http.post("/v1/apps/shop/run", json=body), 422)
    assert bench.engine.tasks == {}


async def test_logs_pass_filters_on(bench: Bench) -> None:
    """One JSON object a line."""
    bench.logs.lines = [{"message": "a\nb"}, {"message": "ü"}]
    answer = await bench.http.get("/v1/apps/shop/logs?process=web&release=3&instance=x&n=7")
    assert answer.text.splitlines() == ['{"message": "a\\nb"}', '{"message": "\\u00fc"}']
    asked = bench.logs.asked[0]
    assert asked.since == (await bench.store.get(App, "shop")).meta.created_at, "none of an earlier app of that name"
    assert (asked.app, asked.process, asked.release, asked.instance, asked.tail, asked.follow) == (
        "shop", "web", 3, "x", 7, False,
    )  # fmt: skip
    assert error(await bench.http.get("/v1/apps/shop/logs?n=-1"), 422)["field"] == "n"
    assert error(await bench.http.get("/v1/apps/shop/logs?release=v3"), 422)["field"] == "release"


async def test_every_event_says_who_did_it(bench: Bench) -> None:
    """By the token's name; the latest n, oldest first."""
    async with await bench.client(Role.DEVELOPER, name="ci") as ci:
        await ci.post("/v1/apps", json={"name": "blog"})
    events = (await bench.http.get("/v1/events?n=2")).json()
    assert [(event["spec"]["about"], event["spec"]["by"]) for event in events] == [
        ("app shop", "admin"),
        ("app blog", "ci"),
    ]
    assert (await bench.http.get("/v1/events?n=0")).json() == []
    error(await bench.http.get("/v1/events?app=nothing"), 404)


@pytest.mark.parametrize(("times", "status"), [(3, 201), (1000, 409)])
async def test_a_document_changed_by_another_writer_meanwhile(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, times: int, status: int
) -> None:
    """The change is made again on what the other wrote; against one who never stops it is refused, and undone."""
    update, writes = bench.store.update, 0

    async def meddle(document: App) -> App:
        nonlocal writes
        if writes < times:
            writes += 1
            now = await bench.store.get(App, "shop")
            await update(now.model_copy(update={"status": now.status.model_copy(update={"reason": f"write {writes}"})}))
        return await update(document)

    monkeypatch.setattr(bench.store, "update", meddle)
    answer = await bench.http.post("/v1/apps/shop/routes", json={"host": "www.example.com"})
    app = await bench.store.get(App, "shop")
    assert answer.status_code == status, answer.text
    assert app.status.reason == f"write {writes}"
    assert [route.host for route in app.spec.routes] == (["www.example.com"] if status == 201 else [])
    if status == 409:
        assert "try again" in error(answer, 409)["hint"]


async def test_a_path_that_can_never_match_is_refused_and_one_that_is_stored_is_read(bench: Bench) -> None:
    """Routers resolve dots before they match. Stored documents outlive stricter rules."""
    refused = error(await bench.http.post("/v1/apps/shop/routes", json={"host": "x.com", "path": "/../a"}), 422)
    assert "leave them out" in refused["message"]
    app = await bench.store.get(App, "shop")
    old = app.spec.model_copy(update={"routes": (Route(host="x.com", path="/../a"),)})
    await bench.store.update(app.model_copy(update={"spec": old}))
    assert (await bench.http.get("/v1/apps/shop")).status_code == 200

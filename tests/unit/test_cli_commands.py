"""Every other command: what is sent, what people see, what programs get."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, PlainTextResponse

from seaway.cli import client
from seaway.cli.commands import oneoff
from seaway.home import Home, Settings
from seaway.model import BuildState, InstanceState, Phase, Process, Route
from tests.unit.cli_recorded import (
    NOW,
    PROGRAM,
    TOKEN,
    Bench,
    Events,
    Failure,
    Lines,
    app,
    bench,
    build,
    instance,
    recorder,
    release,
    rollout,
)

__all__ = ["bench", "recorder"]


def log_line(message: str, second: int = 0, instance_id: str = "shop-v3-web-1a2b") -> dict[str, Any]:
    """A log line of shop."""
    return {
        "@timestamp": f"2026-11-23T10:00:{second:02}.000Z", "message": message, "ecs.version": "8.11.0",
        "service.name": "shop", "service.version": "v3", "service.node.name": instance_id, "host.name": "here",
        "labels.process": "web", "labels.team": "blue", "stream": "stdout", "log.offset": 0, "log.length": 9,
    }  # fmt: skip


def test_apps_list_is_a_table_with_states_and_ages(bench: Bench) -> None:
    """Aligned, and no line ends in spaces."""
    bench.api.on("GET", "/apps", [app(), app("a-longer-name", None, state="empty", reason="no release yet")])
    for form in (["apps", "list"], ["apps:list"], ["apps"]):
        result = bench.run(*form)
        assert result.exit_code == 0, f"{form}: {result.stderr}"
        lines = result.stdout.splitlines()
        assert lines[0].split() == ["APP", "STATE", "RELEASE", "TRAFFIC", "TEAM", "CREATED"]
        assert lines[1].split()[:5] == ["shop", "serving", "v4", "v4", "blue"]
        assert re.search(r" \dm ago$", lines[1])  # on a slow machine more than the 3 of the start
        assert lines[1].index("serving") == lines[2].index("empty")
        assert all(line == line.rstrip() for line in lines)


def test_json_output_is_what_the_api_said(bench: Bench) -> None:
    """One JSON document and nothing else."""
    bench.api.on("GET", "/apps/shop", app())
    result = bench.run("apps", "info", "shop", "-o", "json")
    assert json.loads(result.stdout) == json.loads(app().model_dump_json())


def test_create_links_a_folder_that_looks_like_an_apps(bench: Bench) -> None:
    """And leaves others alone; the link is found from below."""
    bench.api.on("POST", "/apps", app())
    assert "linked" not in bench.run("apps", "create", "shop").stdout
    assert not (bench.folder / ".seaway").exists()
    (bench.folder / "Procfile").touch()
    assert "this folder is linked to it" in bench.run("apps", "create", "shop", "--team", "blue").stdout
    assert bench.api.sent("POST", "/apps") == [{"name": "shop"}, {"name": "shop", "team": "blue"}]
    bench.api.on("GET", "/apps/shop/instances", [])
    bench.api.on("GET", "/apps/shop/run", [])
    bench.api.on("GET", "/apps/shop", app())
    assert "shop has no instances" in bench.run("ps").stdout


def test_destroy_wants_the_name_again_and_waits_until_it_is_gone(bench: Bench) -> None:
    """Without --confirm nothing is sent."""
    for args in ([], ["--confirm", "shpo"]):
        result = bench.run("apps", "destroy", "shop", *args)
        assert (result.exit_code, bench.api.requests) == (2, [])
        assert "seaway apps destroy shop --confirm shop" in result.stderr
    bench.api.on("DELETE", "/apps/shop", app(state="destroying"))
    gone = Failure(404, "there is no app 'shop'", "no-such-app")
    bench.api.on("GET", "/apps/shop", app(state="destroying", reason="1 instances still to stop"), gone)
    result = bench.run("apps", "destroy", "--confirm", "shop", "-a", "shop")
    assert result.exit_code == 0, result.output
    assert bench.api.queries("DELETE", "/apps/shop") == [{"confirm": "shop"}]
    assert "1 instances still to stop" in result.stdout
    assert "destroyed shop" in result.stdout


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (Failure(404, "there is no app 'shpo'", "no-such-app", "did you mean shop?"), 3),
        (Failure(401, "the token is not known", "not-authenticated"), 4),
        (Failure(403, "the token 'x' has the role viewer", "role-too-low"), 4),
        (Failure(422, "name: is required"), 2),
        (Failure(409, "somebody else changed this", "conflict", "try again"), 1),
        (Failure(500, "an error inside Seaway", "internal"), 1),
        (PlainTextResponse("Bad Gateway", 502), 1),
        (PlainTextResponse("<html>", 200), 1),
    ],
)
def test_an_error_answer_gives_its_sentence_hint_and_exit_code(bench: Bench, failure: Any, code: int) -> None:
    """As text and as JSON, on standard error."""
    bench.api.on("GET", "/apps/shpo", failure)
    text = bench.run("apps", "info", "shpo")
    as_json = bench.run("apps", "info", "shpo", "--output=json")
    error = json.loads(as_json.stderr)["error"]
    assert (text.exit_code, as_json.exit_code, error["exit_code"]) == (code, code, code)
    assert (text.stdout, as_json.stdout) == ("", "")
    assert error["message"] in text.stderr
    assert error.get("hint", "") in text.stderr
    if isinstance(failure, Failure):
        assert (error["code"], error["message"]) == (failure.code, failure.message)


def test_a_wrong_token_exits_4_and_says_what_to_set(bench: Bench) -> None:
    """The token itself is never shown."""
    result = bench.run("apps", env={"SEAWAY_TOKEN": "swy_wrong"})
    assert result.exit_code == 4
    assert "SEAWAY_TOKEN" in result.stderr
    assert "swy_wrong" not in result.output


def test_url_and_token_come_from_the_home_of_the_platform(bench: Bench) -> None:
    """settings.json and admin.token, when the environment says nothing."""
    bench.api.on("GET", "/apps", [])
    home = Home(bench.home).create()
    home.write_settings(Settings(api_port=bench.api.port))
    home.admin_token.write_text(TOKEN + "\n")
    result = bench.run("apps", env={"SEAWAY_URL": None, "SEAWAY_TOKEN": None})
    assert result.exit_code == 0, result.output
    assert "seaway apps create NAME" in result.stdout


def test_an_api_that_does_not_run_says_how_to_start_it(bench: Bench, unused_tcp_port: int) -> None:
    """At once, with exit code 1."""
    url = f"http://127.0.0.1:{unused_tcp_port}"
    result = bench.run("apps", env={"SEAWAY_URL": url})
    assert result.exit_code == 1
    assert f"Seaway's API at {url} does not answer" in result.stderr
    assert "seaway up -d" in result.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["apps", "-o", "yaml"], "yaml"),
        (["aps"], "Did you mean"),
        (["apps", "lst"], "Did you mean"),
        (["nothing:here"], "No such command"),
        (["ps", "scale", "web", "-a", "shop"], "'web' is not PROCESS=COUNT"),
        (["ps", "scale", "web=-1", "-a", "shop"], "'web=-1' is not PROCESS=COUNT"),
        (["ps", "scale", "web=many", "-a", "shop"], "seaway ps scale web=3"),
        (["ps", "scale", "web=1", "web=2", "-a", "shop"], "web is given twice"),
        (["ps", "scale", "-a", "shop"], "PROCESS=COUNT"),
        (["ps", "scale", "web=" + "9" * 5000, "-a", "shop"], "is not PROCESS=COUNT"),
        (["ps", "scale", "Web=1", "-a", "shop"], "did you mean 'web'?"),
        (["ps", "scale", "celery_beat=1", "celery-beat=2", "-a", "shop"], "celery-beat is given twice"),
        (["ps", "scale", "a=1", "b=x", "c", "-a", "shop"], "2 things are wrong, so nothing was done:\n    - 'b=x' is"),
        (["routes", "add", "http://x.example/a b", "-a", "shop"], "2 things are wrong"),
        (["config", "set", "hunter2", "-a", "shop"], "argument 1 is not KEY=VALUE"),
        (["config", "set", "1A=hunter2", "-a", "shop"], "'1A' is not a config key"),
        (["config", "set", "A=@nowhere", "-a", "shop"], "A: the file 'nowhere' cannot be read"),
        (["config", "unset", "A-B", "-a", "shop"], "'A-B' is not a config key"),
        (["releases", "info", "latest", "-a", "shop"], "'latest' is not a release: write v3 or 3"),
        (["builds", "log", "v3", "-a", "shop"], "'v3' is not a build: write b3 or 3"),
        (["rollback", "v0", "-a", "shop"], "'v0' is not a release"),
        (["routes", "add", "http://x.example", "-a", "shop"], "is not a host name"),
        (["routes", "add", "x.example/a b", "-a", "shop"], "is not a path prefix"),
        (["logs", "-n", "-5", "-a", "shop"], "-5 is out of range: it must be at least 0"),
        (["apps", "info", "Shop"], "is not an app's name"),
        (["apps", "info", "a", "-a", "b"], "which app"),
        (["tokens", "create", "ci", "--role", "king"], "'--role': 'king' is not one of"),
        (["run", "-a", "shop"], "CMD"),
        (["apps", "--colour"], "--colour"),
    ],
)
def test_wrong_use_exits_2_with_a_sentence_and_sends_nothing(bench: Bench, args: list[str], said: str) -> None:
    """As text and as JSON; values of config never appear."""
    result = bench.run(*args)
    assert (result.exit_code, bench.api.requests) == (2, [])
    assert said in result.stderr
    assert "hunter2" not in result.stderr
    if "-o" not in args:
        assert json.loads(bench.run(*args, "-o", "json").stderr)["error"]["code"] == "usage"


def test_ps_shows_instances_with_states_and_reasons(bench: Bench) -> None:
    """Web first; a running instance that is not ready says so."""
    crashing = instance(2, process="worker", state=InstanceState.CRASHING, ready=False, reason="exited with 1")
    bench.api.on("GET", "/apps/shop/instances", [crashing, instance(1), instance(3, ready=False, reason="GET / 503")])
    bench.api.on("GET", "/apps/shop/run", [])
    bench.api.on("GET", "/apps/shop", app())
    result = bench.run("ps", "-a", "shop")
    lines = result.stdout.splitlines()
    assert result.stderr == ""
    assert lines[1].split() == ["web", "v4", "0001", "running", "2h", "ago", "0", "0.25", "34.1", "MB", "here"]
    assert "not ready" in lines[2]
    assert lines[3].startswith("worker")
    assert lines[3].endswith("exited with 1")


def test_ps_shows_a_dash_for_what_nobody_measures(bench: Bench) -> None:
    """And null in JSON: an idle instance is another thing."""
    unknown = instance(1).model_copy(update={"cpu": None, "memory": None})
    idle = instance(2).model_copy(update={"cpu": 0.0, "memory": 0})
    bench.api.on("GET", "/apps/shop/instances", [unknown, idle])
    bench.api.on("GET", "/apps/shop/run", [])
    bench.api.on("GET", "/apps/shop", app())
    lines = bench.run("ps", "-a", "shop").stdout.splitlines()
    assert lines[1].split()[6:] == ["0", "-", "-", "here"]
    assert lines[2].split()[6:] == ["0", "0.00", "0", "B", "here"]
    shown = json.loads(bench.run("ps", "-a", "shop", "-o", "json").stdout)
    assert [(i["cpu"], i["memory"]) for i in shown] == [(None, None), (0.0, 0)]


def test_ps_says_what_an_app_lacks(bench: Bench) -> None:
    """Where there is no instance that could: the app's own sentence, beside the table."""
    why = "v4: 0 of 1 web ready (the cluster refuses its instances: quota seaway lacks pods: 1 asked for, 5 of 5 used)"
    bench.api.on("GET", "/apps/shop/instances", [])
    bench.api.on("GET", "/apps/shop/run", [])
    bench.api.on("GET", "/apps/shop", app(state="down", reason=why))
    result = bench.run("ps", "-a", "shop")
    assert "shop has no instances" in result.stdout
    assert result.stderr == f"shop is down: {why}\n"


def test_scale_waits_until_the_instances_serve(bench: Bench) -> None:
    """The numbers go out; every look is shown once."""
    bench.api.on("PUT", "/apps/shop/scale", app())
    bench.api.on("GET", "/apps/shop", app())
    bench.api.on("GET", "/apps/shop/releases/4", release(4))
    one, two = [instance(1)], [instance(1), instance(2)]
    bench.api.on("GET", "/apps/shop/instances", one, one, two)
    bench.api.on("GET", "/apps/shop/run", [])
    result = bench.run("ps", "scale", "web=2", "-a", "shop")
    assert result.exit_code == 0, result.output
    assert bench.api.sent("PUT", "/apps/shop/scale") == [{"web": 2}]
    assert result.stdout.count("web 1 of 2") == 1
    assert "scaled shop: web=2" in result.stdout


def test_scale_waits_for_no_process_that_the_current_release_lacks(bench: Bench) -> None:
    """It is one of a release that failed, and gets its number for the next."""
    bench.api.on("PUT", "/apps/shop/scale", app())
    bench.api.on("GET", "/apps/shop", app())
    bench.api.on("GET", "/apps/shop/releases/4", release(4))
    result = bench.run("ps", "scale", "worker=1", "-a", "shop")
    assert (result.exit_code, "v4 has no worker; that number takes effect" in result.stdout) == (0, True)


def test_an_app_without_web_is_said_to_take_no_requests(bench: Bench) -> None:
    """In the list, by `ps`, and by a deploy, which prints no address."""
    bench.api.on("GET", "/apps", [app(webless=True)])
    bench.api.on("GET", "/apps/shop", app(webless=True))
    bench.api.on("GET", "/apps/shop/instances", [])
    bench.api.on("GET", "/apps/shop/run", [])
    assert "none (no web)" in bench.run("apps", "list").stdout
    assert "shop takes no requests: v4 has no web process\n" in bench.run("ps", "-a", "shop").stderr
    brought = release(5, processes={"worker": Process(command="work")})
    bench.api.on("POST", "/apps/shop/releases", brought)
    bench.api.on("GET", "/apps/shop/rollouts/5", rollout(5, Phase.SUCCEEDED, "it runs", base=None))
    result = bench.run("deploy", "--image", "sha256:" + "a" * 64, "-a", "shop")
    assert result.stdout.endswith("v5 runs; it takes no requests, as it has no web process\n")


def test_scale_shows_what_fits_and_passes_force_on(bench: Bench) -> None:
    """Force only if it was given."""
    message = "web=900 does not fit: 41 fit (each takes 212 MiB; 8.6 GiB are free on this machine)"
    refusal = Failure(422, message, "does-not-fit", "scale to web=41, or give --force")
    bench.api.on("PUT", "/apps/shop/scale", refusal, app())
    bench.api.on("GET", "/apps/shop", app())
    refused = bench.run("ps", "scale", "web=900", "-a", "shop")
    assert (refused.exit_code, message in refused.stderr) == (2, True)
    assert "scale to web=41, or give --force" in refused.stderr
    assert bench.run("ps", "scale", "web=900", "-a", "shop", "--force", "--no-wait").exit_code == 0
    assert bench.api.queries("PUT", "/apps/shop/scale") == [{}, {"force": "true"}]


def test_scale_gives_up_on_an_instance_that_crashes(bench: Bench) -> None:
    """With its reason and its logs."""
    bench.api.on("PUT", "/apps/shop/scale", app())
    bench.api.on("GET", "/apps/shop", app())
    bench.api.on("GET", "/apps/shop/releases/4", release(4))
    crashing = instance(2, state=InstanceState.CRASHING, ready=False, reason="exited with 1 five times")
    bench.api.on("GET", "/apps/shop/instances", [instance(1), crashing])
    bench.api.on("GET", "/apps/shop/run", [])
    result = bench.run("ps", "scale", "web=2", "-a", "shop")
    assert (result.exit_code, "exited with 1 five times" in result.stderr) == (1, True)
    assert "--instance shop-v4-web-0002" in result.stderr


def test_builds_and_their_log(bench: Bench) -> None:
    """Newest first; the log is of the newest, and following a failed build exits 1."""
    bench.api.on(
        "GET", "/apps/shop/builds", [build(1, BuildState.SUCCEEDED, made=1), build(2, BuildState.FAILED, "no")]
    )
    bench.api.on("GET", "/apps/shop/builds/2", build(2, BuildState.FAILED, "no module named flaks"))
    bench.api.on(
        "GET", "/apps/shop/builds/2/log", Lines([{"line": "one"}]), Events([("message", {"line": "two"}), ("end", {})])
    )
    bench.api.on("POST", "/apps/shop/builds/2/cancel", build(2, BuildState.CANCELLED))
    assert [line.split()[0] for line in bench.run("builds", "-a", "shop").stdout.splitlines()] == ["BUILD", "b2", "b1"]
    assert bench.run("builds:log", "-a", "shop").stdout == "one\n"
    followed = bench.run("builds", "log", "-f", "b2", "-a", "shop")
    assert (followed.exit_code, followed.stdout) == (1, "two\n")
    assert "no module named flaks" in followed.stderr
    assert bench.run("builds", "cancel", "2", "-a", "shop").exit_code == 0


def test_releases_mark_which_serves_and_which_failed(bench: Bench) -> None:
    """Newest first; one that served before, and one without a rollout (config only), are marked as nothing."""
    bench.api.on("GET", "/apps/shop/releases", [release(n) for n in range(1, 8)])
    ended = {2: Phase.SUCCEEDED, 3: Phase.ROLLED_BACK, 4: Phase.FAILED, 5: Phase.CANCELLED, 6: Phase.FAILED}
    moves = [*(rollout(n, phase, "why") for n, phase in ended.items()), rollout(7, Phase.STARTING, "why")]
    bench.api.on("GET", "/apps/shop/rollouts", moves)
    bench.api.on("GET", "/apps/shop", app(current=4))
    marks = [line.split()[1] for line in bench.run("releases", "-a", "shop").stdout.splitlines()[1:]]
    assert marks == ["starting", "failed", "cancelled", "serving", "rolled-back", "ab12ab12ab12", "ab12ab12ab12"]


def test_releases_mark_the_serving_one(bench: Bench) -> None:
    """Newest first."""
    bench.api.on("GET", "/apps/shop/releases", [release(4), release(5)])
    bench.api.on("GET", "/apps/shop/rollouts", [rollout(4, Phase.SUCCEEDED, "v4 serves all traffic")])
    bench.api.on("GET", "/apps/shop", app())
    bench.api.on("GET", "/apps/shop/releases/4", release(4, config={"A": "***"}))
    lines = bench.run("releases", "-a", "shop").stdout.splitlines()
    assert lines[1].startswith("v5")
    assert lines[2].split()[:3] == ["v4", "serving", "ab12ab12ab12"]
    assert "Deploy of v4" in bench.run("releases", "info", "v4", "-a", "shop").stdout


def test_rollouts_are_steered_by_default_the_one_under_way(bench: Bench) -> None:
    """Shown with every phase and reason."""
    moving = rollout(5, Phase.SHIFTING, "waiting for router-0 to acknowledge the routes")
    bench.api.on("GET", "/apps/shop/rollouts", [rollout(4, Phase.SUCCEEDED, "v4 proved itself"), moving])
    bench.api.on("GET", "/apps/shop/rollouts/5", moving)
    for verb in ("pause", "resume", "promote", "cancel"):
        bench.api.on("POST", f"/apps/shop/rollouts/5/{verb}", moving)
        assert bench.run("rollouts", verb, "-a", "shop").exit_code == 0
    shown = bench.run("rollouts", "show", "-a", "shop").stdout
    assert "v4 to v5" in shown
    assert "waiting for router-0 to acknowledge the routes" in shown
    assert bench.run("rollouts", "-a", "shop").stdout.splitlines()[1].split()[:3] == ["v5", "v4", "shifting"]


def test_config_list_masks_unless_asked(bench: Bench) -> None:
    """Masking is the API's; --reveal asks it."""
    bench.api.on("GET", "/apps/shop/config", {"app": "shop", "release": 4, "masked": True, "config": {"KEY": "****"}})
    assert bench.run("config", "-a", "shop").stdout == "KEY  ****\n"
    bench.run("config", "list", "--reveal", "-a", "shop")
    assert bench.api.queries("GET", "/apps/shop/config") == [{}, {"reveal": "1"}]


def test_routes(bench: Bench) -> None:
    """Host and path are sent apart; a route that collides exits 1 with the API's sentence."""
    bench.api.on("GET", "/apps/shop/routes", [json.loads(Route(host="x.example", path="/a").model_dump_json())])
    bench.api.on(
        "POST", "/apps/shop/routes", [{"host": "x.example", "path": "/a"}], Failure(409, "is blog's", "collides")
    )
    bench.api.on("DELETE", "/apps/shop/routes", [])
    assert bench.run("routes", "-a", "shop").stdout.splitlines()[1].split() == ["x.example", "/a"]
    assert "X.example/a".lower() in bench.run("routes", "add", "X.example/a/", "-a", "shop").stdout
    assert bench.run("routes", "add", "x.example/a", "-a", "shop").exit_code == 1
    assert bench.api.sent("POST", "/apps/shop/routes")[0] == {"host": "x.example", "path": "/a"}
    bench.run("routes:remove", "x.example/a", "-a", "shop")
    assert bench.api.queries("DELETE", "/apps/shop/routes") == [{"host": "x.example", "path": "/a"}]


def test_logs_read_like_lines_of_a_process(bench: Bench) -> None:
    """Filters go to the API; characters that only look like line ends do not break a line."""
    bench.api.on("GET", "/apps/shop/logs", Lines([log_line("hello\u2028[bold]world")]))
    result = bench.run("logs", "-a", "shop", "-n", "5", "-p", "web", "--release", "v3", "--instance", "i")
    assert result.stdout == "2026-11-23T10:00:00.000Z shop[web.v3.1a2b] hello\\u2028[bold]world\n"
    assert bench.api.queries("GET", "/apps/shop/logs") == [
        {"n": "5", "process": "web", "release": "3", "instance": "i"}
    ]
    assert json.loads(bench.run("logs", "-a", "shop", "-o", "json").stdout) == log_line("hello\u2028[bold]world")


def test_logs_follow_goes_on_after_a_break_without_repeating(bench: Bench) -> None:
    """The second stream brings old lines again; a token that is revoked meanwhile ends it with exit code 4."""
    one, two, three = (log_line(name, second) for second, name in enumerate(("one", "two", "three")))
    revoked = ("error", {"error": {"code": "not-authenticated", "message": "the token is not known"}})
    again = Events([("message", one), ("message", two), ("message", three), revoked])
    bench.api.on("GET", "/apps/shop/logs", Events([("message", one), ("message", two)]), again)
    result = bench.run("logs", "-f", "-a", "shop")
    assert [line.split()[-1] for line in result.stdout.splitlines()] == ["one", "two", "three"]
    assert (result.exit_code, "the token is not known" in result.stderr) == (4, True)


def test_events(bench: Bench) -> None:
    """As a table; with -a only of one app."""
    spec = {"at": NOW.isoformat(), "app": "shop", "about": "rollout shop.v3", "reason": "RolloutSucceeded",
            "message": "v3 serves.", "by": "ann"}  # fmt: skip
    bench.api.on("GET", "/events", [{"meta": {"name": "e"}, "spec": spec}])
    lines = bench.run("events", "-a", "shop").stdout.splitlines()
    assert lines[1].endswith("rollout shop.v3  RolloutSucceeded  ann  v3 serves.")
    assert bench.api.queries("GET", "/events") == [{"app": "shop", "n": "50"}]


def test_tokens(bench: Bench) -> None:
    """The secret stands alone on standard output."""
    spec = {"role": "developer", "team": "blue", "created_by": "admin", "expires_at": None}
    bench.api.on("GET", "/tokens", [{"meta": {"name": "ci", "created_at": NOW.isoformat()}, "spec": spec}])
    bench.api.on("POST", "/tokens", {"name": "ci", "secret": "swy_new"})
    bench.api.on("DELETE", "/tokens/ci", PlainTextResponse("", 204))
    created = bench.run("tokens", "create", "ci", "--team", "blue", "--expires", "90d")
    assert (created.stdout, "not shown again" in created.stderr) == ("swy_new\n", True)
    assert bench.api.sent("POST", "/tokens")[0].keys() == {"name", "role", "team", "expires_in"}
    assert "never" in bench.run("tokens").stdout
    assert bench.run("tokens", "revoke", "ci").stdout == "revoked ci\n"


@pytest.mark.parametrize(("code", "exit_code"), [(0, 0), (3, 3), (-15, 143), (None, 1)])
def test_run_streams_the_output_and_returns_the_commands_code(bench: Bench, code: int | None, exit_code: int) -> None:
    """Options after the command are the command's; no line is printed twice."""
    first, second = log_line("one", 0), log_line("two", 1)
    bench.api.on("POST", "/apps/shop/run", {"id": "shop-run-1", "app": "shop"})
    done = {"id": "shop-run-1", "done": True, "exit_code": code, "reason": "why; last output: two", "wrote": ["db"]}
    states = [("state", {"id": "shop-run-1", "done": False}), ("state", done)]
    bench.api.on("GET", "/apps/shop/run/shop-run-1/attach", Events(states))
    bench.api.on("GET", "/apps/shop/logs", Events([("message", first), ("end", {})]), Lines([first, second]))
    result = bench.run("run", "-a", "shop", "python", "-c", "print(1)", "-o", "x")
    assert (result.exit_code, result.stdout) == (exit_code, "one\ntwo\n")
    assert ("seaway: why\n" in result.stderr) is (exit_code == 143), "what it wrote is not told again"
    wrote = "seaway: it wrote db into its own copy of the app, which is gone now\n"
    assert (wrote in result.stderr) is (code is not None)
    (sent,) = bench.api.sent("POST", "/apps/shop/run")
    assert (sent["command"], sent["attached"]) == ("python -c 'print(1)' -o x", True)


def test_a_run_says_that_nothing_serves(bench: Bench) -> None:
    """Beside the output: which release it runs with instead."""
    bench.api.on("POST", "/apps/shop/run", {"id": "t", "release": 3, "serves": False})
    bench.api.on("GET", "/apps/shop/run/t/attach", Events([("state", {"id": "t", "done": True, "exit_code": 0})]))
    bench.api.on("GET", "/apps/shop/logs", Lines([]))
    result = bench.run("run", "-a", "shop", "x")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "seaway: no release of shop serves; it runs with the newest, v3\n"


def test_a_run_that_does_not_start_says_why(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reason once, beside the output; what runs has none."""
    monkeypatch.setattr(oneoff, "PATIENT", 0.0)
    bench.api.on("POST", "/apps/shop/run", {"id": "t"})
    waits = {"id": "t", "done": False, "reason": "waits for its pod"}
    runs = waits | {"reason": "running", "started_at": NOW.isoformat()}
    done = runs | {"done": True, "exit_code": 0, "reason": "exited with code 0"}
    states = (waits, waits, waits | {"reason": "no node has 2 CPUs free"}, runs, done)
    bench.api.on("GET", "/apps/shop/run/t/attach", *(Events([("state", state)]) for state in states))
    bench.api.on("GET", "/apps/shop/logs", Lines([]))
    said = [f"seaway: it has not started yet: {why}" for why in ("waits for its pod", "no node has 2 CPUs free")]
    assert bench.run("run", "-a", "shop", "x").stderr.splitlines() == said


def test_a_run_that_is_gone_says_so(bench: Bench) -> None:
    """Killed by somebody else, or by the platform because its stream had been away for too long."""
    bench.api.on("POST", "/apps/shop/run", {"id": "t"})
    gone = Failure(404, "shop has no command 't'", "no-such-task")
    bench.api.on("GET", "/apps/shop/run/t/attach", Events([("state", {"id": "t", "done": False})]), gone)
    bench.api.on("GET", "/apps/shop/logs", Lines([]))
    result = bench.run("run", "-a", "shop", "x")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "the command is gone" in result.stderr
    assert "seaway events -a shop" in result.stderr


def test_a_detached_run_prints_its_id_and_how_to_go_on(bench: Bench) -> None:
    """And nothing else on standard output, for `$(seaway run -d ...)`; nobody waits for it."""
    task = {"id": "shop-run-1", "app": "shop", "release": 4}
    bench.api.on("POST", "/apps/shop/run", task)
    result = bench.run("run", "--detach", "--timeout", "1h", "-a", "shop", "x")
    assert (result.exit_code, result.stdout) == (0, "shop-run-1\n")
    assert "at most 60 min" in result.stderr
    assert "seaway logs -f -a shop --instance shop-run-1" in result.stderr
    assert "seaway ps stop shop-run-1 -a shop" in result.stderr
    assert json.loads(bench.run("run", "-d", "-a", "shop", "-o", "json", "x").stdout) == task
    assert [sent["attached"] for sent in bench.api.sent("POST", "/apps/shop/run")] == [False, False]


def test_ps_shows_commands_and_stops_them(bench: Bench) -> None:
    """By whole id or its last part; those that have ended are not shown."""
    began = (NOW - timedelta(minutes=5)).isoformat()
    tasks = [
        {"id": "shop-run-aa", "done": False, "started_at": began, "reason": "running"},
        {"id": "shop-run-bb", "done": False, "reason": "waits for its pod"},
        {"id": "shop-run-cc", "done": True, "started_at": began, "exit_code": 0},
    ]
    bench.api.on("GET", "/apps/shop", app())
    bench.api.on("GET", "/apps/shop/instances", [])
    bench.api.on("GET", "/apps/shop/run", tasks)
    lines = bench.run("ps", "-a", "shop").stdout.splitlines()
    assert [line.split()[:4] for line in lines[1:]] == [["run", "-", "aa", "running"], ["run", "-", "bb", "pending"]]
    assert lines[2].endswith("waits for its pod")
    bench.api.on("DELETE", "/apps/shop/run/shop-run-aa", tasks[0], tasks[2])
    assert bench.run("ps", "stop", "aa", "-a", "shop").stdout == "killed shop-run-aa\n"
    assert bench.run("ps", "stop", "shop-run-aa", "-a", "shop").stdout == "shop-run-aa had ended already\n"
    assert bench.run("ps", "stop", "nothing", "-a", "shop").exit_code == 3


def test_ctrl_c_kills_a_run_and_detaches_from_a_deploy(bench: Bench) -> None:
    """A real process gets a real SIGINT."""
    waiting = threading.Event()
    bench.api.on("POST", "/apps/shop/run", {"id": "t"})
    bench.api.on("GET", "/apps/shop/run/t/attach", Events([("state", {"id": "t", "done": False})]))
    bench.api.on("GET", "/apps/shop/logs", Events([]))
    bench.api.on("DELETE", "/apps/shop/run/t", {})
    bench.api.hooks["GET", "/apps/shop/run/t/attach"] = waiting.set
    code, error = interrupt(bench, ["run", "-a", "shop", "sleep 100"], waiting)
    assert (code, "killed 'sleep 100'" in error) == (130, True)
    assert len(bench.api.queries("DELETE", "/apps/shop/run/t")) == 1
    bench.api.on("POST", "/apps/shop/rollback", release(5))
    bench.api.on("GET", "/apps/shop/rollouts/5", rollout(5, Phase.STARTING, "0 of 2 are ready"))
    waiting.clear()
    bench.api.hooks["GET", "/apps/shop/rollouts/5"] = waiting.set
    code, error = interrupt(bench, ["rollback", "-a", "shop"], waiting)
    assert (code, "the rollout of v5 goes on" in error) == (130, True)
    assert "seaway rollouts cancel v5 -a shop" in error


def test_sigint_reaches_what_tests_start_in_a_background_job() -> None:
    """Started with SIGINT ignored, as `nohup make test &` is, tests give their children the default again."""
    show = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    program = (
        "import signal, subprocess, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        f"from tests import conftest; conftest.pytest_configure(); subprocess.run([sys.executable, '-c', {show!r}])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=30)
    assert done.stdout == "True\n", done.stderr


def interrupt(bench: Bench, args: list[str], waiting: threading.Event) -> tuple[int, str]:
    """Run the command line as a process, send SIGINT once it waits; return exit code and standard error."""
    env = {"SEAWAY_URL": f"http://127.0.0.1:{bench.api.port}", "SEAWAY_TOKEN": TOKEN, "HOME": str(bench.home)}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *args], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert waiting.wait(30)
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=30)
        finally:
            process.kill()
    assert "Traceback" not in error
    return process.returncode, error


def test_a_closed_pipe_ends_quietly(bench: Bench) -> None:
    """As in `seaway logs | head -1`."""
    bench.api.on("GET", "/apps/shop/logs", Lines([log_line("x" * 1000)] * 500))
    program = (
        "from seaway.cli import InstallCommands, PlatformCommands, build_cli; n = lambda *a: 0; "
        "build_cli(PlatformCommands(n, n, list, n, n, n, n), InstallCommands(n, n))(['logs', '-a', 'shop'])"
    )
    env = {"SEAWAY_URL": f"http://127.0.0.1:{bench.api.port}", "SEAWAY_TOKEN": TOKEN, "HOME": str(bench.home)}
    with subprocess.Popen(
        [sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(30) == 1


def test_run_tells_the_streams_apart_and_gives_json_back(bench: Bench) -> None:
    """JSON lines come without the platform's fields, long lines in one piece."""
    lines = [
        log_line("oops") | {"stream": "stderr"},
        log_line("") | {"answer": 42},
        log_line("a" * 10) | {"log.flags": ["partial"]},
        log_line("b"),
    ]
    bench.api.on("POST", "/apps/shop/run", {"id": "t"})
    bench.api.on("GET", "/apps/shop/run/t/attach", Events([("state", {"id": "t", "done": True, "exit_code": 0})]))
    bench.api.on("GET", "/apps/shop/logs", Lines(lines))
    result = bench.run("run", "-a", "shop", "x")
    assert (result.stderr, result.stdout) == ("oops\n", '{"answer": 42}\naaaaaaaaaab\n')


def test_config_that_is_so_already_makes_no_release(bench: Bench) -> None:
    """The API answers 200 with the release that has it; an old rollout of it that failed is no failure now."""
    bench.api.on("PATCH", "/apps/shop/config", JSONResponse(json.loads(release(4).model_dump_json()), 200))
    bench.api.on("GET", "/apps/shop/rollouts/4", rollout(4, Phase.FAILED, "it crashed"))
    result = bench.run("config", "set", "A=1", "-a", "shop")
    assert (result.exit_code, result.stdout) == (0, "nothing to change: v4 of shop is like that already\n")


def test_releases_diff_names_every_field(bench: Bench) -> None:
    """With both values, masked by the API."""
    changes = [{"field": "config.A", "from": None, "to": "********"}]
    bench.api.on("GET", "/apps/shop/releases/4/diff/5", {"app": "shop", "from": 4, "to": 5, "changes": changes})
    lines = bench.run("releases", "diff", "v4", "5", "-a", "shop").stdout.splitlines()
    assert lines[1].split() == ["config.A", "-", "********"]


TOO_MANY = Failure(429, "the token 'x' sends more than 50 requests a second", "too-many-requests", retry_after="0")


def test_too_many_requests_are_sent_again_as_told(bench: Bench) -> None:
    """Nobody sees it: neither of a question, nor of a change, nor of a stream."""
    bench.api.on("GET", "/apps", TOO_MANY, TOO_MANY, [app()])
    bench.api.on("POST", "/apps", TOO_MANY, app())
    bench.api.on("GET", "/apps/shop/logs", TOO_MANY, Lines([log_line("hello")]))
    for words in (["apps"], ["apps", "create", "shop"], ["logs", "-a", "shop"]):
        result = bench.run(*words)
        assert (result.exit_code, "requests" in result.stderr) == (0, False)
    assert len(bench.api.sent("POST", "/apps")) == 2


def test_too_many_requests_without_end_are_told(bench: Bench) -> None:
    """After a bounded number of tries; and at once what no waiting helps against."""
    bench.api.on("GET", "/apps", TOO_MANY)
    result = bench.run("apps")
    assert (result.exit_code, len(bench.api.requests)) == (1, client.TRIES)
    assert "sends more than 50 requests a second" in result.stderr
    bench.api.forget()
    bench.api.on("GET", "/events", Failure(429, "has 200 streams open", "too-many-streams", "end some of them"))
    result = bench.run("events", "--follow")
    assert (result.exit_code, len(bench.api.requests)) == (1, 1)
    assert "end some of them" in result.stderr

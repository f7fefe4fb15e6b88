"""The verbs of the command line against a real platform, as a user types them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.command_line import COMMANDS
from tests.e2e.harness import SEAWAY, Platform, wait_until
from tests.shared_place import find_shared

PLAIN = Path(__file__).parent / "apps" / "plain"

EXCLUSIVE = """\
import os, pathlib, signal, sys, time
lock = pathlib.Path(os.environ["LOCK"])
def leave(*_):
    time.sleep(0.3)
    lock.unlink()
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
try:
    lock.touch(exist_ok=False)
except FileExistsError:
    print("TWO AT ONCE", flush=True)
    sys.exit(9)
print("alone in", os.environ["SEAWAY_RELEASE"], flush=True)
while True:
    time.sleep(60)
"""


@pytest.fixture
def platform(shared: Platform) -> Platform:
    return shared


def deploy(platform: Platform, app: str, files: dict[str, str] | None = None) -> Path:
    """Create an app and deploy the plain app, or the files given; return the folder."""
    folder = platform.home / "sources-of-the-test" / app
    if files is None:
        shutil.copytree(PLAIN, folder)
    else:
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_text(text)
    platform.run("apps", "create", app)
    platform.run("deploy", str(folder), "-a", app)
    return folder


def phase(platform: Platform, app: str) -> str:
    rollout = platform.read("rollouts", "list", "-a", app)[0]
    return "paused" if rollout["spec"]["paused"] else str(rollout["status"]["phase"])


def test_a_rollout_can_be_paused_resumed_promoted_and_cancelled(platform: Platform) -> None:
    """Paused, it stays where it is; promoted, the old release is let go; cancelled, traffic and config go back."""
    deploy(platform, "steer")
    platform.run("config", "set", "COLOUR=blue", "-a", "steer")
    platform.run("rollouts", "promote", "-a", "steer")
    wait_until(lambda: phase(platform, "steer") == "succeeded", "promoted")
    platform.run("config", "set", "COLOUR=green", "-a", "steer", "--no-wait")
    platform.run("rollouts", "pause", "-a", "steer")
    wait_until(lambda: phase(platform, "steer") == "paused", "paused")
    assert "resume, promote or cancel" in platform.run("rollouts", "show", "-a", "steer").stdout
    platform.run("rollouts", "resume", "-a", "steer")
    wait_until(lambda: platform.get("steer.localhost", "/config/COLOUR")[1] == "green", "resumed")
    platform.run("rollouts", "cancel", "-a", "steer")
    wait_until(lambda: phase(platform, "steer") == "cancelled", "cancelled")
    assert platform.get("steer.localhost", "/config/COLOUR") == (200, "blue")
    assert platform.read("config", "list", "--reveal", "-a", "steer")["config"] == {"COLOUR": "blue"}
    assert platform.run("rollouts", "pause", "-a", "steer", check=False).returncode == 1, "nothing to pause"


def test_recreate_never_runs_two_at_once(platform: Platform) -> None:
    """A worker that holds a lock file is stopped before its next release starts, on the way back as well."""
    files = {
        "Procfile": "worker: python3 worker.py\n",
        "worker.py": EXCLUSIVE,
        "seaway.toml": '[rollout]\nstrategy = "recreate"\nstart_timeout = 20\n',
    }
    folder = platform.home / "sources-of-the-test" / "alone"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    platform.run("apps", "create", "alone")
    platform.run("config", "set", f"LOCK={find_shared(platform.home, 'alone')[0] / 'lock'}", "-a", "alone")
    told = platform.run("deploy", str(folder), "-a", "alone").stdout
    assert told.endswith("runs; it takes no requests, as it has no web process\n")
    assert platform.get("alone.localhost")[0] == 503
    assert platform.read("apps", "info", "alone")["url"] == ""
    platform.run("config", "set", "X=1", "-a", "alone")
    platform.run("ps", "restart", "-a", "alone")
    (folder / "Procfile").write_text("worker: exit 4\n")
    assert platform.run("deploy", str(folder), "-a", "alone", check=False).returncode == 1
    wait_until(lambda: phase(platform, "alone") in ("rolled-back", "failed"), "the bad release is taken back")
    platform.run("rollback", "v3", "-a", "alone")
    said = platform.run("logs", "-n", "1000", "-a", "alone").stdout
    assert "TWO AT ONCE" not in said
    assert said.count("alone in") >= 4, said


def test_a_git_ref_is_deployed_and_a_wrong_one_is_named(platform: Platform, tmp_path: Path) -> None:
    """Branches, tags and commits of a repository build; a ref or repository that is not there fails with its name."""
    work = tmp_path / "work"
    shutil.copytree(PLAIN, work)

    def git(*args: str) -> str:
        done = subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", *args],
            cwd=work, check=True, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout.strip()

    git("init", "-q", "-b", "trunk")
    git("add", ".")
    git("commit", "-qm", "one")
    commit = git("rev-parse", "HEAD")
    (work / "note.txt").write_text("two\n")
    git("add", ".")
    git("commit", "-qm", "two")
    git("tag", "second")
    url = f"file://{work}"
    platform.run("apps", "create", "fromgit")
    images = []
    for ref in ("trunk", "second", commit):
        platform.run("deploy", "--git", url, "--ref", ref, "-a", "fromgit")
        images.append(platform.read("releases", "list", "-a", "fromgit")[0]["spec"]["image"])
    assert images[0] == images[1] != images[2]
    for arguments, word in (((url, "nosuch"), "nosuch"), ((f"file://{tmp_path}/none", "trunk"), "none")):
        done = platform.run("deploy", "--git", arguments[0], "--ref", arguments[1], "-a", "fromgit", check=False)
        assert done.returncode == 1
        assert word in done.stdout + done.stderr
    assert platform.get("fromgit.localhost")[0] == 200


def test_tokens_have_roles_and_teams(platform: Platform) -> None:
    """A viewer reads and changes nothing, a developer sees its team's apps alone, a revoked token opens nothing."""
    deploy(platform, "ours")
    platform.run("apps", "create", "theirs", "--team", "other")
    secrets = {
        name: platform.run("tokens", "create", name, "--role", role, "--team", "default").stdout.strip()
        for name, role in (("eve", "viewer"), ("dan", "developer"))
    }

    def act(who: str, *args: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | platform.env | {"SEAWAY_TOKEN": secrets.get(who, who)}
        return COMMANDS.run(args, env=env, cwd=platform.home)

    assert act("eve", "apps", "info", "ours").returncode == 0
    assert act("eve", "config", "set", "A=1", "-a", "ours").returncode == 4
    assert "developer" in act("eve", "ps", "scale", "web=2", "-a", "ours").stderr
    assert act("eve", "config", "list", "--reveal", "-a", "ours").returncode == 4
    assert act("dan", "config", "set", "A=1", "-a", "ours").returncode == 0
    assert act("dan", "apps", "info", "theirs").returncode == 3
    assert "theirs" not in act("dan", "apps", "list").stdout
    assert act("dan", "tokens", "list").returncode == 4
    platform.run("tokens", "revoke", "dan")
    assert act("dan", "apps", "list").returncode == 4
    assert act("swy_" + "x" * 43, "apps", "list").returncode == 4
    assert not any(secret in path.read_text(errors="replace") for secret in secrets.values()
                   for path in platform.home.rglob("*.log"))  # fmt: skip


def test_run_gives_the_exit_code_and_output_of_its_command(platform: Platform) -> None:
    """A one-off has the release's config and its own exit code; it gets standard input if told so, or that is said."""
    deploy(platform, "oneoff")
    platform.run("config", "set", "GREETING=good day", "-a", "oneoff")
    done = platform.run("run", "-a", "oneoff", "--", 'echo "$GREETING from $SEAWAY_PROCESS"; exit 7', check=False)
    assert (done.returncode, done.stdout) == (7, "good day from run\n")
    piped = platform.run("run", "-i", "-a", "oneoff", "--", "tr a-z A-Z", stdin="two\nlines")
    assert piped.stdout == "TWO\nLINES", "byte by byte: no line end is added"
    dropped = platform.run("run", "-a", "oneoff", "--", "cat", stdin="lost")
    assert (dropped.stdout, "with -i it is" in dropped.stderr) == ("", True)
    assert platform.run("run", "-i", "-a", "oneoff", "wc -c", stdin="x" * 600_000).stdout == "600000\n"
    too_much = platform.run("run", "-i", "-d", "-a", "oneoff", "cat", stdin="x" * 600_000, check=False)
    assert (too_much.returncode, "512 KiB" in too_much.stderr) == (2, True)


def test_routes_are_added_by_host_and_path_and_never_taken_from_others(platform: Platform) -> None:
    """A path prefix of a host can lead elsewhere; what another app has is refused by name."""
    for app in ("front", "back"):
        deploy(platform, app)
    platform.run("routes", "add", "www.example.com", "-a", "front")
    platform.run("routes", "add", "www.example.com/release", "-a", "back")
    wait_until(lambda: platform.get("www.example.com")[0] == 200, "the host leads to front")
    instance = json.loads(platform.get("back.localhost", "/release?n=1")[1])["instance"]
    wait_until(lambda: instance in platform.get("www.example.com", "/release?n=1")[1], "the prefix leads to back")
    refused = platform.run("routes", "add", "www.example.com", "-a", "back", check=False)
    assert refused.returncode == 1
    assert "front" in refused.stderr
    assert platform.run("routes", "add", "http://x y/", "-a", "back", check=False).returncode == 2
    platform.run("routes", "remove", "www.example.com/release", "-a", "back")
    wait_until(lambda: instance not in platform.get("www.example.com", "/release?n=1")[1], "front has it again")


def test_logs_and_events_are_followed_as_they_happen(platform: Platform) -> None:
    """`logs -f` and `events -f` print what happens after they were started, at once."""
    deploy(platform, "chatty")
    env = os.environ | {"SEAWAY_HOME": str(platform.home), "PYTHONUNBUFFERED": "1"}
    followers = {}
    for name, command in (("logs", ["logs", "-f", "-n", "1"]), ("events", ["events", "-f"])):
        path = platform.home / f"{name}.out"
        with path.open("wb") as output:
            followers[path] = subprocess.Popen([SEAWAY, *command, "-a", "chatty"], env=env, stdout=output)
    try:
        (platform.home / "logs.out").touch()
        wait_until((platform.home / "logs.out").read_text, "the last line so far")
        platform.run("run", "-a", "chatty", "--", "echo something new")
        platform.run("config", "set", "A=1", "-a", "chatty")
        wait_until(lambda: "something new" in (platform.home / "logs.out").read_text(), "the log line")
        wait_until(lambda: "RolloutShifted" in (platform.home / "events.out").read_text(), "the event")
    finally:
        for process in followers.values():
            process.terminate()
            process.wait(10)


def test_a_newer_deploy_supersedes_a_queued_one(platform: Platform) -> None:
    """Of deploys at once one is under way, the last one waits, those between are superseded; the last one serves."""
    folder = deploy(platform, "busy")
    started = [
        subprocess.Popen(
            [SEAWAY, "config", "set", f"TURN={turn}", "-a", "busy"],
            env=os.environ | {"SEAWAY_HOME": str(platform.home)},
            cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for turn in range(4)
    ]  # fmt: skip
    codes = [process.wait(100) for process in started]
    assert codes.count(0) >= 1, codes
    last = platform.read("releases", "list", "-a", "busy")[0]["spec"]
    wait_until(lambda: platform.read("apps", "info", "busy")["status"]["current"] == last["number"], "the last serves")
    config = platform.read("config", "list", "--reveal", "-a", "busy")["config"]
    assert platform.get("busy.localhost", "/config/TURN") == (200, config["TURN"])
    ended = {r["status"]["phase"] for r in platform.read("rollouts", "list", "-a", "busy")}
    assert ended <= {"succeeded", "cancelled", "keeping"}, ended


def read_metrics(platform: Platform) -> dict[str, Metric]:
    """Return what Prometheus would scrape, by name; the parser refuses what it would refuse."""
    with urlopen(f"http://127.0.0.1:{platform.api_port}/metrics", timeout=10) as answer:
        return {metric.name: metric for metric in text_string_to_metric_families(answer.read().decode())}


def test_metrics_tell_of_platform_routers_and_apps(platform: Platform) -> None:
    """Requests are counted per app and release; names are of the usual form, each with its help."""
    deploy(platform, "counted")
    for _ in range(7):
        assert platform.get("counted.localhost")[0] == 200

    def count(name: str) -> float:
        samples = read_metrics(platform)[name].samples
        return sum(s.value for s in samples if (s.labels["app"], s.labels["release"]) == ("counted", "v1"))

    wait_until(lambda: count("seaway_router_requests") >= 7, "the requests are counted")
    wait_until(lambda: count("seaway_instance_memory_bytes") > 1e6, "its memory is measured")
    found = read_metrics(platform)
    assert count("seaway_instance_ready") == 1
    for name in ("seaway_build_info", "seaway_engine_up", "seaway_router_up", "seaway_node_ready"):
        assert [sample.value for sample in found[name].samples] == [1], name
    assert ("counted", "serving") in {(s.labels["app"], s.labels["state"]) for s in found["seaway_app_state"].samples}
    for name, metric in found.items():
        assert re.fullmatch(r"seaway_[a-z]+(_[a-z]+)*", name), name
        assert metric.documentation.endswith("."), name
        assert all(s.name.endswith("_total") == (metric.type == "counter") for s in metric.samples), name


def list_counted(platform: Platform, app: str) -> set[str]:
    """Return the names of the metrics that tell of one app."""
    found = read_metrics(platform).items()
    return {name for name, metric in found if any(s.labels.get("app") == app for s in metric.samples)}


def test_a_destroyed_app_leaves_nothing(platform: Platform) -> None:
    """Its instances, routes, documents, metrics and history; its name is free again. It wants to be confirmed."""
    deploy(platform, "shortlived")
    assert platform.get("shortlived.localhost")[0] == 200
    wait_until(lambda: "seaway_router_requests" in list_counted(platform, "shortlived"), "its requests count")
    assert platform.run("apps", "destroy", "shortlived", check=False).returncode == 2
    platform.run("apps", "destroy", "shortlived", "--confirm", "shortlived")
    wait_until(lambda: platform.get("shortlived.localhost")[0] == 404, "its routes go")
    wait_until(lambda: platform.run("apps", "info", "shortlived", check=False).returncode == 3, "it goes")
    assert not [p for p in platform.processes() if p.environ().get("SEAWAY_APP") == "shortlived"]
    wait_until(lambda: not list_counted(platform, "shortlived"), "its metrics go")
    assert platform.read("events", "-a", "shortlived")[-1]["spec"]["reason"] != "AppCreated", "why it went can be read"
    platform.run("apps", "create", "shortlived")
    assert [event["spec"]["reason"] for event in platform.read("events", "-a", "shortlived")] == ["AppCreated"]
    assert platform.run("logs", "-a", "shortlived").stdout == ""
    assert platform.read("builds", "list", "-a", "shortlived") == []


def test_timeouts_are_told_apart_from_failures(platform: Platform) -> None:
    """Waiting no longer is exit code 5, and the platform goes on by itself."""
    folder = platform.home / "sources-of-the-test" / "late"
    shutil.copytree(PLAIN, folder)
    (folder / "Procfile").write_text("web: sleep 3; exec python3 app.py\n")
    platform.run("apps", "create", "late")
    began = time.monotonic()
    done = platform.run("deploy", str(folder), "-a", "late", "--timeout", "2s", check=False)
    assert done.returncode == 5, done.stdout + done.stderr
    assert time.monotonic() - began < 10
    wait_until(lambda: platform.get("late.localhost")[0] == 200, "it comes all the same")

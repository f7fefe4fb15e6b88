"""seaway deploy and what waits like it, against a real HTTP server."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from seaway.model import BuildState, Phase
from tests.unit.cli_recorded import (
    PROGRAM,
    TOKEN,
    Bench,
    Events,
    Failure,
    Lines,
    app,
    bench,
    build,
    recorder,
    release,
    rollout,
)

__all__ = ["bench", "recorder"]

LOG = Events([("message", {"line": "installing flask"}), ("message", {"line": "done"}), ("end", {})])


@pytest.fixture
def shop(bench: Bench) -> Bench:
    """A bench with an app shop, a folder with a Procfile, and a deploy that goes well."""
    (bench.folder / "Procfile").write_text("web: python app.py\n")
    api = bench.api
    api.on("GET", "/apps/shop", app())
    api.on("PUT", "/sources", {"digest": "sha256:feed"})
    api.on("POST", "/apps/shop/builds", build(3, BuildState.QUEUED))
    api.on("GET", "/apps/shop/builds/3", build(3, BuildState.RUNNING), build(3, BuildState.SUCCEEDED, made=5))
    api.on("GET", "/apps/shop/builds/3/log", LOG)
    api.on("GET", "/apps/shop/releases/5", release(5))
    api.on(
        "GET",
        "/apps/shop/rollouts/5",
        Failure(404, "no rollout v5", "not-found"),
        rollout(5, Phase.STARTING, "1 of 2 instances of v5 are ready"),
        rollout(5, Phase.KEEPING, "all traffic is on v5"),
    )
    return bench


def test_deploy_shows_build_and_phases_and_ends_when_all_traffic_moved(shop: Bench) -> None:
    """Build output, every phase with its reason, and the sentence about the release that is kept."""
    result = shop.run("deploy", "-a", "shop")
    assert result.exit_code == 0, result.output
    for text in (
        "build b3 of shop",
        "  | installing flask",
        "built image ab12ab12ab12",
        "starting    1 of 2 instances of v5 are ready",
        "shifting    entered shifting",
        "v5 serves all traffic; v4 is kept for 30 s for instant return",
    ):
        assert text in result.stdout
    request = {"source": {"archive": "sha256:feed"}, "deploy": True}
    assert shop.api.sent("POST", "/apps/shop/builds") == [request]


def test_deploy_says_what_is_not_started(shop: Bench) -> None:
    """The release's own words, before the phases."""
    note = "worker is not started: nobody has said how many; `seaway ps scale worker=1 -a shop`"
    shop.api.on("GET", "/apps/shop/releases/5", release(5, note=note))
    said = shop.run("deploy", "-a", "shop").stdout
    assert said.index("release v5 of shop") < said.index(note) < said.index("starting")


def test_deploy_uploads_the_folder_without_what_is_ignored(shop: Bench) -> None:
    """.gitignore, .seawayignore, .git and the link file stay behind."""
    (shop.folder / ".gitignore").write_text("*.log\n")
    (shop.folder / ".seawayignore").write_text("docs/\n")
    for name in ("a.log", "docs/x.md", ".git/config", "lib/y.py"):
        (shop.folder / name).parent.mkdir(exist_ok=True)
        (shop.folder / name).write_text("x")
    assert shop.run("deploy", "-a", "shop").exit_code == 0
    body = next(body for method, path, _, body in shop.api.requests if (method, path) == ("PUT", "/sources"))
    with tarfile.open(fileobj=io.BytesIO(body), mode="r:gz") as tar:
        names = {member.name for member in tar if member.isfile()}
    assert names == {".gitignore", ".seawayignore", "Procfile", "lib/y.py"}
    assert (shop.folder / ".seaway").read_text() == "shop\n"


def test_a_folder_that_is_too_large_is_refused_before_it_is_sent(shop: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its packed size; the largest parts of it are named."""
    monkeypatch.setattr("seaway.cli.pack.LARGEST_ARCHIVE", 1 << 20)
    (shop.folder / "data").mkdir()
    (shop.folder / "data" / "noise").write_bytes(os.urandom(3 << 19))
    (shop.folder / "zeros").write_bytes(bytes(2 << 20))
    result = shop.run("deploy", "-a", "shop")
    assert result.exit_code == 1
    assert "the packed folder has 1.6 MB, and at most 1 MiB are taken; nothing was uploaded" in result.stderr
    assert "the largest are: zeros (2.1 MB), data (1.6 MB), Procfile" in result.stderr
    assert not shop.api.sent("PUT", "/sources")
    (shop.folder / "data" / "noise").unlink()
    assert shop.run("deploy", "-a", "shop").exit_code == 0, "what packs well is taken"


def test_the_first_deploy_links_the_folder_and_a_then_may_be_left_out(shop: Bench) -> None:
    """Also from a folder below, and -o json gives the documents alone."""
    assert "linked to shop" in shop.run("deploy", "-a", "shop").stdout
    result = shop.run("deploy", "-o", "json")
    answer = json.loads(result.stdout)
    assert (result.exit_code, result.stderr) == (0, "")
    assert (answer["result"], answer["release"]["spec"]["number"]) == ("keeping", 5)


def test_deploy_waits_through_a_restart_of_the_api(shop: Bench) -> None:
    """The API dies in the middle of the rollout and comes back: the deploy goes on and succeeds."""
    started = rollout(5, Phase.STARTING, "1 of 2 instances of v5 are ready")
    shop.api.on("GET", "/apps/shop/rollouts/5", started)
    reached, restarted = threading.Event(), threading.Event()
    shop.api.hooks[("GET", "/apps/shop/rollouts/5")] = reached.set

    def restart() -> None:
        reached.wait(20)
        shop.api.stop()
        time.sleep(0.5)  # the outage itself
        shop.api.on("GET", "/apps/shop/rollouts/5", rollout(5, Phase.KEEPING, "all traffic is on v5"))
        shop.api.start()
        restarted.set()

    thread = threading.Thread(target=restart)
    thread.start()
    result = shop.run("deploy", "-a", "shop")
    thread.join()
    assert restarted.is_set()
    assert result.exit_code == 0, result.output
    assert "the API does not answer; waiting for it to come back" in result.stdout
    assert "the API answers again" in result.stdout
    assert "v5 serves all traffic" in result.stdout


def test_build_output_goes_on_behind_the_last_line_after_an_outage(shop: Bench) -> None:
    """A stream that breaks off is taken up again; no line is shown twice or lost."""
    shop.api.on("GET", "/apps/shop/builds/3/log", Events([("message", {"line": "installing flask"})]), LOG)
    running, done = build(3, BuildState.RUNNING), build(3, BuildState.SUCCEEDED, made=5)
    shop.api.on("GET", "/apps/shop/builds/3", running, running, done)
    result = shop.run("deploy", "-a", "shop")
    assert result.exit_code == 0, result.output
    assert [line for line in result.stdout.splitlines() if "|" in line] == ["  | installing flask", "  | done"]


@pytest.mark.parametrize(
    ("phase", "reason", "said"),
    [
        (Phase.FAILED, "instance shop-v5-web-1a2b exited with 1 five times", "v5 of shop failed: instance shop-v5"),
        (Phase.ROLLED_BACK, "v5 became unhealthy", "v5 of shop was rolled back: v5 became unhealthy"),
        (Phase.CANCELLED, "superseded by v6", "v5 of shop was cancelled: superseded by v6"),
    ],
)
def test_a_rollout_that_ends_badly_exits_1_with_its_reason(shop: Bench, phase: Phase, reason: str, said: str) -> None:
    """And says what serves and what to do next."""
    shop.api.on("GET", "/apps/shop/rollouts/5", rollout(5, phase, reason))
    result = shop.run("deploy", "-a", "shop")
    assert result.exit_code == 1
    assert said in result.stderr
    assert "v4 serves" in result.stderr
    assert "-a shop" in result.stderr


def test_a_build_that_fails_exits_1_and_names_its_log(shop: Bench) -> None:
    """Nothing was released."""
    shop.api.on("GET", "/apps/shop/builds/3", build(3, BuildState.FAILED, "no module named flaks"))
    result = shop.run("deploy", "-a", "shop", "-o", "json")
    error = json.loads(result.stderr)["error"]
    assert (result.exit_code, error["code"]) == (1, "build-failed")
    assert "no module named flaks" in error["message"]
    assert "seaway builds log b3 -a shop" in error["hint"]


@pytest.mark.parametrize(
    ("current", "state", "said"),
    [(4, "serving", True), (4, "down", False), (4, "stopped", False), (None, "empty", False)],
)
@pytest.mark.parametrize("fault", ["build", "release", "rollout"])
def test_what_still_serves_is_said_only_where_something_does(
    shop: Bench, fault: str, current: int | None, state: str, said: bool
) -> None:
    """Whatever failed; a first deploy has nothing before it."""
    api = shop.api
    api.on("GET", "/apps/shop", app(current=current, state=state))
    if fault == "build":
        api.on("GET", "/apps/shop/builds/3", build(3, BuildState.FAILED, "no module named flaks"))
    elif fault == "release":
        api.on("GET", "/apps/shop/builds/3", build(3, BuildState.SUCCEEDED, "another app has that route", made=0))
    else:
        api.on("GET", "/apps/shop/rollouts/5", rollout(5, Phase.FAILED, "crashes", base=current))
    result = shop.run("deploy", "-a", "shop")
    assert result.exit_code == 1
    assert ("serves" in result.stderr) is said
    assert ("v4" in result.stderr) is said


def test_the_output_of_a_crash_is_shown_once_however_often_it_crashes(shop: Bench) -> None:
    """And whole in the error; what an app writes anew is shown."""
    crash = "exited with code 1 after 0.{0} s; last output: [12:00:0{0}] boot | KeyError: 'DATABASE_URL'"
    shop.api.on(
        "GET",
        "/apps/shop/rollouts/5",
        *(
            rollout(5, Phase.STARTING, f"v5: 0 of 1 web ready ({before}{crash.format(n)})")
            for n in range(1, 4)
            for before in ("", "starting again; before that it ")
        ),
        rollout(5, Phase.STARTING, f"v5: 0 of 1 web ready ({crash.format(4)} | and no cache)"),
        rollout(5, Phase.FAILED, f"web of v5 crashes: {crash.format(4)}; v4 serves on"),
    )
    result = shop.run("deploy", "-a", "shop")
    assert result.stdout.count("KeyError") == 1
    assert "starting again; before that it exited with code 1 after 0.3 s; last output: (as above))" in result.stdout
    assert "last output: (as above) | and no cache)" in result.stdout
    assert "failed      web of v5 crashes: exited with code 1 after 0.4 s; last output: (as above); v4" in result.stdout
    assert "boot | KeyError: 'DATABASE_URL'; v4 serves on" in result.stderr


def written(*messages: str) -> list[dict[str, str]]:
    return [{"@timestamp": f"2026-11-23T10:00:0{n}.000Z", "message": said} for n, said in enumerate(messages)]


@pytest.mark.parametrize("seen", [True, False])
def test_what_a_release_command_writes_is_shown_between_the_phases(shop: Bench, seen: bool) -> None:
    """Each line once, whether the stream brought it or not; nothing that a terminal obeys."""
    lines = written("migrating\x1b[2J", "a\nb", "done")
    shop.api.on(
        "GET", "/apps/shop/logs", *([Events([("message", lines[0]), ("end", {})])] if seen else []), Lines(lines)
    )
    runs = rollout(5, Phase.PREPARING, "runs the release command of v5: ./migrate")
    shop.api.on(
        "GET",
        "/apps/shop/rollouts/5",
        *([runs, runs] if seen else []),
        rollout(5, Phase.KEEPING, "all traffic is on v5", prepared=True),
    )
    result = shop.run("deploy", "-a", "shop")
    shown = result.stdout.splitlines()
    begin = next(n for n, line in enumerate(shown) if line.startswith("  preparing "))
    output = ["  release | migrating\\x1b[2J", "  release | a", "  release | b", "  release | done"]
    assert [line for line in shown if " | " in line and "release" in line] == output
    assert shown[begin + 1 : begin + 5] == output
    asked = {query["process"] + query["release"] for query in shop.api.queries("GET", "/apps/shop/logs")}
    assert asked == {"release5"}


@pytest.mark.parametrize("followed", [True, False])
def test_a_release_command_that_writes_very_much_is_not_shown_for_ever(
    shop: Bench, followed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logs have what it wrote last; the deploy goes on."""
    monkeypatch.setattr("seaway.cli.waiting.MOST_LINES", 3)
    lines = written("one", "two", "three", "four")
    stream = Events([("message", line) for line in lines])
    shop.api.on("GET", "/apps/shop/logs", *([stream] if followed else []), Lines(lines))
    runs = rollout(5, Phase.PREPARING, "runs the release command of v5: ./migrate")
    over = rollout(5, Phase.KEEPING, "all traffic is on v5", prepared=True)
    shop.api.on("GET", "/apps/shop/rollouts/5", *([runs, runs] if followed else []), over)
    result = shop.run("deploy", "-a", "shop")
    assert (result.exit_code, result.stdout.count("release | ")) == (0, 2)
    assert result.stdout.count("`seaway logs -a shop -p release --release v5` shows what it wrote last") == 1


def test_a_deploy_goes_on_without_its_release_commands_output(shop: Bench) -> None:
    """It says that it cannot be shown."""
    shop.api.on("GET", "/apps/shop/logs", Failure(403, "not for you", "not-allowed"))
    shop.api.on("GET", "/apps/shop/rollouts/5", rollout(5, Phase.KEEPING, "all traffic is on v5", prepared=True))
    result = shop.run("deploy", "-a", "shop")
    assert (result.exit_code, "output cannot be shown: not for you" in result.stdout) == (0, True)


def test_a_deploy_that_takes_too_long_exits_5_and_goes_on(shop: Bench) -> None:
    """It says so, and how to stop it."""
    shop.api.on("GET", "/apps/shop/rollouts/5", rollout(5, Phase.STARTING, "0 of 2 are ready"))
    result = shop.run("deploy", "-a", "shop", "--timeout", "1s")
    assert result.exit_code == 5
    assert "goes on in the platform" in result.stderr
    assert "seaway rollouts cancel -a shop" in result.stderr


def test_a_paused_rollout_says_how_to_resume(shop: Bench) -> None:
    """The wait goes on."""
    paused = rollout(5, Phase.STARTING, "paused by ann", paused=True)
    shop.api.on("GET", "/apps/shop/rollouts/5", paused, rollout(5, Phase.KEEPING, "all traffic is on v5"))
    result = shop.run("deploy", "-a", "shop")
    assert (result.exit_code, "seaway rollouts resume -a shop" in result.stdout) == (0, True)


def test_no_wait_returns_at_once(shop: Bench) -> None:
    """With the command that follows it."""
    result = shop.run("deploy", "-a", "shop", "--no-wait")
    assert result.exit_code == 0
    assert "seaway builds log b3 -f -a shop" in result.stdout


def test_deploy_of_an_image_and_of_git(shop: Bench) -> None:
    """No folder is packed for either."""
    shop.api.on("POST", "/apps/shop/releases", release(5))
    assert shop.run("deploy", "-a", "shop", "--image", "sha256:77", "--strategy", "recreate").exit_code == 0
    assert shop.api.sent("POST", "/apps/shop/releases") == [{"image": "sha256:77", "strategy": "recreate"}]
    assert shop.run("deploy", "-a", "shop", "--git", "https://x.example/r.git", "--ref", "main").exit_code == 0
    assert shop.api.sent("POST", "/apps/shop/builds")[0]["source"] == {"git": "https://x.example/r.git", "ref": "main"}
    assert not shop.api.queries("PUT", "/sources")


def test_a_forced_deploy_says_so(shop: Bench) -> None:
    """Whether an image is taken or built."""
    shop.api.on("POST", "/apps/shop/releases", release(5))
    assert shop.run("deploy", "-a", "shop", "--image", "sha256:77", "--force").exit_code == 0
    assert shop.api.sent("POST", "/apps/shop/releases") == [{"image": "sha256:77", "force": True}]
    assert shop.run("deploy", "-a", "shop", "--force", "--no-wait").exit_code == 0
    assert shop.api.sent("POST", "/apps/shop/builds")[0]["force"]


def test_deploy_of_an_image_from_ci_takes_the_app_files_of_this_folder(shop: Bench) -> None:
    """Procfile and seaway.toml are sent as they are, and that is said; a build's digest needs neither."""
    shop.api.on("POST", "/apps/shop/releases", release(5))
    Path("Procfile").write_text("web: serve\n")
    Path("seaway.toml").write_text("[scale]\nweb = 2\n")
    result = shop.run("deploy", "-a", "shop", "--image", "h.example/shop:7")
    assert "read from Procfile and seaway.toml here" in result.stdout
    files = {"procfile": "web: serve\n", "seaway_toml": "[scale]\nweb = 2\n"}
    assert shop.api.sent("POST", "/apps/shop/releases") == [{"image": "h.example/shop:7", **files}]
    Path("seaway.toml").write_bytes(b"\xff")
    broken = shop.run("deploy", "-a", "shop", "--image", "h.example/shop:7")
    assert (broken.exit_code, "seaway.toml: cannot be read" in broken.stderr) == (1, True)


def test_deploy_to_an_app_that_is_not_there_says_how_to_create_it(shop: Bench) -> None:
    """The server's did-you-mean is kept. Nothing is asked without a terminal, and nothing sent."""
    shop.api.on("GET", "/apps/shpo", Failure(404, "there is no app 'shpo'; did you mean 'shop'?", "not-found"))
    result = shop.run("deploy", "-a", "shpo")
    assert result.exit_code == 3
    assert "did you mean 'shop'?" in result.stderr
    assert "seaway apps create shpo" in result.stderr
    assert "--create" in result.stderr
    assert [method for method, *_ in shop.api.requests] == ["GET"]


def test_deploy_creates_an_app_if_told_to(shop: Bench) -> None:
    """Before anything is sent; one that is there is deployed as it is."""
    shop.api.on("GET", "/apps/shop", Failure(404, "there is no app 'shop'", "no-such-app"), app())
    shop.api.on("POST", "/apps", app())
    created = shop.run("deploy", "-a", "shop", "--create")
    assert (created.exit_code, created.stdout.splitlines()[0]) == (0, "created shop")
    assert [(method, path) for method, path, *_ in shop.api.requests][:3] == [
        ("GET", "/apps/shop"),
        ("POST", "/apps"),
        ("PUT", "/sources"),
    ]
    assert shop.run("deploy", "-a", "shop", "--create").exit_code == 0
    assert shop.api.sent("POST", "/apps") == [{"name": "shop"}]


def test_who_may_create_no_app_is_told_so_before_anything_is_sent(shop: Bench) -> None:
    """As by `seaway apps create`."""
    shop.api.on("GET", "/apps/shop", Failure(404, "there is no app 'shop'", "no-such-app"))
    shop.api.on("POST", "/apps", Failure(403, "a viewer may not create apps", "not-allowed"))
    refused, told = shop.run("deploy", "-a", "shop", "--create"), shop.run("apps", "create", "shop")
    assert (refused.exit_code, refused.stderr) == (told.exit_code, told.stderr)
    assert "a viewer may not create apps" in refused.stderr
    assert shop.api.sent("PUT", "/sources") == []


@pytest.mark.parametrize(
    ("typed", "code", "created"),
    [("\n", 0, 1), ("what\nYes\n", 0, 1), ("n\n", 3, 0), ("\x04", 3, 0), ("\x03", 130, 0)],
)
def test_deploy_offers_to_create_an_app_on_a_terminal(shop: Bench, typed: str, code: int, created: int) -> None:
    """Return is a yes; the end of input is a no, and so is Ctrl-C."""
    hint = "did you mean shop?"
    shop.api.on("GET", "/apps/new", Failure(404, "there is no app 'new'", "no-such-app", hint), app())
    shop.api.on("POST", "/apps", app())
    shop.api.on("POST", "/apps/new/releases", release(5))
    ended, shown = at_terminal(shop, ["deploy", "-a", "new", "--no-wait", "--image", f"sha256:{'ab' * 32}"], typed)
    assert "there is no app new (did you mean shop?); create it? [Y/n] " in shown
    assert (ended, len(shop.api.sent("POST", "/apps"))) == (code, created)
    assert ("created new" in shown) is bool(created)


def at_terminal(bench: Bench, args: list[str], typed: str) -> tuple[int, str]:
    """Run the command line on a terminal of its own, where this is typed once it asks; return exit code and screen."""
    env = {"SEAWAY_URL": f"http://127.0.0.1:{bench.api.port}", "SEAWAY_TOKEN": TOKEN, "HOME": str(bench.home)}
    begin = f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); {PROGRAM}"
    ours, its = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", begin, *args], env=env, stdin=its, stdout=its, stderr=its, start_new_session=True
    ) as process:
        os.close(its)
        shown = b""
        with open(ours, "r+b", buffering=0) as screen, suppress(OSError):  # EIO: it has ended
            while block := screen.read(4096):
                shown += block
                if typed and b"[Y/n]" in shown:
                    screen.write(typed.encode())
                    typed = ""
    return process.returncode, shown.decode()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nowhere", "-a", "shop"], "nowhere does not exist"),
        (["Procfile", "-a", "shop"], "Procfile is not a folder"),
        ([".", "--image", "x", "-a", "shop"], "PATH and --image exclude each other"),
        (["--ref", "main", "-a", "shop"], "--ref needs --git"),
        (["-a", "shop", "--strategy", "canary"], "canary"),
        (["-a", "shop", "--timeout", "soon"], "not a duration"),
        ([], "which app?"),
        (["-a", "../tokens"], "is not an app's name"),
    ],
)
def test_wrong_use_exits_2_and_sends_nothing(shop: Bench, args: list[str], said: str) -> None:
    """Each names what is wrong."""
    result = shop.run("deploy", *args)
    assert (result.exit_code, shop.api.requests) == (2, [])
    assert said in result.stderr


def test_config_set_rolls_out_and_never_prints_values(shop: Bench) -> None:
    """Values from argv, a file and standard input end in one release."""
    shop.api.on("PATCH", "/apps/shop/config", release(5, description="Set A, B, C"))
    (shop.folder / "key.pem").write_text("secret\n")
    result = shop.run("config:set", "A=1", "B=@key.pem", "-", "-a", "shop", stdin="# note\n\nC=x=y\n")
    assert result.exit_code == 0, result.output
    values = {"A": "1", "B": "secret\n", "C": "x=y"}
    assert shop.api.sent("PATCH", "/apps/shop/config") == [{"set": values, "unset": []}]
    assert "secret" not in result.output
    assert "v5 serves all traffic" in result.stdout


def test_config_before_the_first_deploy_waits_for_nothing(shop: Bench) -> None:
    """A release without an image is not rolled out."""
    shop.api.on("PATCH", "/apps/shop/config", release(1, image=None))
    result = shop.run("config", "set", "A=1", "-a", "shop")
    assert (result.exit_code, "takes effect with the first deploy" in result.stdout) == (0, True)
    assert not shop.api.queries("GET", "/apps/shop/rollouts/1")


def test_rollback_and_restart_take_the_same_road(shop: Bench) -> None:
    """Both follow the rollout of the new release."""
    shop.api.on("POST", "/apps/shop/rollback", release(5, copies=2))
    shop.api.on("POST", "/apps/shop/restart", release(5))
    assert "v5 serves all traffic" in shop.run("rollback", "v2", "-a", "shop").stdout
    assert shop.api.sent("POST", "/apps/shop/rollback") == [{"to": 2}]
    assert shop.run("ps:restart", "-a", "shop", "--no-wait").exit_code == 0

"""Bad input as users bring it: what is wrong is named, the exit code fits, and what served before serves on."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from seaway.model.environment import LONGEST_VALUE
from tests.e2e.harness import SEAWAY, Platform, wait_until
from tests.ports import free_port

PLAIN = Path(__file__).parent / "apps" / "plain"
SHORT = "[processes.web.health]\nstart_timeout = 2\n[rollout]\nstart_timeout = 20\n"


@pytest.fixture
def platform(shared: Platform) -> Platform:
    return shared


def write_app(folder: Path, procfile: str, **files: str) -> Path:
    """Make a folder with the plain app, this Procfile and other files (a _ in a name stands for a dot)."""
    shutil.copytree(PLAIN, folder)
    (folder / "Procfile").write_text(procfile)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def find_events(platform: Platform, app: str, reason: str) -> list[dict[str, Any]]:
    return [event["spec"] for event in platform.read("events", "-a", app) if event["spec"]["reason"] == reason]


def test_an_app_that_listens_on_another_port_is_told_which(platform: Platform, shop: str, tmp_path: Path) -> None:
    """The deploy's sentence names PORT, where the app listens instead, and what to do."""
    port = free_port()
    folder = write_app(tmp_path / "app", f"web: python3 app.py --port {port}\n", seaway_toml=SHORT)
    done = platform.run("deploy", str(folder), "-a", shop, check=False)
    assert done.returncode == 1
    assert f"(it listens on 127.0.0.1:{port}); let it listen on $PORT" in done.stderr
    assert platform.get("shop.localhost")[0] == 200


def test_a_kill_after_the_grace_is_told_by_an_event(platform: Platform, tmp_path: Path) -> None:
    """Once, and for good: ps forgets stopped instances."""
    toml = "[processes.web]\nstop_grace = 1\n[rollout]\nkeep = 0\n"
    folder = write_app(tmp_path / "app", "web: python3 app.py --ignore-sigterm\n", seaway_toml=toml)
    platform.run("apps", "create", "deaf")
    platform.run("deploy", str(folder), "-a", "deaf")
    old = platform.read("ps", "-a", "deaf")[0]["id"]
    platform.run("config", "set", "A=1", "-a", "deaf")
    wait_until(lambda: find_events(platform, "deaf", "InstanceKilled"), "an event says it")
    platform.kill("control")
    platform.run("config", "set", "A=2", "-a", "deaf")
    mine = [event for event in find_events(platform, "deaf", "InstanceKilled") if event["about"] == f"instance {old}"]
    assert len(mine) == 1
    assert "ignored SIGTERM for 1 s" in mine[0]["message"]


def test_an_instance_that_crashes_is_told_by_an_event_and_comes_back(platform: Platform, tmp_path: Path) -> None:
    """With its exit code and last words."""
    folder = write_app(tmp_path / "app", "web: python3 app.py\n")
    platform.run("apps", "create", "fragile")
    platform.run("deploy", str(folder), "-a", "fragile")
    connection = http.client.HTTPConnection("127.0.0.1", platform.http_port, timeout=10)
    connection.request("POST", "/crash", headers={"Host": "fragile.localhost"})
    connection.getresponse().read()
    connection.close()
    events = wait_until(lambda: find_events(platform, "fragile", "InstanceFailed"), "an event says it")
    assert "exited with code 3" in events[0]["message"]
    assert "somebody asked for it" in events[0]["message"]
    wait_until(lambda: platform.get("fragile.localhost")[0] == 200, "it comes back")


def test_shells_remarks_are_not_the_apps_output(platform: Platform, tmp_path: Path) -> None:
    """Neither of a shell composition, nor of a program that dies of SIGTERM, nor of a one-off."""
    folder = write_app(
        tmp_path / "app",
        "web: sleep 0.1; python3 app.py\npiped: python3 app.py --port 0 2>&1 | cat\nplain: sleep 1000\n",
    )
    platform.run("apps", "create", "mixed")
    platform.run("deploy", str(folder), "-a", "mixed")
    platform.run("ps", "scale", "piped=1", "plain=1", "-a", "mixed")
    wait_until(lambda: platform.run("logs", "-a", "mixed").stdout.count("listening on") == 2, "both listen")
    platform.run("ps", "scale", "web=0", "piped=0", "plain=0", "-a", "mixed")
    done = platform.run("run", "-a", "mixed", "--", "kill -9 $$", check=False)
    assert (done.returncode, done.stdout) == (137, "")
    wait_until(lambda: all(i["state"] == "stopped" for i in platform.read("ps", "-a", "mixed")), "all stop")
    said = platform.run("logs", "-a", "mixed").stdout
    assert "Terminated" not in said
    assert "Killed" not in said


@pytest.mark.parametrize("token", ["wrong", "swy_" + "x" * 43, "two\nlines", "é"])
def test_wrong_tokens_are_refused_and_never_repeated(platform: Platform, token: str) -> None:
    """Exit code 4, whatever the token looks like."""
    done = subprocess.run(
        [SEAWAY, "apps"], env=os.environ | {"SEAWAY_HOME": str(platform.home), "SEAWAY_TOKEN": token},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert token not in done.stderr
    assert "Traceback" not in done.stderr


BAD_LINES = {
    "apps create Bad_Name": 2, "apps create x--y": 2, "apps create": 2, "apps info nobody": 3, "apps nosuch": 2,
    "apps list -o yaml": 2, "deploy /nosuch -a shop": 2, "deploy /etc/passwd -a shop": 2, "deploy . -a nobody": 3,
    "deploy --image x:latest -a shop": 2, "deploy --ref x -a shop": 2, "deploy --git ftp://x -a shop": 2,
    "deploy --strategy magic -a shop": 2, "deploy --timeout soon -a shop": 2, "builds log b99 -a shop": 3,
    "builds log first -a shop": 2, "builds cancel b1 -a shop": 1, "releases info v99 -a shop": 3,
    "releases diff v1 v99 -a shop": 3, "rollback v99 -a shop": 3, "rollback one -a shop": 2,
    "rollouts show v99 -a shop": 3, "rollouts cancel v99 -a shop": 3, "ps scale web -a shop": 2,
    "ps scale web=-1 -a shop": 2, "ps scale nosuch=1 -a shop": 2, "config set PORT=1 -a shop": 2,
    "config set 1A=1 -a shop": 2, "config set A -a shop": 2, "config unset NOPE -a shop": 2,
    "routes add http://x.com/ -a shop": 2, "routes add x.com:80 -a shop": 2, "routes add *.com -a shop": 2,
    "routes add x.com/../y -a shop": 2, "routes add x.com/a?b -a shop": 2, "routes remove no.com -a shop": 3,
    "logs -n -1 -a shop": 2, "logs -a nobody": 3, "events -n x": 2, "run -a shop": 2, "run -a nobody ls": 3,
    "tokens create Bad!": 2, "tokens create x --role boss": 2, "tokens revoke nobody": 3, "tokens revoke admin": 1,
    "ps list": 2, "apps:": 2, "apps:nosuch": 2,
}  # fmt: skip


def test_wrong_command_lines_have_their_exit_code_and_one_sentence(platform: Platform, shop: str) -> None:
    """0 done, 1 failed, 2 usage, 3 not found; stderr says what is wrong; never a traceback."""

    def judge(line: str) -> str:
        done = platform.run(*line.split(), check=False)
        fine = done.returncode == BAD_LINES[line] and done.stderr.startswith("seaway: ")
        said = f"{line}: {done.returncode}, not {BAD_LINES[line]}: {done.stderr}"
        return "" if fine and "Traceback" not in done.stderr else said

    with ThreadPoolExecutor(4) as pool:
        wrong = [said for said in pool.map(judge, BAD_LINES) if said]
    assert not wrong, "\n".join(wrong)
    assert platform.get(f"{shop}.localhost")[0] == 200


def test_the_longest_config_value_reaches_the_app_and_comes_back(platform: Platform, shop: str, tmp_path: Path) -> None:
    """Byte for byte; with one byte more nothing is changed, for no process could start with more."""
    value = "\U0001f600" * (LONGEST_VALUE // 4)
    (tmp_path / "value").write_text(value)
    platform.run("config", "set", f"LONG=@{tmp_path / 'value'}", "-a", shop)
    assert platform.get(f"{shop}.localhost", "/config/LONG") == (200, value)
    assert platform.run("config", "get", "LONG", "-a", shop).stdout == value
    (tmp_path / "value").write_text(value + "x")
    done = platform.run("config", "set", f"LONG=@{tmp_path / 'value'}", "-a", shop, check=False)
    assert (done.returncode, "LONG has 130,049 bytes" in done.stderr) == (2, True)


def test_a_process_with_an_underscore_and_a_worker_that_forges_lines(platform: Platform, tmp_path: Path) -> None:
    """It is called by one name, which a note tells; each line of what it says is its own, and no terminal obeys it."""
    forge = r"""echo '{"message": "one\\nshop[web.v1.x] \\u009b2J"}'; exec sleep 1000"""
    folder = write_app(tmp_path / "app", f"web: python3 app.py\ncelery_beat: {forge}\n")
    platform.run("apps", "create", "beaten")
    told = platform.run("deploy", str(folder), "-a", "beaten").stdout
    assert "note: celery_beat is called celery-beat: " in told
    assert "celery-beat is not started: nobody has said how many; `seaway ps scale celery-beat=1 -a beaten`" in told
    platform.run("ps", "scale", "celery_beat=1", "-a", "beaten")
    assert {one["key"]["process"] for one in platform.read("ps", "-a", "beaten")} == {"web", "celery-beat"}
    said = wait_until(lambda: platform.run("logs", "-p", "celery_beat", "-a", "beaten").stdout, "it says something")
    lines = [line.split(" ", 2) for line in said.splitlines()]
    assert [text for _, _, text in lines] == ["one", r"shop[web.v1.x] \x9b2J"]
    assert all(whose.startswith("beaten[celery-beat.v1.") for _, whose, _ in lines)


def test_writers_at_the_same_time_lose_no_change(platform: Platform, shop: str) -> None:
    """Four commands and the control loop write one app's documents; every change is there in the end."""
    lines = [["config", "set", f"KEY{n}={n}", "--no-wait"] for n in range(2)]
    lines += [["routes", "add", f"h{n}.example.com"] for n in range(2)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda line: platform.run(*line, "-a", shop), lines))
    hosts = {route["host"] for route in platform.read("routes", "list", "-a", shop)}
    assert {"h0.example.com", "h1.example.com"} <= hosts
    assert {"KEY0": "0", "KEY1": "1"}.items() <= platform.read("config", "--reveal", "-a", shop)["config"].items()
    newest = platform.read("releases", "-a", shop)[0]["spec"]["number"]
    wait_until(lambda: platform.read("apps", "info", shop)["status"]["current"] == newest, "the newest serves")
    assert platform.get("shop.localhost", "/config/KEY0")[1] == "0"


def test_a_route_in_seaway_toml_that_another_app_has_is_refused(platform: Platform, shop: str, tmp_path: Path) -> None:
    """With its owner's name; no release is made of the build, and nothing of either app changes."""
    folder = write_app(tmp_path / "app", "web: python3 app.py\n", seaway_toml=f'routes = ["{shop}.localhost/x"]\n')
    platform.run("apps", "create", "greedy")
    done = platform.run("deploy", str(folder), "-a", "greedy", check=False)
    assert done.returncode == 1
    assert f"{shop}.localhost/x belongs to app {shop}" in done.stderr
    assert platform.read("releases", "-a", "greedy") == []
    assert len(find_events(platform, "greedy", "ReleaseRefused")) == 1
    assert platform.get("shop.localhost")[0] == 200


def test_more_instances_than_an_app_may_have_are_refused(platform: Platform, shop: str, tmp_path: Path) -> None:
    """Asked for by command or by seaway.toml: the number that fits is named, no release is made, nothing changes."""
    before = len(platform.read("releases", "-a", shop))
    scaled = platform.run("ps", "scale", "web=101", "-a", shop, check=False)
    assert (scaled.returncode, "web=101 does not fit: " in scaled.stderr) == (2, True)
    folder = write_app(tmp_path / "app", "web: python3 app.py\n", seaway_toml="[scale]\nweb = 101\n")
    platform.run("apps", "create", "endless")
    done = platform.run("deploy", str(folder), "-a", "endless", check=False)
    assert (done.returncode, "web=101 does not fit: " in done.stderr) == (1, True)
    assert platform.read("releases", "-a", "endless") == []
    assert len(find_events(platform, "endless", "ReleaseRefused")) == 1
    assert (len(platform.read("releases", "-a", shop)), platform.get("shop.localhost")[0]) == (before, 200)


def test_a_seaway_url_that_is_not_the_api_is_named(platform: Platform) -> None:
    """A router, or nobody, behind SEAWAY_URL: not "not found"."""
    env = os.environ | {"SEAWAY_HOME": str(platform.home), "SEAWAY_URL": f"http://127.0.0.1:{platform.http_port}"}
    done = subprocess.run([SEAWAY, "apps"], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "SEAWAY_URL" in done.stderr) == (1, True)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        env["SEAWAY_URL"] = f"http://127.0.0.1:{unused.getsockname()[1]}"
        done = subprocess.run([SEAWAY, "apps"], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "refused" in done.stderr) == (1, True)

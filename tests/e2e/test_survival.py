"""What is lost when Seaway's own processes die: nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from seaway.home import Home
from seaway.supervisor.locks import Held, acquire, find_holder
from tests.e2e.harness import Platform, wait_until
from tests.pace import Stopwatch

PLAIN = Path(__file__).parent / "apps" / "plain"
COUNTER = """\
import itertools, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
for number in itertools.count():
    print("count", number, flush=True)
    time.sleep(0.01)
"""


def deploy(platform: Platform, app: str = "shop") -> None:
    source = platform.home / "sources-of-the-test" / app
    shutil.copytree(PLAIN, source)
    platform.run("apps", "create", app)
    platform.run("deploy", str(source), "-a", app)


def app_processes(platform: Platform, app: str = "") -> dict[int, float]:
    """Return the apps' own processes (or one app's) by pid, with their start times."""
    found = {}
    for process in platform.processes():
        with suppress(psutil.Error):  # it may end meanwhile
            if "SEAWAY_INSTANCE" in (env := process.environ()) and app in ("", env["SEAWAY_APP"]):
                found[process.pid] = process.create_time()
    return found


def instances(platform: Platform) -> set[str]:
    """Return the ids of the instances that have processes."""
    found = set()
    for process in platform.processes():
        with suppress(psutil.Error):  # it may end meanwhile
            found.add(process.environ().get("SEAWAY_INSTANCE", ""))
    return found - {""}


def parts(platform: Platform) -> list[psutil.Process]:
    """Return Seaway's own processes, Envoys included."""
    apps = app_processes(platform)
    return [process for process in platform.processes() if process.pid not in apps]


def kill_seaway(platform: Platform) -> None:
    """Kill all of Seaway at once: stopped first, as each part that sees another die would bring it back."""
    found = parts(platform)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
    wait_until(lambda: not parts(platform), "all of Seaway is dead")


@pytest.mark.timeout(300)
def test_up_adopts_what_runs_after_everything_of_seaway_was_killed(platform: Platform) -> None:
    """All parts and Envoys die at once: apps run on untouched, `up` finds them, and everything is as it was."""
    deploy(platform)
    platform.run("config", "set", "COLOUR=blue", "-a", "shop")
    platform.run("ps", "scale", "web=2", "-a", "shop")
    platform.run("routes", "add", "www.example.com", "-a", "shop")
    platform.run("rollouts", "promote", "-a", "shop")
    wait_until(lambda: len(instances(platform)) == 2, "only the current release runs")
    before = app_processes(platform)
    kill_seaway(platform)
    assert app_processes(platform) == before
    platform.up()
    assert app_processes(platform) == before, "the same processes, not new ones"
    wait_until(lambda: platform.get("www.example.com", "/config/COLOUR") == (200, "blue"), "as it was")
    assert {i["id"] for i in platform.read("ps", "-a", "shop") if i["ready"]} == instances(platform)
    assert [r["spec"]["number"] for r in platform.read("releases", "list", "-a", "shop")] == [2, 1]


@pytest.mark.timeout(300)
def test_down_right_after_the_supervisor_was_killed_leaves_nothing(platform: Platform) -> None:
    """The parts bring a killed supervisor back, but not once `seaway down` was typed."""
    for _ in range(3):
        supervisor = platform.find("supervisor")
        assert supervisor
        os.kill(supervisor, signal.SIGKILL)
        platform.run("down")
        assert not platform.processes()
        platform.up()


def count_ready(platform: Platform, release: int) -> int:
    return sum(i["ready"] and i["key"]["release"] == release for i in platform.read("ps", "-a", "shop"))


@pytest.mark.timeout(300)
def test_down_and_up_bring_every_app_back(platform: Platform) -> None:
    """Count, config and routes are as before; nothing ran in between."""
    deploy(platform)
    platform.run("config", "set", "COLOUR=blue", "-a", "shop")
    platform.run("ps", "scale", "web=2", "-a", "shop")
    platform.run("routes", "add", "www.example.com/config", "-a", "shop")
    platform.run("down")
    assert not platform.processes()
    platform.up()
    wait_until(lambda: platform.get("www.example.com", "/config/COLOUR") == (200, "blue"), "as it was")
    wait_until(lambda: count_ready(platform, release=2) == 2, "both instances")
    phases = {
        rollout["meta"]["name"]: rollout["status"]["phase"]
        for rollout in platform.read("rollouts", "list", "-a", "shop")
    }
    assert phases["shop.v2"] in {"keeping", "succeeded"}, phases


def become_supervisor(platform: Platform) -> int:
    """Kill the supervisor and take its place, so that nobody starts parts until the descriptor returned is closed."""
    home = Home(platform.home)
    while True:
        holder = find_holder(home, "supervisor")
        with suppress(Held, ProcessLookupError):  # a guard's may have come in between, and such may have ended
            if holder:
                os.kill(holder.pid, signal.SIGKILL)
            return acquire(home, "supervisor")


@pytest.mark.timeout(300)
def test_a_router_serves_every_route_within_2_s_of_its_start_without_a_control_plane(platform: Platform) -> None:
    """Control plane and supervisor are dead; a router killed with its Envoy comes back with the last good routes."""
    deploy(platform, "shop")
    deploy(platform, "cafe")
    lock = become_supervisor(platform)
    control = platform.find("control")
    assert control
    os.kill(control, signal.SIGKILL)
    for name in ("router-0", "router-1"):
        for process in parts(platform):
            with suppress(psutil.NoSuchProcess):  # one ends with the other
                if name in " ".join(process.cmdline()):
                    process.kill()
    wait_until(lambda: platform.get("shop.localhost")[0] == 0, "no router is there")
    watch = Stopwatch()
    router = psutil.Popen(
        [sys.executable, "-m", "seaway", "router", "router-0"],
        env=os.environ | {"SEAWAY_HOME": str(platform.home)},
        cwd=platform.home, start_new_session=True,
    )  # fmt: skip
    try:
        for host in ("shop.localhost", "cafe.localhost"):
            wait_until(lambda host=host: platform.get(host)[0] == 200, f"{host} is served")  # type: ignore[misc]
        took = watch.took(router.pid, *(p.pid for p in router.children(recursive=True)))
        assert took < 2.0
        began = time.monotonic()
        status = json.loads(platform.run("status", "-o", "json", check=False).stdout)
        assert time.monotonic() - began < 15, "it does not wait for what may not come back"
        assert not status["api"]["reachable"]
        assert not platform.find("control")
    finally:
        router.terminate()
        router.wait(20)
        os.close(lock)


@pytest.mark.timeout(300)
def test_no_log_line_is_lost_or_doubled_while_the_node_agent_dies(platform: Platform) -> None:
    """A line every 10 ms, the agent killed three times, then everything of Seaway at once: each line once, in order."""
    source = platform.home / "sources-of-the-test" / "counter"
    source.mkdir(parents=True)
    (source / "Procfile").write_text("worker: exec python3 count.py\n")
    (source / "count.py").write_text(COUNTER)
    platform.run("apps", "create", "counter")
    platform.run("deploy", str(source), "-a", "counter")
    for _ in range(3):
        platform.kill("node")
        wait_until(platform.is_whole, "whole again")
    kill_seaway(platform)
    platform.up()
    platform.run("ps", "scale", "worker=0", "-a", "counter")
    lines = [
        json.loads(line)
        for line in platform.run("logs", "-n", "100000", "-a", "counter", "-o", "json").stdout.splitlines()
    ]
    numbers = [int(match[1]) for line in lines if (match := re.fullmatch(r"count (\d+)", line["message"]))]
    assert len(numbers) > 500
    assert numbers == list(range(len(numbers)))


@pytest.mark.timeout(300)
def test_a_killed_instance_leaves_the_rotation_and_comes_back(shared: Platform) -> None:
    """Of two instances one is killed: requests go on without one failure, and there are two again."""
    deploy(shared, "restored")
    shared.run("ps", "scale", "web=2", "-a", "restored")
    victim = next(iter(app_processes(shared, "restored")))
    os.kill(victim, signal.SIGKILL)

    def is_back() -> bool:
        for _ in range(100):
            assert shared.get("restored.localhost", "/release?n=1")[0] == 200
        return [i["restarts"] for i in shared.read("ps", "-a", "restored") if i["ready"]] in ([0, 1], [1, 0])

    wait_until(is_back, "it is back")


def test_commands_wait_while_the_control_plane_comes_back(shared: Platform) -> None:
    """Nobody has to type a command twice because the API is being brought back just then."""
    for name in ("patient", "calm"):
        control = shared.find("control")
        assert control
        os.kill(control, signal.SIGKILL)
        shared.run("apps", "create", name)
    assert {app["meta"]["name"] for app in shared.read("apps", "list")} >= {"patient", "calm"}


def leave(number: int) -> str:
    """Return a shell's words that leave a `sleep` to itself; they end when it has left."""
    shell = f"echo >$0; exec sleep {number}.{os.getpid()}"
    mark = f"$TMPDIR/{number}"
    return f"(env -i setsid sh -c '{shell}' {mark} >/dev/null 2>&1 &); until [ -e {mark} ]; do sleep 0.01; done"


MESSY = f"release: {leave(94741)}\nweb: {leave(94742)}; exec python3 app.py\n"


def count(number: int) -> int:
    """Return how many `sleep`s of that many seconds run on this machine."""
    found = 0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            found += process.status() != psutil.STATUS_ZOMBIE and process.cmdline() == [
                "sleep",
                f"{number}.{os.getpid()}",
            ]
    return found


def test_all_that_an_instance_ever_started_ends_with_it(platform: Platform) -> None:
    """In a session of its own, without the environment, of a check or a command: stopped, destroyed, or down."""
    source = platform.home / "sources-of-the-test" / "messy"
    shutil.copytree(PLAIN, source)
    (source / "Procfile").write_text(MESSY)
    (source / "seaway.toml").write_text(f'[processes.web.health.startup]\ncommand = """{leave(94743)}"""\n')
    for app in ("one", "two"):
        platform.run("apps", "create", app)
        platform.run("deploy", str(source), "-a", app)
    assert (count(94741), count(94742)) == (0, 2)
    assert count(94743) >= 2
    platform.run("ps", "scale", "web=2", "-a", "one")
    assert count(94742) == 3
    platform.run("ps", "scale", "web=1", "-a", "one")
    wait_until(lambda: count(94742) == 2, "what the stopped instance had started is gone")
    done = platform.run("run", "-a", "one", "--", f"{leave(94744)}; exit 3", check=False)
    assert (done.returncode, count(94744)) == (3, 0)
    platform.run("apps", "destroy", "two", "--confirm", "two")
    assert count(94742) == 1
    assert count(94743) >= 1
    platform.kill("node")
    platform.run("down")
    assert [count(number) for number in (94742, 94743)] == [0, 0]

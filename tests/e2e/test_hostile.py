"""An app that tries to get at the others, the platform and the machine; only where Seaway runs as root it must fail."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import psutil
import pytest

from seaway.sandbox.cgroups import Cgroups
from tests.e2e.harness import Platform, wait_until

APPS = Path(__file__).parent / "apps"
SECRET = "only-the-victim-knows-this-4711"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="without root all apps are one user, as `seaway status` says")


def deploy(platform: Platform, name: str, source: str) -> None:
    folder = platform.home / "sources-of-the-test" / name
    shutil.copytree(APPS / source, folder, dirs_exist_ok=True)
    platform.run("apps", "create", name)
    platform.run("config", "set", "-", "-a", name, stdin=f"PASSWORD={SECRET}-of-{name}\n")
    platform.run("deploy", str(folder), "-a", name)


def list_processes(platform: Platform, app: str) -> list[psutil.Process]:
    """Return the app's processes, its leaders among them."""
    return [p for p in platform.processes() if read_environment(p).get("SEAWAY_APP") == app]


def read_environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:  # it has ended
        return {}


def attack(platform: Platform, victim: dict[str, object]) -> dict[str, dict[str, str]]:
    run = platform.home / "run"
    parts = json.loads(platform.run("status", "-o", "json").stdout)["parts"]
    ports = [platform.api_port, platform.http_port]
    targets = {
        "home": str(platform.home),
        "files": [str(platform.home / n) for n in ("admin.token", "router.secret", "seaway.db", "settings.json")],
        "folders": [
            *(str(platform.home / name) for name in (".", "logs", "node/instances", "node/tasks", "node/workloads")),
            victim["folder"],
        ],
        "sockets": [str(path) for path in run.glob("*.sock")],
        "pids": [1, *(part["pid"] for part in parts), *(p.pid for p in list_processes(platform, "victim"))],
        "listening": ports,
        "ports": [victim["port"]],
        "addresses": [f"http://127.0.0.1:{platform.api_port}{path}" for path in ("/apps", "/status", "/events")],
    }
    command = ("run", "-a", "hostile", "--", "python3", "attack.py", json.dumps(targets))
    outcome: dict[str, dict[str, str]] = json.loads(platform.run(*command).stdout.splitlines()[-1])
    return outcome


@pytest.mark.timeout(300)
def test_a_hostile_app_gets_at_nobody(platform: Platform) -> None:
    """Neither at files, environments, sockets, processes or ports of others, nor at the API without a token."""
    deploy(platform, "victim", "plain")
    deploy(platform, "hostile", "hostile")
    victim = platform.read("ps", "list", "-a", "victim")[0]
    folder = platform.home / "node" / "instances" / victim["id"]
    outcome = attack(platform, {"folder": str(folder / "app"), "port": victim["port"]})
    gained = {name for name, why in outcome["tried"].items() if not why}
    if Cgroups.open(platform.home) is None:  # then nothing guards ports: only what listens is safe
        gained -= {f"connect to {victim['port']}"}
    assert gained == set()
    assert len(outcome["tried"]) > 60
    assert {name: why for name, why in outcome["may"].items() if why} == {}
    for process in list_processes(platform, "hostile"):  # what still is root has nothing of the app's choosing
        user, environment = process.uids().real, read_environment(process)
        assert (user == 0) == ("PASSWORD" not in environment), (process, user)
    assert platform.get("victim.localhost")[0] == 200


def test_users_of_apps_are_stable_and_their_own(platform: Platform) -> None:
    """One for each app, the same after a restart, and none is left of an app that is gone."""

    def find_users(app: str) -> set[int]:
        return {p.uids().real for p in list_processes(platform, app)} - {0}

    for name in ("first", "second"):
        deploy(platform, name, "plain")
    first, second = find_users("first"), find_users("second")
    assert len(first) == len(second) == 1
    assert first.isdisjoint(second)
    platform.run("ps", "restart", "-a", "first")
    platform.run("rollouts", "promote", "-a", "first", check=False)
    assert find_users("first") == first
    users = platform.home / "node" / "users.json"
    platform.run("apps", "destroy", "first", "--confirm", "first")
    wait_until(lambda: "app/first" not in json.loads(users.read_text())["ids"], "its user id is let go")
    wait_until(lambda: not (platform.home / "node" / "tmp" / "app" / "first").exists(), "its /tmp is gone")
    deploy(platform, "first", "plain")
    assert find_users("first").isdisjoint(first | second)

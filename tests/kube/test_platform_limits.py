"""What a team's users see of the cluster's limits, with the real command line before the real control plane."""

from __future__ import annotations

import json
import os
import random
import subprocess
import termios
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import SEAWAY, started, wait_until
from tests.kube.fixture import Cluster
from tests.kube.platform import KubePlatform
from tests.kube.test_platform import Shop
from tests.typist import Typist

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def shop(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """One app with one instance that serves, on a platform of two replicas."""
    platform = KubePlatform(cluster, tmp_path_factory.mktemp("limits"), routers=1)
    try:
        platform.up()
        made = Shop(platform)
        (made.folder / "seaway.toml").write_text('[rollout]\nstart_timeout = "45s"\n')
        made.create()
        yield made
    finally:
        platform.down()


def test_run_passes_input_and_ps_shows_a_dash(shop: Shop) -> None:
    """Through API and cluster and back; what no metrics API measures is not shown as 0."""
    (given := shop.platform.folder / "given.bin").write_bytes(content := bytes(range(256)) * 2048)
    with given.open("rb") as file:
        done = shop.platform.run("run", "-i", "-a", shop.name, "--", "sha256sum", stdin=file)
    assert done.stdout.split()[0] == sha256(content).hexdigest()
    (line,) = [w.split() for w in shop.platform.run("ps", "-a", shop.name).stdout.splitlines() if w.startswith("web")]
    (instance,) = shop.platform.read("ps", "-a", shop.name)
    if shop.platform.cluster.lab:  # it has no metrics API
        assert (instance["cpu"], instance["memory"]) == (None, None)
        assert line.count("-") == 2


def test_a_quota_that_is_used_up_is_the_one_sentence_of_why(shop: Shop) -> None:
    """The rollout ends, the old release serves; while it waits, the app and `ps` name what is lacking, too."""
    platform, namespace = shop.platform, f"{shop.platform.prefix}{shop.platform.team}"
    ended = ("Succeeded", "Failed")  # what a one-off leaves; a quota does not count it
    pods = [p for p in platform.cluster.get("-n", namespace, "pods") if p["status"]["phase"] not in ended]
    quota = {
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"},
        "spec": {"hard": {"pods": str(len(pods))}},
    }  # fmt: skip
    platform.cluster.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(quota))
    wait_until(
        lambda: platform.cluster.get("-n", namespace, "resourcequota", "small").get("status", {}).get("used"),
        "the quota is counted",
    )
    lacks = f"quota small lacks pods: 1 asked for, {len(pods)} of {len(pods)} used"
    why = f"v2: 0 of 1 web ready (the cluster refuses its instances: {lacks})"
    platform.run("config", "set", "COUNT=1", "-a", shop.name, "--no-wait")
    wait_until(lambda: platform.read("rollouts", "show", "v2", "-a", shop.name)["status"]["reason"] == why, "why")
    wait_until(lambda: why in platform.run("ps", "-a", shop.name).stderr, "`ps` says why")
    assert platform.read("apps", "info", shop.name)["status"]["reason"].endswith(why)
    wait_until(
        lambda: platform.read("rollouts", "show", "v2", "-a", shop.name)["status"]["phase"] == "failed", "over", 90
    )
    outcome = platform.read("rollouts", "show", "v2", "-a", shop.name)["status"]
    assert outcome["reason"] == f"gave up after 45 s of starting (`start_timeout` of [rollout]): {why}; v1 serves on"
    assert platform.get(f"{shop.name}.localhost")[0] == 200
    found = platform.read("apps", "info", shop.name)["status"]
    assert (found["state"], found["current"], found["traffic"]) == ("serving", 1, {"1": 100})
    platform.cluster.kubectl("-n", namespace, "delete", "resourcequota", "small")


def test_run_passes_every_byte_on_and_the_exit_code(shop: Shop) -> None:
    """More than any buffer holds, both ways; and the rest of an input that a command does not read is for nothing."""
    given, came = shop.platform.folder / "more.bin", shop.platform.folder / "came.bin"
    given.write_bytes(random.Random(5).randbytes(5_000_000))
    assert pipe_through(shop, given, came, "cat; exit 5") == 5
    assert came.read_bytes() == given.read_bytes()
    assert pipe_through(shop, given, came, "head -c 1000; exit 4") == 4
    assert came.read_bytes() == given.read_bytes()[:1000]


def test_logs_have_what_run_printed_and_nothing_else(shop: Shop) -> None:
    """Not the marks with which it ends."""
    done = shop.platform.run("run", "-a", shop.name, "--", "echo one; echo two >&2; printf three")
    assert (done.stdout, done.stderr.endswith("two\n")) == ("one\nthree", True)
    lines = shop.platform.run("logs", "-a", shop.name, "-n", "3", "-o", "json").stdout.splitlines()
    assert sorted(json.loads(line)["message"] for line in lines) == ["one", "three", "two"]


def pipe_through(shop: Shop, given: Path, came: Path, command: str) -> int:
    """Run a command of the app from file to file; return its exit code."""
    env = os.environ | shop.platform.find_env()
    with given.open("rb") as source, came.open("wb") as target:
        words = [str(SEAWAY), "run", "-i", "-a", shop.name, "--", command]
        return subprocess.run(words, env=env, stdin=source, stdout=target, timeout=120).returncode


def test_a_shell_on_a_terminal_outlives_the_leader(shop: Shop) -> None:
    """Typed and answered, in the terminal's size; the exit code is the shell's, and the terminal is as before."""
    platform = shop.platform
    leader = wait_until(platform.find_leader, "a leader")
    (follower,) = (control for control in platform.controls if control is not leader)
    with Typist(platform.find_env(follower), "run", "-a", shop.name, "PS1='> ' exec sh -i") as typist:
        typist.read("> ")
        typist.type("echo $TERM; stty size\r", "vt220\r\n30 100\r\n", "> ")
        typist.type('echo rea""dy; sleep 1000\r', "ready\r\n")
        typist.type("\x03", "> ")
        leader.kill()
        leader.start()
        typist.draw(50, 132)
        typist.type("until [ $(stty size | cut -c1-2) = 50 ]; do sleep 0.1; done; stty size\r", "50 132\r\n", "> ")
        typist.type("echo $((6*7))\r", "42\r\n", "> ")
        typist.type("exit 3\r")
        assert typist.process.wait(60) == 3
        assert termios.tcgetattr(typist.slave) == typist.before
    platform.wait_whole()


def test_a_command_ends_with_who_waits_for_it_and_outlives_the_leader(shop: Shop) -> None:
    """Whichever replica is asked: one that follows passes the stream on."""
    platform = shop.platform
    leader = wait_until(platform.find_leader, "a leader")
    (follower,) = (control for control in platform.controls if control is not leader)

    def is_running() -> bool:
        jobs: list[Any] = platform.cluster.get("-n", f"{platform.prefix}{platform.team}", "jobs")
        return any(job["status"].get("active") for job in jobs)

    words = ("run", "-a", shop.name, "--")
    env, nowhere = platform.find_env(follower), subprocess.DEVNULL
    with started([*words, "echo began; exec sleep 600"], env, subprocess.PIPE, nowhere) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"began\n"  # its Job may run before anybody holds it, who has 20 s for that
        assert is_running()
        killed.kill()
        wait_until(lambda: not is_running(), "its Job goes", 15)
    with started([*words, "echo began; sleep 8; exit 7"], env, subprocess.PIPE, nowhere) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"began\n"
        leader.kill()
        leader.start()
        assert run.wait(60) == 7
        assert run.stdout.read() == b""
    platform.wait_whole()

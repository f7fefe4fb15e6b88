"""The main job end to end, through the real command: nothing is dropped while everything changes or dies."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.depth import choose
from tests.e2e.harness import Platform, wait_until
from tests.load.mix import Mix
from tests.load.process import LoadProcess
from tests.load.report import Kill, Report

PLAIN = Path(__file__).parent / "apps" / "plain"
EXAMPLES = Path(__file__).parents[2] / "examples"


APPS = {
    "shop": ("web: python3 app.py\n", 30, Mix(get=50, post=25, new=15, slow=1, stream=4)),
    "brief": ("web: python3 app.py --idle-close 0.2\n", 8, Mix(get=60, post=40, new=0, slow=0, stream=0)),
    "chat": ("", 4, Mix(get=1, post=0, new=0, slow=0, stream=0, websockets=2)),
}
"""Procfile ("": the WebSocket example), requests a second, and their kinds."""

ROLLOUT = {"shop": "keep = 600", "brief": "keep = 600", "chat": "keep = 600\ndrain = 5"}
"""No rollout ends by itself before it is promoted, cancelled or followed by the next; WebSockets end soon after it."""

LEAST_SECONDS = choose(30, 120)  # every step is taken once in any case


class Team:
    """Three one-instance apps under load, and what is done to all of them at once."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._pool = ThreadPoolExecutor(len(APPS))
        self._count = 0

    def each(self, *command: str) -> None:
        """Run one command for every app, at once."""
        list(self._pool.map(lambda app: self._platform.run(*command, "-a", app), APPS))

    def deploy(self) -> None:
        self._count += 1
        for app in APPS:
            (self._folder(app) / "note.txt").write_text(f"change {self._count}\n")
        list(self._pool.map(lambda app: self._platform.run("deploy", str(self._folder(app)), "-a", app), APPS))

    def configure(self) -> None:
        self._count += 1
        self.each("config", "set", f"COUNT={self._count}")

    def steer(self) -> None:
        """Stop a rollout half-way, let it go on, and cut its keeping short."""
        self._begin()
        for word in ("pause", "resume"):
            self.each("rollouts", word)
        self.each("rollouts", "promote")

    def cancel(self) -> None:
        """Take a rollout back: traffic and config are as they were."""
        self._begin()
        self.each("rollouts", "cancel")

    def _begin(self) -> None:
        self._count += 1
        self.each("config", "set", f"COUNT={self._count}", "--no-wait")

    def prepare(self) -> None:
        for app, (procfile, _, _) in APPS.items():
            shutil.copytree(PLAIN if procfile else EXAMPLES / "websocket", self._folder(app))
            if procfile:
                (self._folder(app) / "Procfile").write_text(procfile)
            with (self._folder(app) / "seaway.toml").open("a") as file:
                file.write(f"\n[rollout]\n{ROLLOUT[app]}\n")
            self._platform.run("apps", "create", app)
        self.deploy()

    def close(self) -> None:
        self._pool.shutdown()

    def _folder(self, app: str) -> Path:
        return self._platform.home / "sources-of-the-test" / app


class Storm:
    """Load on every app at once."""

    def __init__(self, platform: Platform) -> None:
        url = f"http://127.0.0.1:{platform.http_port}"
        self._loads = {
            app: LoadProcess(url, host=f"{app}.localhost", rate=rate, mix=mix) for app, (_, rate, mix) in APPS.items()
        }

    def __enter__(self) -> Storm:
        for load in self._loads.values():
            load.start()
        return self

    def __exit__(self, *_: object) -> None:
        for load in self._loads.values():
            load.__exit__()

    def mark(self, label: str) -> None:
        for load in self._loads.values():
            load.mark(label)

    def stop(self) -> dict[str, Report]:
        return {app: load.stop() for app, load in self._loads.items()}


@pytest.fixture
def team(platform: Platform) -> Iterator[Team]:
    team = Team(platform)
    try:
        yield team
    finally:
        team.close()


@pytest.mark.timeout(600)
def test_changes_and_kills_drop_nothing(platform: Platform, team: Team) -> None:
    """One-instance apps (keep-alive, idle-closing, WebSockets, 5 s requests), two routers; everything is counted."""
    team.prepare()
    kills: list[Kill] = []

    def kill(part: str) -> None:
        if part.startswith("router"):
            kills.append(platform.kill_router(part))
        else:
            platform.kill(part)
        wait_until(platform.is_whole, f"whole after the kill of {part}")

    def kill_while(part: str, change: Callable[[], None]) -> None:
        """Kill a part once every app has its new release: the rollouts are under way."""
        before = {app: len(platform.read("releases", "list", "-a", app)) for app in APPS}
        with ThreadPoolExecutor(1) as pool:
            changing = pool.submit(change)
            for app, count in before.items():
                wait_until(
                    lambda app=app, count=count: len(platform.read("releases", "list", "-a", app)) > count,  # type: ignore[misc]
                    f"a new release of {app}",
                )
            kill(part)
            changing.result()

    steps: list[tuple[str, Callable[[], None]]] = [
        ("deploy", team.deploy),
        ("config", team.configure),
        ("scale up", lambda: team.each("ps", "scale", "web=2")),
        ("scale down", lambda: team.each("ps", "scale", "web=1")),
        ("rollback", lambda: team.each("rollback")),
        ("kill control", lambda: kill("control")),
        ("kill node", lambda: kill("node")),
        ("kill supervisor", lambda: kill("supervisor")),
        ("kill router-1", lambda: kill("router-1")),
        ("config while control dies", lambda: kill_while("control", team.configure)),
        ("deploy while node dies", lambda: kill_while("node", team.deploy)),
        ("pause, resume, promote", team.steer),
        ("cancel", team.cancel),
        ("restart", lambda: team.each("ps", "restart")),
    ]
    began = time.monotonic()
    with Storm(platform) as storm:
        for number, (label, act) in enumerate(itertools.cycle(steps)):
            if number >= len(steps) and time.monotonic() - began > LEAST_SECONDS:
                break
            storm.mark(label)
            act()
        reports = storm.stop()
    for app, report in reports.items():
        print(f"{app}: {report.ended_at - report.started_at:.0f} s\n{report.describe()}")
    for report in reports.values():
        assert report.ended_at - report.started_at >= LEAST_SECONDS
        report.assert_clean(kills, least=LEAST_SECONDS)
        assert len(report.total.releases) >= 5, "releases served one after another"
    assert reports["chat"].kinds["ws"].sent > LEAST_SECONDS
    assert reports["chat"].websockets_closed, "rollouts end WebSockets in order"


@pytest.mark.timeout(300)
def test_a_release_that_never_gets_ready_leaves_the_old_one_serving(platform: Platform) -> None:
    """A deploy that exits at once fails with exit code 1 and says why; down and up bring the old one back."""
    source = platform.home / "source"
    shutil.copytree(PLAIN, source)
    platform.run("apps", "create", "shop")
    platform.run("deploy", str(source), "-a", "shop")
    bad = platform.home / "bad"
    bad.mkdir()
    (bad / "Procfile").write_text("web: echo cannot go on >&2; exit 3\n")
    done = platform.run("deploy", str(bad), "-a", "shop", check=False)
    assert done.returncode == 1
    assert "cannot go on" in done.stdout + done.stderr
    assert platform.read("apps", "info", "shop")["status"]["current"] == 1
    platform.run("down")
    assert not platform.processes()
    platform.up()

    wait_until(lambda: platform.get("shop.localhost")[0] == 200, "the app serves again")

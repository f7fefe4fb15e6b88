"""The main job on a cluster: nothing is dropped while apps change and Seaway's own parts die."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.depth import choose
from tests.e2e.harness import wait_until
from tests.kube.fixture import Cluster
from tests.kube.platform import KubePlatform
from tests.load.mix import Mix
from tests.load.process import LoadProcess
from tests.load.report import Kill

PLAIN = Path(__file__).parents[1] / "e2e" / "apps" / "plain"
MIX = Mix(get=50, post=25, new=15, slow=1, stream=4, websockets=0)
RATE = 30.0
LEAST_SECONDS = choose(30, 120)  # every step is taken once in any case


@pytest.fixture
def platform(cluster: Cluster, tmp_path: Path) -> Iterator[KubePlatform]:
    """Two replicas of the control plane and two routers."""
    platform = KubePlatform(cluster, tmp_path)
    try:
        platform.up()
        yield platform
    finally:
        platform.down()


class Shop:
    """One app of the test, and what is done to it."""

    def __init__(self, platform: KubePlatform) -> None:
        self.platform = platform
        self._count = 0
        self.name = "shop"
        self.folder = platform.folder / "source"
        shutil.copytree(PLAIN, self.folder)
        (self.folder / "Procfile").write_text("web: python3 app.py --bind 0.0.0.0\n")

    def create(self, instances: int = 1) -> None:
        """Create and deploy it."""
        self.platform.run("apps", "create", self.name, "--team", self.platform.team)
        self.deploy()
        if instances > 1:
            self.run("ps", "scale", f"web={instances}")

    def run(self, *words: str) -> None:
        """Run a command for it."""
        self.platform.run(*words, "-a", self.name)

    def deploy(self) -> None:
        """Deploy a change."""
        self._count += 1
        (self.folder / "note.txt").write_text(f"change {self._count}\n")
        self.platform.run("deploy", str(self.folder), "-a", self.name)

    def configure(self) -> None:
        """Change its config."""
        self._count += 1
        self.run("config", "set", f"COUNT={self._count}")

    def load(self, rate: float = RATE, mix: Mix = MIX) -> LoadProcess:
        """Return load on it."""
        url = f"http://127.0.0.1:{self.platform.http_port}"
        return LoadProcess(url, host=f"{self.name}.localhost", rate=rate, mix=mix)


@pytest.fixture
def shop(platform: KubePlatform) -> Shop:
    return Shop(platform)


@pytest.mark.timeout(600)
def test_changes_and_kills_drop_nothing(platform: KubePlatform, shop: Shop) -> None:
    """A one-instance app on three nodes behind two routers; every response is counted."""
    shop.create()
    kills: list[Kill] = []

    def kill_leader(change: Callable[[], None]) -> None:
        leader = wait_until(platform.find_leader, "somebody leads")
        platform.front = next(control for control in platform.controls if control is not leader)
        releases = len(platform.read("releases", "list", "-a", shop.name))
        with ThreadPoolExecutor(1) as pool:
            changing = pool.submit(change)
            wait_until(lambda: len(platform.read("releases", "list", "-a", shop.name)) > releases, "a new release")
            leader.kill()
            wait_until(lambda: platform.find_leader() not in (None, leader), "the other replica leads")
            changing.result()
        leader.start()
        platform.wait_whole()

    def kill_router() -> None:
        kills.append(platform.kill_router(platform.routers[1]))
        platform.wait_whole()

    def kill_all() -> None:
        for control in platform.controls:
            control.kill()
        kills.append(platform.kill_router(platform.routers[0]))
        for control in platform.controls:
            control.start()
        platform.wait_whole()

    steps: list[tuple[str, Callable[[], None]]] = [
        ("deploy", shop.deploy),
        ("config", shop.configure),
        ("scale up", lambda: shop.run("ps", "scale", "web=3")),
        ("scale down", lambda: shop.run("ps", "scale", "web=1")),
        ("rollback", lambda: shop.run("rollback")),
        ("the leader dies in a config change", lambda: kill_leader(shop.configure)),
        ("a router dies", kill_router),
        ("every control plane dies, a router restarts", kill_all),
        ("restart", lambda: shop.run("ps", "restart")),
    ]
    began = time.monotonic()
    with shop.load() as load:
        for number, (label, act) in enumerate(itertools.cycle(steps)):
            if number >= len(steps) and time.monotonic() - began > LEAST_SECONDS:
                break
            load.mark(label)
            act()
        report = load.stop()
    print(report.describe())
    assert report.ended_at - report.started_at >= LEAST_SECONDS
    report.assert_clean(kills, least=LEAST_SECONDS)
    assert len(report.total.releases) >= 5, "releases served one after another"

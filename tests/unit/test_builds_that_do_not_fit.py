"""A build whose release does not fit makes none, and says so; a forced one makes it, and says that."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from seaway.api.auth import make_secret, new_token
from seaway.builder.process import SubprocessBuilder
from seaway.control.builds import BuildRunner
from seaway.control.capacity import CapacityJudge
from seaway.engine.base import EngineUnavailable
from seaway.engine.memory import MemoryEngine
from seaway.home import Home
from seaway.model import (
    App,
    Build,
    BuildManifest,
    BuildSpec,
    BuildState,
    BuildStatus,
    EventSpec,
    Meta,
    Node,
    Process,
    Quotas,
    Release,
    Role,
    Source,
)
from seaway.store.memory import MemoryStore

NOW = datetime(2030, 1, 1, tzinfo=UTC)
MIB = 1 << 20


class Yard:
    """A build runner that judges by what a node in memory has left: 100 MiB, and 64 are expected of each instance."""

    def __init__(self, root: Path) -> None:
        self.store, self.engine, home = MemoryStore(), MemoryEngine(), Home(root).create()
        self.engine.nodes = {"n1": Node(name="n1", ready=True, available=100 * MIB)}
        self.told: list[EventSpec] = []
        judge = CapacityJudge(self.store, self.engine.observe, Quotas())

        async def check(app: App, release: Release, force: bool) -> str:
            return await judge.check_release(app, release, deploy=True, force=force)

        self.runner = BuildRunner(
            self.store, SubprocessBuilder(home), home, clock=lambda: NOW, tell=self._tell, check=check
        )

    async def _tell(self, event: EventSpec, team: str) -> None:
        self.told.append(event)

    async def finish(self, *names: str, force: bool = False, by: str = "unknown") -> Build:
        """Let the runner find a build that has just succeeded, of an app with web=2; return what became of it."""
        app = await self.store.create(App(meta=Meta(name="shop")))
        processes = {name: Process(command="run") for name in ("web", *names)}
        manifest = BuildManifest(processes=processes, scale={"web": 2})
        status = BuildStatus(
            state=BuildState.SUCCEEDED, reason="built 1234", ended_at=NOW, image="sha256:1", manifest=manifest
        )
        spec = BuildSpec(app="shop", number=1, source=Source(archive="0" * 64), force=force, by=by)
        meta = Meta(name="shop.b1", labels={"app": "shop"})
        await self.store.create(Build(meta=meta, spec=spec, status=status))
        await self.runner.reconcile(app)
        return await self.store.get(Build, "shop.b1")


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


async def test_a_build_whose_release_does_not_fit_makes_none(yard: Yard) -> None:
    """It says what would fit; so does an event."""
    build = await yard.finish()
    assert build.status.release == 0
    assert build.status.reason.startswith("web=2 does not fit: 1 fits (each is expected to take 64 MiB; 100 MiB are")
    assert build.status.reason.endswith("(`seaway ps scale`, or [scale] in seaway.toml), or ask an admin to force it")
    assert [event.message for event in yard.told if event.reason == "ReleaseRefused"] == [build.status.reason]
    assert (await yard.store.list(Release)).documents == ()


@pytest.mark.parametrize(
    ("role", "hint"), [(Role.ADMIN, "or give --force"), (Role.DEVELOPER, "or ask an admin to force it")]
)
async def test_only_an_admin_is_told_of_force(yard: Yard, role: Role, hint: str) -> None:
    """By the token that asked for the build."""
    await yard.store.create(new_token("ann", make_secret(), role, team=None, created_by="test"))
    build = await yard.finish(by="ann")
    assert build.status.reason.endswith(f", {hint}")


async def test_a_forced_build_makes_its_release(yard: Yard) -> None:
    """And its reason says that it was."""
    build = await yard.finish(force=True)
    assert build.status.release == 1
    assert build.status.reason.startswith("built 1234. Forced: web=2 does not fit: 1 fits")
    assert "Note: " not in build.status.reason


async def test_a_build_tells_what_its_release_does_not_start(yard: Yard) -> None:
    """For those who do not wait for the release; what is not started needs no room."""
    yard.engine.nodes = {"n1": Node(name="n1", ready=True, available=130 * MIB)}
    note = "worker is not started: nobody has said how many; `seaway ps scale worker=1 -a shop`"
    assert (await yard.finish("worker")).status.reason == f"built 1234. Note: {note}."


async def test_a_release_waits_until_the_engine_says_what_there_is(yard: Yard) -> None:
    """It is neither made nor refused on a guess."""
    yard.engine.available = False
    with pytest.raises(EngineUnavailable):
        await yard.finish()
    yard.engine.available = True
    yard.engine.nodes = {"n1": Node(name="n1", ready=True, available=1000 * MIB)}
    await yard.runner.reconcile(await yard.store.get(App, "shop"))
    assert (await yard.store.get(Build, "shop.b1")).status.release == 1

"""A stage for stories of rollouts: the product's own decisions over a platform in memory, and what is told of it.

Time goes by a second a pass. Everything that changes is written down: what users ask for, what the engine is told, the
steps of each rollout with their reasons, the traffic, and what the app says of itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby, pairwise
from typing import Any

from seaway.control.reconcile import Reconciler
from seaway.model import (
    App,
    AppSpec,
    BuildManifest,
    Instance,
    Meta,
    Phase,
    Process,
    Release,
    Rollout,
    RolloutPolicy,
    Strategy,
    Task,
    Workload,
    WorkloadKey,
)
from seaway.rollout.releases import Change, ImageChange, Rollback, compose_release
from seaway.store.base import NotFound
from seaway.store.memory import MemoryStore
from tests.property.world import START, World

NAME = "shop"
LIMIT = 2000  # seconds in which whatever is waited for has to be true
WIDTH = 8  # of the column with the time


class Platform(World):
    """A calm world that says what it is told to do."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(0, hostile=False)
        self.calm = True
        self.failing = False  # release commands
        self.lasts = False  # they do not end
        self._say = say

    async def apply(self, workload: Workload) -> None:
        """Say how many are wanted; those that are to go are said by `stop`."""
        before = self.workloads.get(workload.key)
        if before is None or before.count != workload.count:
            self._say(f"engine     run {name_workload(workload.key)} x{workload.count}")
        await super().apply(workload)

    def stop(self, instance: Instance, reason: str) -> None:
        """Say which one, and why."""
        self._say(f"engine     stop {instance.id}: {reason}")
        super().stop(instance, reason)

    async def start_task(self, task: Task) -> None:
        """Say which command."""
        if task.id not in self.tasks:
            self._say(f"engine     run once, of v{task.release}: {task.command}")
        await super().start_task(task)

    def run_task(self, task: Task) -> int | None:
        """A release command succeeds, or not."""
        return None if self.lasts else 1 if self.failing else super().run_task(task)


class Stage:
    """One app, `shop`, and everybody who has to do with it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.world = Platform(self._note)
        self.store = MemoryStore()
        self._reconciler = Reconciler(
            self.store, self.world, self.world, clock=lambda: self.world.now, tell=self.world.tell
        )
        self._noted: list[str] = []
        self._shown: dict[str, str] = {}

    async def open(self) -> None:
        """Make the app."""
        await self.store.create(App(meta=Meta(name=NAME), spec=AppSpec()))

    # What users do
    async def deploy(self, said: str = "", **manifest: Any) -> None:
        """Deploy another image: `said` is a remark on it, `manifest` what its files say."""
        processes = manifest.pop("processes", {"web": Process(command="web")})
        rollout = RolloutPolicy(**manifest.pop("rollout", {}))
        made = BuildManifest(processes=processes, rollout=rollout, **manifest)
        await self._release("deploy", ImageChange(f"sha256:{await self._count():064d}", made), said)

    async def rollback(self) -> None:
        """Go back to what served before."""
        await self._release("rollback", Rollback())

    async def scale(self, **counts: int) -> None:
        """Ask for so many of each process."""
        self._ask("ps scale " + " ".join(f"{name}={count}" for name, count in counts.items()))
        await self._change_app(scale=counts)

    async def destroy(self) -> None:
        """Ask for the end of it all."""
        self._ask("apps destroy")
        await self._change_app(destroy=True)

    async def ask(self, word: str, release: int = 0, **flags: bool) -> None:
        """Cancel, promote, pause or resume the rollout of a release, or else the one under way."""
        self._ask(f"rollouts {word}" + (f" v{release}" if release else ""))
        rollout = next(r for r in await self._rollouts() if not r.ended and release in (0, r.spec.target))
        await self.store.update(rollout.model_copy(update={"spec": rollout.spec.model_copy(update=flags)}))

    # What happens
    def happen(self, what: str) -> None:
        """Say that something happens that the test is about to do to the world."""
        self.lines.append(f"{self._time()}! {what}")

    def crash_for_ever(self, release: int, times: int = 1) -> None:
        """Let what runs of a release crash now, so many times, and each time that it is started again."""
        self.world.bad_releases.add(release)
        self.world.disturbed = True
        for instance in [i for i in self.world.instances.values() if i.key.release == release]:
            self.happen(f"{instance.id} crashes{f' {times} times' * (times > 1)}, and whenever it is started again")
            self.world.crash(instance.id, 1, times)

    async def run(self, seconds: int) -> None:
        """Let time go by."""
        for _ in range(seconds):
            await self._pass()

    async def until(self, phase: Phase, release: int) -> None:
        """Let time go by until the rollout of a release is in a phase."""
        for _ in range(LIMIT):
            found = [r for r in await self._rollouts() if r.spec.target == release]
            if found and found[0].status.phase is phase:
                return
            await self._pass()
        raise AssertionError("\n".join(self.lines))

    async def until_end(self, release: int) -> None:
        """Let time go by until the rollout of a release has ended, and a little longer: what is left never rests."""
        for _ in range(LIMIT):
            await self._pass()
            if any(r.spec.target == release and r.ended for r in await self._rollouts()):
                return await self.run(5)
        raise AssertionError("\n".join(self.lines))

    async def until_rest(self) -> None:
        """Let time go by until every rollout has ended, nothing drains, and nothing has changed for a while."""
        quiet = 0
        for _ in range(LIMIT):
            said = len(self.lines)
            await self._pass()
            moving = [rollout for rollout in await self._rollouts() if not rollout.ended] or self._shown.get("drains")
            quiet = quiet + 1 if len(self.lines) == said and not moving else 0
            if quiet > 3:
                return
        raise AssertionError("\n".join(self.lines))

    async def steps(self) -> list[tuple[Phase, Phase]]:
        """Return every edge that a rollout took."""
        found: list[tuple[Phase, Phase]] = []
        for rollout in await self._rollouts():
            phases = [Phase.QUEUED, *(step.phase for step in rollout.status.history)]
            found += pairwise(phases)
        return found

    async def _pass(self) -> None:
        before = {r.name: r.status for r in await self._rollouts()}
        self._noted = []
        await self._reconciler.reconcile(NAME)
        told, self._noted = self._noted, []
        for rollout in await self._rollouts():
            for step in rollout.status.history[len(before[rollout.name].history) if rollout.name in before else 0 :]:
                told.append(f"v{rollout.spec.target:<9} {step.phase}: {step.reason}")
        told += await self._show_app()
        for line in told:
            self.lines.append(self._time() + line)
        assert not self.world.violations, self.world.violations
        self.world.step()

    async def _show_app(self) -> list[str]:
        """Return what is other than before: instances, traffic, and what the app says of itself."""
        try:
            app = await self.store.get(App, NAME)
        except NotFound:
            self._shown["drains"] = ""
            return self._show("app", "gone")
        traffic = ", ".join(f"v{release} {weight} %" for release, weight in sorted(app.status.traffic.items()))
        return [
            *self._show("instances", describe_instances(self.world.instances)),
            *self._show("traffic", traffic),
            *self._show("drains", ", ".join(sorted(app.status.drains))),
            *self._show("app", f"{app.status.state}: {app.status.reason}" if app.status.reason else app.status.state),
        ]

    def _show(self, what: str, now: str) -> list[str]:
        if self._shown.get(what, "") == now:
            return []
        self._shown[what] = now
        return [f"{what:<10} {now or 'none'}"]

    async def _release(self, said: str, change: Change, remark: str = "") -> None:
        app = await self.store.get(App, NAME)
        releases = (await self.store.list(Release)).documents
        made = compose_release(app, releases, await self._rollouts(), change, "a user")
        self._ask(f"{said}: v{made.spec.number}" + (f", {remark}" if remark else ""))
        await self.store.create(made)
        if made.spec.rollout.strategy is Strategy.RECREATE:
            self.world.exclusive_releases.add(made.spec.number)

    async def _change_app(self, **spec: Any) -> None:
        app = await self.store.get(App, NAME)
        await self.store.update(app.model_copy(update={"spec": app.spec.model_copy(update=spec)}))

    async def _rollouts(self) -> tuple[Rollout, ...]:
        return (await self.store.list(Rollout)).documents

    async def _count(self) -> int:
        return len((await self.store.list(Release)).documents)

    def _ask(self, words: str) -> None:
        self.lines.append(f"{self._time()}> {words}")

    def _note(self, line: str) -> None:
        self._noted.append(line)

    def _time(self) -> str:
        seconds = (self.world.now - START).total_seconds()
        return f"{f'{seconds:.0f} s':>{WIDTH - 2}}  "


def name_workload(key: WorkloadKey) -> str:
    return f"v{key.release}.{key.process}"


def describe_instances(instances: Mapping[str, Instance]) -> str:
    """Return for instance "v1.web 2 running, v2.web 1 starting"; stopped ones are none any more."""
    states = sorted((name_workload(i.key), i.state.value) for i in instances.values() if i.state != "stopped")
    return ", ".join(f"{name} {len(list(same))} {state}" for (name, state), same in groupby(states))

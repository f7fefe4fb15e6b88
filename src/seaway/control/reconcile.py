"""One pass over one app: load facts, publish what they amount to, decide, apply. No memory between passes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from seaway.control.incidents import Incidents
from seaway.control.ports import Routes
from seaway.engine.base import Engine, EngineError, EngineUnavailable
from seaway.model import App, Build, EventSpec, Observation, Release, Rollout
from seaway.rollout.decide import decide, tell_again
from seaway.rollout.facts import Facts, Plan
from seaway.rollout.wanted import choose_traffic
from seaway.store.base import AlreadyExists, NotFound, Store

log = structlog.get_logger()

Observe = Callable[[], Awaitable[Observation]]
Tell = Callable[[EventSpec, str], Awaitable[None]]
"""Records an event of a team's app; the same one twice is one."""

TELL_AGAIN = timedelta(days=1)  # an older event may have been trimmed since: it is not missing


class Reconciler:
    """Brings one app at a time from what is to what is wanted."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        routes: Routes,
        *,
        clock: Callable[[], datetime],
        tell: Tell,
        observe: Observe | None = None,
        may_act: Callable[[], bool] = lambda: True,
        forget: Callable[[str], Awaitable[None]] | None = None,
        find_host: Callable[[str], str] = lambda _: "",
    ) -> None:
        """`may_act` False: a pass only publishes routes (another replica of the control plane acts).

        `forget` ends the builds of an app that is deleted, and removes what they left. `find_host` returns an app's own
        host.
        """
        self._store = store
        self._engine = engine
        self._routes = routes
        self._clock = clock
        self._tell = tell
        self._observe = observe or engine.observe
        self._may_act = may_act
        self._forget = forget
        self._find_host = find_host
        self._incidents = Incidents(store, tell)
        self._told: set[str] = set()  # apps of which no event can be missing: the last pass told all of its own

    async def reconcile(self, name: str) -> datetime | None:
        """Do one pass; return when to look again (None: when something changes).

        Raises Conflict if another writer was faster and Unavailable if the store is away: call again. Raises
        Unreadable if a document of the app does not fit: nothing is decided then, as what it asks for is unknown.
        """
        try:
            app = await self._store.get(App, name)
        except NotFound:
            self._routes.withdraw(name)
            self._incidents.forget(name)
            self._told.discard(name)
            return None
        facts, rollouts = await self._load(app)
        if not self._may_act():
            return None
        if name not in self._told:
            await self._tell_again(facts)
        self._told.discard(name)
        plan = decide(facts)
        await self._act(plan)
        await self._record(app, rollouts, plan)
        self._told.add(name)
        await self._incidents.note(facts)
        return plan.look_again

    async def _tell_again(self, facts: Facts) -> None:
        """Tell what a pass that broke off may not have told; what has been told stays one event."""
        for event in tell_again(facts.app.name, facts.rollouts):
            if facts.now - event.at < TELL_AGAIN:
                await self._tell(event, facts.app.spec.team)

    async def _load(self, app: App) -> tuple[Facts, dict[str, Rollout]]:
        labels = {"app": app.name}
        releases = {r.spec.number: r for r in (await self._store.list(Release, labels)).whole()}
        rollouts = (await self._store.list(Rollout, labels)).whole()
        try:
            observation, observed = await self._observe(), True
        except EngineUnavailable as error:
            log.warning("the engine does not answer", app=app.name, error=str(error))
            observation, observed = Observation(), False
        mine = observation.part(app.name)
        now = self._clock()
        facts = Facts(
            now=now,
            app=app,
            releases={number: release.spec for number, release in releases.items()},
            rollouts=rollouts,
            observed=observed,
            instances=tuple(mine.instances),
            workloads=tuple(mine.workloads),
            tasks=mine.tasks,
            outage=observation.outage,
            refused=mine.refused,
            host=self._find_host(app.name),
        )
        if observed:
            traffic = choose_traffic(facts)
            routed = app.model_copy(update={"status": app.status.model_copy(update={"traffic": traffic})})
            facts = replace(facts, routers=self._routes.publish(routed, releases, mine.instances, now))
        return facts, {rollout.name: rollout for rollout in rollouts}

    async def _act(self, plan: Plan) -> None:
        """Tell the engine. What fails now is wanted again at the next pass."""
        try:
            for workload in plan.apply:
                await self._engine.apply(workload)
            for key in plan.remove:
                await self._engine.remove(key)
            for task in plan.start_tasks:
                await self._engine.start_task(task)
            for task_id in plan.remove_tasks:
                await self._engine.remove_task(task_id)
        except EngineError as error:
            log.warning("the engine refused", error=str(error))

    async def _record(self, app: App, rollouts: dict[str, Rollout], plan: Plan) -> None:
        """Write documents: each write is a compare-and-swap on what the plan was made from."""
        for rollout in plan.create_rollouts:
            try:
                await self._store.create(rollout)
            except AlreadyExists:
                log.debug("rollout exists", rollout=rollout.name)
        for name, status in plan.rollout_status.items():
            await self._store.update(rollouts[name].model_copy(update={"status": status}))
        if plan.app_status is not None:
            await self._store.update(app.model_copy(update={"status": plan.app_status}))
        for event in plan.events:
            await self._tell(event, app.spec.team)
        if plan.delete:
            await self._delete(app)

    async def _delete(self, app: App) -> None:
        """Delete everything of the app; the app itself last, so that a crash in between goes on."""
        for kind in (Build, Rollout, Release):
            for document in (await self._store.list(kind, {"app": app.name})).documents:
                try:
                    await self._store.delete(kind, document.name)
                except NotFound:
                    log.debug("gone already", document=document.name)
        if self._forget is not None:
            await self._forget(app.name)
        self._routes.withdraw(app.name)
        await self._store.delete(App, app.name)

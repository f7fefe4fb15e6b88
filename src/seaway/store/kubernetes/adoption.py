"""Apps that somebody applied with kubectl or a GitOps tool become like those that the API makes.

An App in the cluster counts once it carries Seaway's finalizer, and of its routes only those that its annotation
names. The API writes both itself, after its own checks; for everybody else the adopter does, after the same checks:
label of the team, finalizer, routes. What does not pass stays as it was written, without effect, and the condition
Accepted says why in one sentence. One adopter at a time: the control loop's leader runs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog

from seaway.kube import errors
from seaway.kube.cache import Cache
from seaway.kube.kinds import FINALIZER, KUBE_KINDS
from seaway.model import App, AppStatus, Meta, Route
from seaway.store.base import StoreError
from seaway.store.events import record_event
from seaway.store.kubernetes.documents import (
    CONDITIONS,
    PREFIX,
    ROUTES_ANNOTATION,
    Resource,
    Unfit,
    decode,
    decode_routes,
    encode_routes,
    encode_status,
    split_routes,
)
from seaway.store.kubernetes.store import KubernetesStore

log = structlog.get_logger(__name__)

MERGE = "application/merge-patch+json"
SWEEP = 3600.0  # seconds between looks for Secrets that belong to no release
AGAIN = 10.0  # seconds after which what was not accepted is judged again


@dataclass(frozen=True)
class Verdict:
    """What speaks against an app: against all of it (`why`), or against single routes of it."""

    why: str = ""
    refused: dict[Route, str] = field(default_factory=dict)


Judge = Callable[[App, tuple[Route, ...]], Awaitable[Verdict]]
"""Says what speaks against an app with these routes; see seaway.api.claims."""


class Adopter:
    """Accepts or refuses what is applied to the cluster."""

    def __init__(self, store: KubernetesStore, judge: Judge, *, again: float = AGAIN) -> None:
        self._store = store
        self._judge = judge
        self._again = again
        self._pending: dict[str, Resource] = {}

    async def run(self) -> None:
        """Look at every app now and whenever it changes, until cancelled."""
        cache = Cache(self._store.client, self._store.collection(App))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._try_again(cache), name="adopt-again")
            group.create_task(self._sweep(), name="sweep")
            async with aclosing(cache.run()) as deltas:
                async for delta in deltas:
                    for resource in delta.put:
                        await self._look(resource)
                    for resource in delta.gone:
                        self._pending.pop(resource.metadata.name, None)

    async def _try_again(self, cache: Cache[Resource]) -> None:
        """What one app was refused may have become free."""
        while True:
            await asyncio.sleep(self._again)
            for name in list(self._pending):
                if found := cache.objects.get((self._store.namespace, name)):
                    await self._look(found)

    async def _sweep(self) -> None:
        while True:
            try:
                if gone := await self._store.sweep():
                    log.info("removed Secrets of releases that were never finished", count=gone)
            except (errors.KubeError, StoreError) as error:
                log.warning("Secrets could not be looked through", error=str(error))
            await asyncio.sleep(SWEEP)

    async def _look(self, resource: Resource) -> None:
        name = resource.metadata.name
        if resource.metadata.deletion_timestamp is not None:
            self._pending.pop(name, None)
            return
        try:
            accepted = await self._adopt(resource)
        except (errors.Conflict, errors.NotFound):
            return  # it has changed: the watch tells
        except (errors.KubeError, StoreError) as error:
            log.warning("an app could not be adopted; it will be tried again", app=name, error=str(error))
            accepted = False
        if accepted:
            self._pending.pop(name, None)
        else:
            self._pending[name] = resource

    async def _adopt(self, resource: Resource) -> bool:
        """Judge one app and write down what comes of it; return whether all of it was accepted."""
        written = tuple(side for sides in split_routes(resource) for side in sides)
        try:
            app = decode(App, resource)
            routes = tuple(Route.model_validate(route) for route in written)
            verdict = await self._judge(app, routes)
        except Unfit as error:
            app, routes, verdict = App(meta=_meta(resource)), (), Verdict(str(error))
        if not verdict.why:
            resource = await self._accept(resource, app, [route for route in routes if route not in verdict.refused])
        problem = verdict.why or " ".join(verdict.refused.values())
        reason = "Accepted" if not problem else "RoutesRefused" if not verdict.why else "Refused"
        await self._tell(resource, reason, problem or "Seaway runs it.")
        return not problem

    async def _accept(self, resource: Resource, app: App, routes: list[Route]) -> Resource:
        """Write team label, finalizer and routes, unless they are there."""
        metadata = resource.metadata
        team = app.spec.team
        new = FINALIZER not in metadata.finalizers
        current = decode_routes(metadata) == {str(route) for route in routes}
        if not new and current and metadata.labels.get(f"{PREFIX}team") == team:
            return resource
        patch = {
            "resourceVersion": metadata.resource_version,
            "labels": {f"{PREFIX}team": team},
            "finalizers": [*metadata.finalizers, *([FINALIZER] if new else [])],
            "annotations": {ROUTES_ANNOTATION: encode_routes(routes)},
        }
        changed = await self._patch(resource, {"metadata": patch})
        if new:
            by = metadata.managed_fields[0].manager if metadata.managed_fields else "kubernetes"
            message = f"Applied to the cluster for the team {team}."
            await record_event(
                self._store, about=f"app {app.name}", reason="AppCreated", message=message, app=app.name, team=team,
                by=by,
            )  # fmt: skip
        return changed

    async def _tell(self, resource: Resource, reason: str, message: str) -> None:
        """Set the condition Accepted, and the status that a new app has, if they are not there."""
        truth = "True" if reason == "Accepted" else "False"
        old: dict[str, Any] = next((c for c in resource.status.get(CONDITIONS, []) if c["type"] == "Accepted"), {})
        same = (old.get("reason"), old.get("message")) == (reason, message)
        if same and old.get("observedGeneration") == resource.metadata.generation and "state" in resource.status:
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        since = old["lastTransitionTime"] if old.get("status") == truth else now
        condition = {
            "type": "Accepted", "status": truth, "reason": reason, "message": message, "lastTransitionTime": since,
            "observedGeneration": resource.metadata.generation,
        }  # fmt: skip
        status: dict[str, Any] = {CONDITIONS: [condition]}
        if "state" not in resource.status:
            status |= encode_status(App(meta=_meta(resource), status=AppStatus()))
        version = resource.metadata.resource_version
        await self._patch(resource, {"metadata": {"resourceVersion": version}, "status": status}, "/status")

    async def _patch(self, resource: Resource, body: dict[str, Any], subresource: str = "") -> Resource:
        path = f"{KUBE_KINDS[App].path(self._store.namespace)}/{resource.metadata.name}{subresource}"
        return self._store.decode_resource(
            await self._store.client.request("PATCH", path, body=body, content_type=MERGE)
        )


def _meta(resource: Resource) -> Meta:
    return Meta(name=resource.metadata.name)

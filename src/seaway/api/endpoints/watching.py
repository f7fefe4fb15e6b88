"""Streams of what changes: documents of an app, and events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from seaway.api.auth import Caller
from seaway.api.context import Deps, Viewer, VisibleApp, load_app
from seaway.api.deps import ApiDeps
from seaway.api.streams import STREAM, Stream, event, server_sent
from seaway.api.views import view_build, view_release
from seaway.model import App, Build, BuildState, Document, Event, Release, Rollout

router = APIRouter()

UNBUILT = frozenset({BuildState.QUEUED, BuildState.RUNNING})
MOST_EVENTS = 10_000


@router.get(
    "/apps/{app}/watch",
    summary="Follow the changes of an app, its builds, releases and rollouts",
    response_class=Stream,
    responses=STREAM,
    tags=["apps"],
)
async def watch_app(
    app: VisibleApp,
    deps: Deps,
    request: Request,
    since: Annotated[
        int | None, Query(ge=0, le=2**62, description="revision to go on from: the id of the last event seen")
    ] = None,
) -> Stream:
    """Events are named app, build, release and rollout, with data {"type", "revision", "document"}.

    Without `since` it begins with the app as it is now, and its builds and rollouts that have not ended. It ends
    when the app is gone.
    """
    return server_sent(request, _watch_app(deps, app.name, since))


async def _watch_app(deps: ApiDeps, name: str, since: int | None) -> AsyncGenerator[bytes, None]:
    position = since
    if position is None:
        apps = await deps.store.list(App)
        position = apps.revision
        builds = (await deps.store.list(Build, {"app": name})).documents
        rollouts = (await deps.store.list(Rollout, {"app": name})).documents
        begin: list[Document] = [app for app in apps.documents if app.name == name]
        begin += [build for build in builds if build.status.state in UNBUILT]
        begin += [rollout for rollout in rollouts if not rollout.ended]
        for document in begin:
            if document.meta.revision <= position:  # the watch tells of later ones
                yield _tell("put", document.meta.revision, document)
    async with aclosing(deps.store.watch((App, Build, Release, Rollout), position)) as changes:
        async for seen in changes:
            if _owner(seen.document) == name:
                yield _tell(seen.type, seen.revision, seen.document)
                if isinstance(seen.document, App) and seen.type == "deleted":
                    return


def _owner(document: Document) -> str:
    return document.spec.app if isinstance(document, Build | Release | Rollout) else document.name


def _tell(type_: str, revision: int, document: Document) -> bytes:
    if isinstance(document, Release):
        document = view_release(document)
    elif isinstance(document, Build):
        document = view_build(document)
    data = {"type": type_, "revision": revision, "document": document.model_dump(mode="json")}
    return event(data, document.kind.lower(), revision)


@router.get(
    "/events",
    summary="What happened, why, and who or what did it",
    response_model=list[Event],
    responses=STREAM,
    tags=["platform"],
)
async def list_events(
    deps: Deps,
    caller: Viewer,
    request: Request,
    app: Annotated[str | None, Query(max_length=200, description="only of this app")] = None,
    n: Annotated[int, Query(ge=0, le=MOST_EVENTS, description="how many, the latest")] = 100,
    follow: Annotated[bool, Query(description="answer with server-sent events, and go on")] = False,
) -> Any:
    """Oldest first. Following, each event's data is an event document.

    Those of one app are its own, not those of an app that had its name before.
    """
    labels = ({"app": app} if app else {}) | ({"team": caller.team} if caller.team else {})
    listing = await deps.store.list(Event, labels)
    if app and not listing.documents:
        await load_app(deps.store, caller, app)
    found = _leave_out_former(listing.documents) if app else listing.documents
    latest = found[len(found) - min(n, len(found)) :]
    if not follow:
        return latest
    return server_sent(request, _follow_events(deps, caller, app, latest, listing.revision))


def _leave_out_former(events: tuple[Event, ...]) -> tuple[Event, ...]:
    """Return the events of an app from when it was last created on."""
    begun = max((n for n, event in enumerate(events) if event.spec.reason == "AppCreated"), default=0)
    return events[begun:]


async def _follow_events(
    deps: ApiDeps, caller: Caller, app: str | None, latest: tuple[Event, ...], revision: int
) -> AsyncGenerator[bytes, None]:
    for seen in latest:
        yield event(seen.model_dump(mode="json"), identity=seen.meta.revision)
    async with aclosing(deps.store.watch((Event,), revision)) as changes:
        async for change in changes:
            document = change.document
            assert isinstance(document, Event)
            mine = app is None or document.spec.app == app
            if change.type == "put" and mine and caller.sees(document.meta.labels.get("team")):
                yield event(document.model_dump(mode="json"), identity=change.revision)

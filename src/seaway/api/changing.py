"""Changing documents: compare-and-swap with retries, and documents that take the next free number."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from seaway.api.errors import ApiError
from seaway.control.builds import OPEN
from seaway.model import App, Build, BuildSpec, Document, Meta, Release, Rollout, build_name
from seaway.rollout.releases import Change, compose_release
from seaway.store.base import AlreadyExists, Conflict, Store

D = TypeVar("D", bound=Document)
T = TypeVar("T")

MOST_WAITING = 100
"""Builds of one app that are queued or run; one runs at a time, and each push makes one."""
ATTEMPTS = 30  # of one change; each loss means that another writer won


async def change(store: Store, kind: type[D], name: str, edit: Callable[[D], D]) -> D:
    """Read, edit, write, again if somebody else wrote in between. `edit` may raise ApiError; NotFound passes."""

    async def attempt() -> D:
        return await store.update(edit(await store.get(kind, name)))

    return await retry(attempt)


async def make_release(
    store: Store, app: App, wanted: Change, by: str, check: Callable[[App, Release], Awaitable[str]]
) -> tuple[Release, str]:
    """Store the next release of the app, return it with what `check` says; it and a change that makes none raise."""

    async def attempt() -> tuple[Release, str]:
        labels = {"app": app.name}
        releases = (await store.list(Release, labels)).whole()
        rollouts = (await store.list(Rollout, labels)).whole()
        current = await store.get(App, app.name)
        release = compose_release(current, releases, rollouts, wanted, by)
        said = await check(current, release)
        return await store.create(release), said

    return await retry(attempt)


async def make_build(store: Store, app: App, fill: Callable[[int], BuildSpec]) -> Build:
    """Store the next build of the app; `fill` gets its number. ApiError 409 if too many wait already."""

    async def attempt() -> Build:
        builds = (await store.list(Build, {"app": app.name})).whole()
        waiting = sum(build.status.state in OPEN for build in builds)
        if waiting >= MOST_WAITING:
            message = f"{waiting} builds of {app.name} wait, the most there may be"
            hint = f"wait until some have ended, or cancel them: `seaway builds list -a {app.name}` shows them"
            raise ApiError(409, "too-many-builds", message, hint=hint)
        number = max((build.spec.number for build in builds), default=0) + 1
        meta = Meta(name=build_name(app.name, number), labels={"app": app.name, "team": app.spec.team})
        return await store.create(Build(meta=meta, spec=fill(number)))

    return await retry(attempt)


async def is_past(store: Store, kind: type[Build] | type[Release], app: App, number: int) -> bool:
    """Whether the app has had a build or release of this number that is gone: they count up, and old ones go."""
    numbers = {document.spec.number for document in (await store.list(kind, {"app": app.name})).documents}
    return number not in numbers and number < max(numbers, default=0)


async def retry(attempt: Callable[[], Awaitable[T]]) -> T:
    """Repeat until nobody else was quicker; after ATTEMPTS raise ApiError 409."""
    for _ in range(ATTEMPTS):
        try:
            return await attempt()
        except (Conflict, AlreadyExists):
            await asyncio.sleep(0)
    raise ApiError(409, "conflict", "others keep changing this at the same time; nothing was done", hint="try again")

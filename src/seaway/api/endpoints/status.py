"""Health of the API and the platform at a glance."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from fastapi import APIRouter

from seaway import __version__
from seaway.api.context import Deps, Viewer
from seaway.api.deps import ApiDeps
from seaway.api.views import DiskView, EngineView, Health, RouterInfo, StatusView
from seaway.disk import judge, read_disk
from seaway.engine.base import EngineError
from seaway.model import App, InstanceState
from seaway.router.base import RouterView

LOOK_LIMIT = 1.5  # seconds: how things are is said at once

public = APIRouter(tags=["platform"])
router = APIRouter(tags=["platform"])


@public.get("/healthz", summary="Whether the API answers (no token needed)")
async def get_health() -> Health:
    """Always the same."""
    return Health()


@router.get("/status", summary="The platform at a glance: engine, nodes, routers, apps")
async def get_status(deps: Deps, caller: Viewer) -> StatusView:
    """Answers also while the engine does not; then it says so."""
    apps = [app for app in (await deps.store.list(App)).documents if caller.sees(app.spec.team)]
    return StatusView(
        version=__version__,
        now=deps.clock(),
        domain=deps.settings.domain,
        http_port=deps.settings.http_port,
        apps=len(apps),
        app_states=dict(Counter(app.status.state for app in apps)),
        engine=await _look_at_engine(deps, {app.name for app in apps}),
        routers=[_show_router(view, details=caller.team is None) for view in deps.routers.views()],
        disk=await asyncio.to_thread(_look_at_disk, deps.home.root),
    )


def _look_at_disk(home: Path) -> DiskView:
    disk = read_disk(home)
    return DiskView(size=disk.size, free=disk.free, reason=str(disk) if judge(disk) else "")


def _show_router(view: RouterView, *, details: bool) -> RouterInfo:
    """What routers refused may name other teams' apps: only those who see every team are told."""
    rejected = [f"{name}: {why}" for (_, name), why in sorted(view.rejected.items())] if details else []
    return RouterInfo(name=view.name, connected=view.connected, seen_at=view.seen_at, rejected=rejected)


async def _look_at_engine(deps: ApiDeps, apps: set[str]) -> EngineView:
    try:
        async with asyncio.timeout(LOOK_LIMIT):
            seen = await deps.engine.observe()
    except TimeoutError:
        return EngineView(available=False, reason=f"the engine has not answered within {LOOK_LIMIT:g} s")
    except EngineError as error:
        return EngineView(available=False, reason=str(error))
    there = [i for i in seen.instances if i.key.app in apps and i.state is not InstanceState.STOPPED]
    return EngineView(available=True, nodes=seen.nodes, instances=len(there))

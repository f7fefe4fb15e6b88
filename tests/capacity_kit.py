"""Scenes for tests of what fits: apps with one release each, and instances as an engine sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from seaway.model import (
    App,
    AppSpec,
    AppStatus,
    Instance,
    InstanceState,
    Meta,
    Node,
    Observation,
    Process,
    Quotas,
    Release,
    ReleaseSpec,
    Strategy,
    WorkloadKey,
)
from seaway.rollout.capacity import Scene

MIB = 1 << 20
UNLIMITED = Quotas(app_instances=0)


@dataclass(frozen=True)
class Seen:
    """An instance of the first release, in short."""

    app: str = "shop"
    process: str = "web"
    memory: int | None = 200 * MIB
    state: InstanceState = InstanceState.RUNNING
    release: int = 1


def make_app(name: str = "shop", team: str = "red", **scale: int) -> App:
    return App(
        meta=Meta(name=name),
        spec=AppSpec(team=team, scale=scale),
        status=AppStatus(current=1, traffic={1: 100}),
    )


def make_release(
    app: str = "shop",
    number: int = 1,
    processes: Sequence[str] = ("web", "worker"),
    limit: int | None = None,
    scale: Mapping[str, int] | None = None,
) -> Release:
    spec = ReleaseSpec(
        app=app,
        number=number,
        image="sha256:1",
        processes={name: Process(command="run", memory=limit) for name in processes},
        scale=dict(scale or {}),
    )
    return Release(meta=Meta(name=f"{app}.v{number}"), spec=spec)


def recreating(release: Release) -> Release:
    """Return the release with the strategy to stop what runs first."""
    rollout = release.spec.rollout.model_copy(update={"strategy": Strategy.RECREATE})
    return release.model_copy(update={"spec": release.spec.model_copy(update={"rollout": rollout})})


def make_scene(
    *apps: App,
    seen: Sequence[Seen] = (),
    available: int | None = None,
    quotas: Quotas = UNLIMITED,
    live: Sequence[Release] = (),
) -> Scene:
    instances = tuple(
        Instance(
            id=f"i{n}", key=WorkloadKey(app=one.app, release=one.release, process=one.process), node="n1",
            state=one.state, memory=one.memory, created_at=datetime(2030, 1, 1, tzinfo=UTC),
        )
        for n, one in enumerate(seen)
    )  # fmt: skip
    node = Node(name="n1", ready=True, available=available)
    live = live or [make_release(app.name) for app in apps]
    return Scene(Observation(nodes=(node,), instances=instances), apps, live, quotas)

"""One API over a real SQLite store in a folder of its own, with an engine, routers and logs in memory."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
from fastapi import FastAPI

from seaway.api import ApiDeps, create_api, ensure_admin_token
from seaway.api.auth import make_secret, new_token
from seaway.engine.memory import MemoryEngine
from seaway.home import Home, Settings
from seaway.logs.base import LogLine, LogQuery
from seaway.model import (
    App,
    BuildManifest,
    Instance,
    InstanceState,
    Phase,
    Process,
    Release,
    Role,
    Rollout,
    RolloutSpec,
    RolloutStatus,
    WorkloadKey,
)
from seaway.model import Meta as DocumentMeta
from seaway.rollout.releases import ImageChange, compose_release
from seaway.router.base import ResourceKey, RouterView
from seaway.store.sqlite import SqliteStore

IMAGE = "sha256:" + "a" * 64
NOW = datetime(2030, 1, 1, tzinfo=UTC)


class MemoryRouters:
    """One router that is connected."""

    def publish(self, owner: str, resources: Mapping[ResourceKey, bytes]) -> Mapping[ResourceKey, str]:
        return dict.fromkeys(resources, "1")

    def views(self) -> tuple[RouterView, ...]:
        return (RouterView(name="router-1", connected=True, seen_at=NOW, rejected={("type", "shop"): "bad regex"}),)

    async def watch(self) -> AsyncGenerator[str, None]:
        yield ""


@dataclass
class MemoryLogs:
    """Gives the lines it was given, and keeps what it was asked."""

    lines: list[LogLine] = field(default_factory=list)
    asked: list[LogQuery] = field(default_factory=list)

    async def read(self, query: LogQuery) -> AsyncIterator[LogLine]:
        self.asked.append(query)
        for line in self.lines:
            yield line


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass
class Bench:
    """The API under test and everything around it; `http` carries the admin token."""

    api: FastAPI
    http: httpx2.AsyncClient
    store: SqliteStore
    engine: MemoryEngine
    logs: MemoryLogs
    home: Home
    clock: Clock

    async def client(
        self, role: Role, team: str | None = None, *, name: str = "", seconds: float | None = None
    ) -> httpx2.AsyncClient:
        """Return a client with a new token."""
        secret = make_secret()
        expires = self.clock.now + timedelta(seconds=seconds) if seconds else None
        token = new_token(name or f"{role}-{team}", secret, role, team=team, created_by="test", expires_at=expires)
        await self.store.create(token)
        return connect(self.api, secret)

    async def deploy(self, name: str = "shop", image: str = IMAGE, **manifest: Any) -> Release:
        """Make the next release of an app and let it serve, as the control loop would."""
        app = await self.store.get(App, name)
        labels = {"app": name}
        processes = {"web": Process(command="run web"), "worker": Process(command="run worker")}
        wanted = ImageChange(image=image, manifest=BuildManifest(**({"processes": processes} | manifest)))
        releases = (await self.store.list(Release, labels)).documents
        rollouts = (await self.store.list(Rollout, labels)).documents
        release = await self.store.create(compose_release(app, releases, rollouts, wanted, "test"))
        await self.roll_out(release, Phase.SUCCEEDED)
        number = release.spec.number
        status = app.status.model_copy(update={"current": number, "traffic": {number: 100}, "state": "serving"})
        await self.store.update(app.model_copy(update={"status": status}))
        return release

    async def roll_out(self, release: Release, phase: Phase) -> Rollout:
        """Store a rollout of the release that is in this phase."""
        meta = DocumentMeta(name=release.name, labels=release.meta.labels)
        spec = RolloutSpec(app=release.spec.app, target=release.spec.number)
        status = RolloutStatus(phase=phase, reason=f"it {phase}")
        return await self.store.create(Rollout(meta=meta, spec=spec, status=status))

    def add_instance(self, app: str = "shop", release: int = 1, process: str = "web", **fields: Any) -> Instance:
        """Let the engine see one more instance."""
        identity = f"{app}-v{release}-{process}-{len(self.engine.instances)}"
        instance = Instance(
            id=identity, key=WorkloadKey(app=app, release=release, process=process), node="local",
            state=fields.pop("state", InstanceState.RUNNING), created_at=NOW, **fields,
        )  # fmt: skip
        self.engine.instances[instance.id] = instance
        return instance

    async def reasons(self, **params: Any) -> list[str]:
        """Return the reasons of all events, in order."""
        return [event["spec"]["reason"] for event in (await self.http.get("/v1/events", params=params)).json()]


_shared: list[FastAPI] = []


def share_api(deps: ApiDeps) -> FastAPI:
    """Return the application for these collaborators; it is built once, since that takes half a second."""
    if not _shared:
        _shared.append(create_api(deps))
    _shared[0].state.deps = deps
    return _shared[0]


def connect(api: FastAPI, secret: str | None) -> httpx2.AsyncClient:
    """Return a client that calls the application in this process."""
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(api), base_url="http://seaway", headers=headers)


@asynccontextmanager
async def open_bench(folder: Path, heartbeat: float = 15.0) -> AsyncIterator[Bench]:
    """Give an API with an admin token; close everything afterwards."""
    home = Home(folder / "home").create()
    store = SqliteStore.open(home.database)
    logs, clock = MemoryLogs(), Clock()
    engine = MemoryEngine(clock=clock, nodes=("local",))
    try:
        await ensure_admin_token(store, home, clock())
        deps = ApiDeps(
            store=store, engine=engine, routers=MemoryRouters(), logs=logs, home=home, settings=Settings(),
            clock=clock, heartbeat=heartbeat,
        )  # fmt: skip
        api = share_api(deps)
        async with connect(api, home.admin_token.read_text().strip()) as http:
            yield Bench(api, http, store, engine, logs, home, clock)
    finally:
        await store.close()


def error(answer: httpx2.Response, status: int) -> dict[str, Any]:
    """Check that the answer is an error of this status in the one shape; return it."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error"}
    assert {"code", "message"} <= set(body["error"]) <= {"code", "message", "field", "hint"}
    found: dict[str, Any] = body["error"]
    return found


def events_of(text: str) -> list[tuple[str, Any]]:
    """Parse server-sent events to (name, data)."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append((fields.get("event", "message"), json.loads(fields["data"])))
    return found

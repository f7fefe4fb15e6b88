"""Build, Release and Rollout: source in, an immutable release out, and its way to traffic."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import ClassVar, Literal

from pydantic import Field

from seaway.model.app import WEB, Limits, Mount, Process, RolloutPolicy, Route, RouterPolicy, Strategy
from seaway.model.base import Document, Frozen, Meta, Name, Seconds


class Source(Frozen):
    """Where a build's source comes from: an uploaded archive (by sha256 digest) or a git URL and ref."""

    archive: str | None = None
    git: str | None = None
    ref: str | None = None


class BuildSpec(Frozen):
    """One build that was asked for."""

    app: Name
    number: int
    source: Source
    deploy: bool = True  # make a release of the image when it is built
    strategy: Strategy | None = None  # overrides the app's for the release it makes
    force: bool = False  # make it even if its instances do not fit
    timeout: Seconds = 900.0
    by: str = "unknown"
    cancel: bool = False  # intent: stop it


class BuildState(StrEnum):
    """Where a build is."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class BuildStatus(Frozen):
    """What became of the build. `image` is a digest in the image store."""

    state: BuildState = BuildState.QUEUED
    reason: str = "waiting for a builder"
    attempts: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    image: str | None = None
    manifest: BuildManifest | None = None
    release: int | None = None  # the release made of it


class BuildManifest(Frozen):
    """What the app's own files say: processes (Procfile, seaway.toml) and settings of seaway.toml."""

    processes: dict[str, Process]
    release_command: str | None = None
    scale: dict[str, int] = {}
    routes: tuple[Route, ...] = ()
    mounts: tuple[Mount, ...] = ()
    rollout: RolloutPolicy = RolloutPolicy()
    router: RouterPolicy = RouterPolicy()


class Build(Document):
    """A build; named APP.bN."""

    kind: ClassVar[str] = "Build"

    meta: Meta
    spec: BuildSpec
    status: BuildStatus = BuildStatus()


class ReleaseSpec(Frozen):
    """Everything a release runs with; immutable. A release without image holds config only and is not rolled out."""

    app: Name
    number: int
    image: str | None = None
    build: str | None = None
    config: dict[str, str] = {}
    processes: dict[str, Process] = {}
    release_command: str | None = None
    routes: tuple[Route, ...] = ()
    mounts: tuple[Mount, ...] = ()
    scale: dict[str, int] = {}  # instances per process type by the app files, where the app says nothing itself
    unsaid: dict[str, int] = {}  # the same where they say nothing either; absent, in older releases: 1
    rollout: RolloutPolicy = RolloutPolicy()
    router: RouterPolicy = RouterPolicy()
    copies: int | None = None  # a rollback: the release it copies
    description: str = ""
    note: str = ""  # what whoever deployed it is told: which new processes are not started
    by: str = "unknown"

    def count(self, process: str) -> int:
        """Return as how many a process runs if the app says nothing itself."""
        return self.scale.get(process, self.unsaid.get(process, 1))

    @property
    def task_limits(self) -> Limits:
        """What the release command and one-offs may take: as much as the web process."""
        return self.processes[WEB].limits if WEB in self.processes else Limits()


class Release(Document):
    """A release; named APP.vN."""

    kind: ClassVar[str] = "Release"

    meta: Meta
    spec: ReleaseSpec


class Phase(StrEnum):
    """Where a rollout is; the transitions are the table in seaway.rollout.transitions."""

    QUEUED = "queued"
    PREPARING = "preparing"
    CLEARING = "clearing"
    STARTING = "starting"
    VERIFYING = "verifying"
    SHIFTING = "shifting"
    KEEPING = "keeping"
    RETURNING = "returning"
    RESTORING = "restoring"
    SUCCEEDED = "succeeded"
    ROLLED_BACK = "rolled-back"
    CANCELLED = "cancelled"
    FAILED = "failed"


ENDED = frozenset({Phase.SUCCEEDED, Phase.ROLLED_BACK, Phase.CANCELLED, Phase.FAILED})


class RolloutSpec(Frozen):
    """Intent: from which release to which, and what users asked of it on the way."""

    app: Name
    target: int  # B
    strategy: Strategy = Strategy.BLUE_GREEN
    paused: bool = False
    promote: bool = False  # skip the rest of the waiting (keeping)
    cancel: bool = False
    cancelled_by: str = ""


class Step(Frozen):
    """One phase a rollout went through."""

    phase: Phase
    at: datetime
    reason: str


class RolloutStatus(Frozen):
    """Where the rollout is and why, in one sentence, the same for CLI, API and console."""

    phase: Phase = Phase.QUEUED
    base: int | None = None  # A: the release that served when this rollout started; None: none did
    reason: str = "waiting for its turn"
    entered_at: datetime | None = None  # when this phase began
    deadline: datetime | None = None  # when this phase is given up
    verdict: Literal["", "failed", "cancelled"] = ""  # on the way back to A: how it will end
    verdict_reason: str = ""
    history: tuple[Step, ...] = Field(default=(), max_length=64)


class Rollout(Document):
    """A rollout; named like the release it brings, APP.vN."""

    kind: ClassVar[str] = "Rollout"

    meta: Meta
    spec: RolloutSpec
    status: RolloutStatus = RolloutStatus()

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.status.phase in ENDED


BuildStatus.model_rebuild()
Build.model_rebuild()


def release_name(app: str, number: int) -> str:
    """Name of a release document and of its rollout, for example shop.v3."""
    return f"{app}.v{number}"


def build_name(app: str, number: int) -> str:
    """Name of a build document, for example shop.b7."""
    return f"{app}.b{number}"

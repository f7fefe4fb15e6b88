"""The words of Seaway as frozen documents; every other package speaks in these."""

from seaway.model.app import (
    RELEASE_COMMAND,
    WEB,
    App,
    AppSpec,
    AppState,
    AppStatus,
    Check,
    Drain,
    Health,
    Limits,
    Mount,
    Process,
    RolloutPolicy,
    Route,
    RouterPolicy,
    Strategy,
)
from seaway.model.base import SCHEMA_VERSION, Bytes, Document, Frozen, Host, Meta, Name, Seconds
from seaway.model.instance import (
    Instance,
    InstanceState,
    Node,
    NodeState,
    Observation,
    Offsets,
    Refusal,
    Streams,
    Task,
    TaskState,
    Terminal,
    Workload,
    WorkloadKey,
)
from seaway.model.platform import Event, EventSpec, Role, RouterRecord, RouterStatus, Token, TokenSpec
from seaway.model.quotas import Quotas
from seaway.model.release import (
    ENDED,
    Build,
    BuildManifest,
    BuildSpec,
    BuildState,
    BuildStatus,
    Phase,
    Release,
    ReleaseSpec,
    Rollout,
    RolloutSpec,
    RolloutStatus,
    Source,
    Step,
    build_name,
    release_name,
)

KINDS: dict[str, type[Document]] = {cls.kind: cls for cls in (App, Build, Release, Rollout, Event, Token, RouterRecord)}
"""Every stored kind by its name."""

__all__ = [
    "ENDED", "KINDS", "RELEASE_COMMAND", "SCHEMA_VERSION", "WEB", "App", "AppSpec", "AppState", "AppStatus",
    "Build", "BuildManifest", "BuildSpec", "BuildState", "BuildStatus", "Bytes", "Check", "Document", "Drain", "Event",
    "EventSpec", "Frozen", "Health", "Host", "Instance", "InstanceState", "Limits", "Meta", "Mount", "Name", "Node",
    "NodeState", "Observation", "Offsets", "Phase", "Process", "Quotas", "Refusal", "Release", "ReleaseSpec", "Role",
    "Rollout", "RolloutPolicy", "RolloutSpec", "RolloutStatus", "Route", "RouterPolicy", "RouterRecord", "RouterStatus",
    "Seconds", "Source", "Step", "Strategy", "Streams", "Task", "TaskState", "Terminal", "Token", "TokenSpec",
    "Workload", "WorkloadKey", "build_name", "release_name",
]  # fmt: skip

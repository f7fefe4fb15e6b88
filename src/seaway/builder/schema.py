"""seaway.toml as pydantic models: what may stand in it, and the JSON schema made of that.

The tables reuse the documents of seaway.model; DESCRIPTIONS adds the sentence a user reads for each key.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from seaway.model import Frozen, Health, Limits, Mount, RolloutPolicy, Route, RouterPolicy, Seconds
from seaway.model.base import LONGEST_TIME, ProcessName, leads_inside

SCHEMA_ID = "https://json-schema.org/draft/2020-12/schema"
DURATION_PATTERN = r"^\s*\d+(\.\d+)?\s*(ms|s|m|h)\s*$"
MOST = 1 << 50  # likewise for an amount of memory, see model.base.Bytes
AMOUNT_PATTERN = r"^\s*\d+(\.\d+)?\s*([KMGT](i|iB)?)?\s*$"
TEXTS: dict[tuple[Any, Any], str] = {("number", LONGEST_TIME): DURATION_PATTERN, ("integer", MOST): AMOUNT_PATTERN}
BOUNDS = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}
PYTHON_PATTERN = r"^3\.(?:[89]|[1-9]\d)$"


def _split_route(value: object) -> object:
    """Turn "host/path" into the table it is short for."""
    if isinstance(value, str):
        if "://" in value:
            raise ValueError(f"{value!r} is not a route: leave out the scheme, write host or host/path")
        host, slash, path = value.partition("/")
        return {"host": host, "path": slash + path} if slash else {"host": host}
    if not isinstance(value, dict):
        raise ValueError('a route is "host/path" or a table { host = "...", path = "/..." }')
    return value


def _check_command(value: str) -> str:
    if not value.strip():
        raise ValueError("the command is empty: write the shell command to run")
    return value


def _check_inside(value: str) -> str:
    if not leads_inside(value):
        raise ValueError(f"{value!r} is not a file of the source: write its path from the top, docker/Dockerfile")
    return value


RouteEntry = Annotated[
    Route,
    BeforeValidator(_split_route),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "description": "host or host/path"},
                {
                    "type": "object",
                    "properties": {"host": {"type": "string"}, "path": {"type": "string", "default": "/"}},
                    "required": ["host"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]


class ProcessTable(Limits):
    """One [processes.NAME] table."""

    command: Annotated[str, AfterValidator(_check_command)] | None = Field(default=None, max_length=8192)
    port: int | None = Field(default=None, ge=1, le=65535)
    stop_grace: Seconds = 30.0
    health: Health = Health()


class BuildTable(Frozen):
    """The [build] table."""

    command: Annotated[str, AfterValidator(_check_command)] | None = Field(default=None, max_length=8192)
    python: str | None = Field(default=None, pattern=PYTHON_PATTERN)
    base: str | None = Field(default=None, pattern=r"^[a-z0-9][a-zA-Z0-9._/:@-]{0,254}$")
    dockerfile: Annotated[str, AfterValidator(_check_inside)] | None = Field(default=None, max_length=255)
    timeout: Annotated[Seconds, Field(gt=0)] = 900.0


class SeawayToml(Frozen):
    """A whole seaway.toml."""

    routes: tuple[RouteEntry, ...] = Field(default=(), max_length=200)
    mounts: tuple[Mount, ...] = Field(default=(), max_length=10)
    processes: dict[ProcessName, ProcessTable] = {}
    scale: dict[ProcessName, Annotated[int, Field(ge=0, le=1000)]] = {}
    rollout: RolloutPolicy = RolloutPolicy()
    router: RouterPolicy = RouterPolicy()
    build: BuildTable = BuildTable()


_CHECKS = {
    "startup": "Passes once before the other checks begin; while it fails the instance is starting.",
    "readiness": "Gates traffic: an instance that fails it gets no requests until it passes again.",
    "liveness": "An instance that fails it is restarted.",
}
_CHECK_KEYS = {
    "http": "GET this path on the instance's port, as of APP.DOMAIN over HTTPS (`Host`, `X-Forwarded-Proto`); 200 to "
    "399 is good. One of http, tcp, command.",
    "tcp": "Connect to the instance's port. One of http, tcp, command.",
    "command": "Run this shell command with the instance's environment; exit code 0 is good. "
    "One of http, tcp, command.",
    "interval": "From the start of one check to the start of the next.",
    "timeout": "A check that takes longer has failed (unless it was the node agent that was late).",
    "healthy_after": "Good answers in a row that make it pass.",
    "unhealthy_after": "Bad answers in a row that make it fail.",
}

DESCRIPTIONS: dict[str, str] = {
    "routes": 'More addresses of the app, besides APP.DOMAIN: "host" or "host/path", or tables with host and path. '
    "Stands at the top of the file, before the first [table].",
    "routes[].host": "Host name, without scheme or port.",
    "routes[].path": "Path prefix; the longest prefix that matches wins.",
    "mounts": "Persistent folders, [[mounts]] tables: what is written there stays, over restarts and releases. Where "
    "Seaway runs on one machine.",
    "mounts[].name": "What the folder is called, whatever its path is in a later release.",
    "mounts[].path": "Where the app's commands see it, from the top of the source: `data`. A new one begins with what "
    "the source has there.",
    "processes": "One table per process type. `web` gets traffic; `release` runs once before traffic moves. "
    "A name with `_` (`celery_beat`), here and in the Procfile, is called with `-` everywhere: `celery-beat`.",
    "processes.NAME.command": "Shell command; replaces the Procfile's line of the same name.",
    "processes.NAME.port": "Port that an image listens on whatever $PORT says; only where containers run (Kubernetes).",
    "processes.NAME.stop_grace": "Time between SIGTERM and SIGKILL.",
    "processes.NAME.memory": "Memory that an instance may have, such as `512M` or `2G` (powers of 1024), or bytes; one "
    "that takes more is killed. Not given: what the machine has for apps.",
    "processes.NAME.cpu": "Cores that an instance may use, such as `0.5`. Not given: what is idle.",
    "processes.NAME.pids": "Processes and threads that an instance may have. Not given: 1024.",
    "processes.NAME.disk": "Disk that an instance's files may take, without those it was deployed with, such as `512M` "
    "or `2G`; one that writes more is killed and started again with new files. Not given: 2 GiB.",
    "processes.NAME.health": "How the platform asks instances how they are.",
    "processes.NAME.health.start_timeout": "An instance that has not passed its startup check by then is "
    "restarted; in a rollout, that fails it.",
    **{f"processes.NAME.health.{check}": text for check, text in _CHECKS.items()},
    **{f"processes.NAME.health.{check}.{key}": text for check in _CHECKS for key, text in _CHECK_KEYS.items()},
    "scale": "Instances per process type, where `seaway ps scale` has not said otherwise. Not given: what runs "
    "goes on; of what is new, one `web` starts and none of the others. "
    "A deploy of more than fit is refused.",
    "rollout": "How a new release takes over.",
    "rollout.strategy": "`blue-green`: the new release runs at full size before traffic moves. "
    "`recreate`: the old one stops first, for processes that must not run twice.",
    "rollout.release_timeout": "Limit of the release command.",
    "rollout.start_timeout": "Limit from the start of the new instances until all are ready. Not given: 60 s more "
    "than the longest `start_timeout` that a process is given here, and at least 120 s.",
    "rollout.router_timeout": "Limit for the routers to acknowledge a change.",
    "rollout.min_ready": "How long new instances must have been ready before traffic moves.",
    "rollout.keep": "How long the old release stays at full size after traffic moved, for an instant return.",
    "rollout.drain": "Limit for requests in flight on an instance that is to stop.",
    "router": "How routers treat the web process.",
    "router.keepalive": "Routers close idle connections to the app after this; keep it below the app's own.",
    "router.idle_timeout": "A request or upgraded connection without a byte for this long is ended.",
    "router.max_requests": "Requests in flight, open WebSockets included, that each router sends to a release; more "
    "are answered 503 `overloaded`.",
    "build": "How the image is made.",
    "build.command": "Shell command that runs in the app's folder when its dependencies are there, with the image's "
    "environment and without the app's config; what it makes is part of the image.",
    "build.python": "Python version, for example `3.12`; wins over .python-version and requires-python.",
    "build.base": "Base image to put the layers on where containers run (Kubernetes); not needed locally.",
    "build.dockerfile": "Build the image by this Dockerfile (in a cluster); without a Procfile one at the top is used "
    "by itself.",
    "build.timeout": "Limit of one build; the platform's own limit holds too.",
}


def make_schema() -> dict[str, Any]:
    """Return the JSON schema of seaway.toml (draft 2020-12)."""
    schema = SeawayToml.model_json_schema()
    _allow_texts(schema)
    for name, text in DESCRIPTIONS.items():
        node = _find(schema, [part.removesuffix("[]") for part in name.split(".")])
        if node is not None:
            node["description"] = text
    schema.pop("description", None)
    return {"$schema": SCHEMA_ID, **schema, "title": "seaway.toml"}


def _allow_texts(node: object) -> None:
    """Let every duration and amount be text too ("30s", "512M"), as the parser does."""
    if isinstance(node, dict):
        pattern = TEXTS.get((node.get("type"), node.get("le")))  # behind a validator pydantic keeps its words
        if pattern is not None:
            bounds = {json_word: node.pop(word) for word, json_word in BOUNDS.items() if word in node}
            node["anyOf"] = [{"type": node.pop("type"), **bounds}, {"type": "string", "pattern": pattern}]
        for child in node.values():
            _allow_texts(child)
    elif isinstance(node, list):
        for child in node:
            _allow_texts(child)


def _find(schema: dict[str, Any], path: list[str]) -> dict[str, Any] | None:
    node: dict[str, Any] = schema
    for part in path:
        table = resolve(schema, node)
        properties = table.get("properties", {})
        if part in properties:
            node = properties[part]
        elif (values := values_of(table)) is not None:
            node = values
        else:
            return None
    return node


def values_of(table: dict[str, Any]) -> dict[str, Any] | None:
    """Return the schema of the values of a table whose keys are free, or None."""
    for found in (*table.get("patternProperties", {}).values(), table.get("additionalProperties")):
        if isinstance(found, dict):
            return found
    return None


def resolve(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """Follow $ref, and the non-null side of anyOf, to the schema that describes the value."""
    while True:
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
            continue
        sides = [side for side in node.get("anyOf", ()) if side.get("type") != "null"]
        if len(sides) == 1:
            node = sides[0]
            continue
        return node

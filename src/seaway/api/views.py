"""What the API shows: documents as they are stored, with secrets masked and a few computed fields."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from seaway.builder.git import mask_url
from seaway.home import Settings
from seaway.model import (
    App,
    Build,
    Frozen,
    Host,
    Instance,
    Meta,
    Name,
    Node,
    Release,
    ReleaseSpec,
    Role,
    Route,
    Token,
)
from seaway.router.table import default_route

MASK = "********"


class AppView(App):
    """An app, and where it is reached ("": it has no web process, and takes no requests)."""

    url: str


class InstanceView(Instance):
    """An instance, with what the app says of it."""

    release: int
    process: str
    uptime: float | None = Field(description="seconds since the process that runs now started")
    draining: bool = Field(description="whether it gets no new requests any more")
    drain_reason: str = ""


class ConfigView(Frozen):
    """The config that the next release starts from; `release` is where it was read (null: there is none yet)."""

    app: Name
    release: int | None
    masked: bool
    config: dict[str, str]


class RouteView(Frozen):
    """A route that leads to the app, and who says so: "default", "app", or a release such as "v3"."""

    host: Host
    path: str
    url: str
    source: str


class FieldChange(Frozen):
    """One difference; null: it is not there. Config values are masked."""

    field: str = Field(description="dotted, for example config.COLOUR or processes.web.command")
    from_: Any = Field(default=None, alias="from")
    to: Any = None


class ReleaseDiff(Frozen):
    """What differs from one release to another."""

    app: Name
    from_: int = Field(alias="from")
    to: int
    changes: list[FieldChange]


class TokenInfo(Frozen):
    """What is shown of a token."""

    role: Role
    team: Name | None
    created_by: str
    expires_at: datetime | None
    expired: bool


class TokenView(Frozen):
    """A token without its hash."""

    meta: Meta
    spec: TokenInfo


class NewToken(TokenView):
    """A token just made, with its secret, which is never shown again."""

    secret: str


class Digest(Frozen):
    """The SHA-256 of an uploaded archive, in hexadecimal: name it as a build's source.archive."""

    digest: str


class TaskStarted(Frozen):
    """A one-off that was started. Its output is in the app's logs under this id as instance."""

    id: str
    app: Name
    release: int
    serves: bool = True  # False: no release does, this is the newest one
    streams: bool = False  # True: .../attach?output=true brings what it writes


class InputTaken(Frozen):
    """What became of a piece of input: if the command had no room for all of it in time, it is to be sent again."""

    taken: bool


class Health(Frozen):
    """The API answers."""

    status: Literal["ok"] = "ok"


class EngineView(Frozen):
    """The engine and its nodes."""

    available: bool
    reason: str = ""
    nodes: tuple[Node, ...] = ()
    instances: int = 0


class RouterInfo(Frozen):
    """A router that is or was connected."""

    name: str
    connected: bool
    seen_at: datetime
    rejected: list[str] = Field(default=[], description="resources that its Envoy refused, and why")


class DiskView(Frozen):
    """The file system of the platform's home: bytes in all and free, and what that means; "" if there is room."""

    size: int
    free: int
    reason: str = ""


class StatusView(Frozen):
    """The platform at a glance."""

    version: str
    now: datetime
    domain: Host
    http_port: int
    apps: int
    app_states: dict[str, int]
    engine: EngineView
    routers: list[RouterInfo]
    disk: DiskView


def make_url(host: str, path: str, settings: Settings) -> str:
    """Return where a route is reached on this platform."""
    port = "" if settings.http_port == 80 else f":{settings.http_port}"
    return f"http://{host}{port}{path}"


def view_app(app: App, settings: Settings) -> AppView:
    """Add the URL, if requests are taken there."""
    route = default_route(app.name, settings.domain)
    url = "" if app.status.webless else make_url(route.host, "/", settings)
    return AppView(meta=app.meta, spec=app.spec, status=app.status, url=url)


def view_release(release: Release, *, reveal: bool = False) -> Release:
    """Mask config values."""
    if reveal:
        return release
    return release.model_copy(update={"spec": release.spec.model_copy(update={"config": mask(release.spec.config)})})


def view_build(build: Build) -> Build:
    """Mask credentials in the URL of a git source."""
    git = build.spec.source.git
    if git is None:
        return build
    source = build.spec.source.model_copy(update={"git": mask_url(git, MASK)})
    return build.model_copy(update={"spec": build.spec.model_copy(update={"source": source})})


def view_instance(instance: Instance, app: App, now: datetime) -> InstanceView:
    """Add release, process, uptime and drain."""
    drain = app.status.drains.get(instance.id)
    return InstanceView(
        **{field: getattr(instance, field) for field in Instance.model_fields},
        release=instance.key.release,
        process=instance.key.process,
        uptime=max(0.0, (now - instance.started_at).total_seconds()) if instance.started_at else None,
        draining=drain is not None,
        drain_reason=drain.why if drain else "",
    )


def view_route(route: Route, source: str, settings: Settings) -> RouteView:
    """Add the URL and the source."""
    return RouteView(host=route.host, path=route.path, url=make_url(route.host, route.path, settings), source=source)


def view_token(token: Token, now: datetime) -> TokenView:
    """Leave the hash out, also from the labels."""
    spec, expires = token.spec, token.spec.expires_at
    info = TokenInfo(
        role=spec.role, team=spec.team, created_by=spec.created_by, expires_at=expires,
        expired=expires is not None and expires <= now,
    )  # fmt: skip
    return TokenView(meta=token.meta.model_copy(update={"labels": {}}), spec=info)


def mask(config: Mapping[str, str]) -> dict[str, str]:
    """Return the keys with masked values."""
    return dict.fromkeys(sorted(config), MASK)


def diff_releases(old: Release, new: Release) -> ReleaseDiff:
    """Return every field that differs, but those that always do (number, story)."""
    before, after = (_flatten(release.spec) for release in (old, new))
    changes = []
    for field in sorted(before.keys() | after.keys()):
        was, now = before.get(field), after.get(field)
        if was != now:
            shown = [MASK if field.startswith("config.") and value is not None else value for value in (was, now)]
            changes.append(FieldChange.model_validate({"field": field, "from": shown[0], "to": shown[1]}))
    numbers = {"from": old.spec.number, "to": new.spec.number}
    return ReleaseDiff.model_validate({"app": old.spec.app, **numbers, "changes": changes})


def _flatten(spec: ReleaseSpec) -> dict[str, Any]:
    """Return leaf fields by dotted name; routes are joined into one text."""
    story = {"app", "number", "copies", "description", "note", "by"}
    data = spec.model_dump(mode="json", exclude=story | {"routes"}, exclude_none=True)
    flat: dict[str, Any] = {"routes": " ".join(sorted(map(str, spec.routes)))} if spec.routes else {}
    pending: list[tuple[tuple[str, ...], Any]] = [((), data)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, dict):
            pending += [((*path, str(key)), inner) for key, inner in value.items()]
        else:
            flat[".".join(path)] = value
    return flat

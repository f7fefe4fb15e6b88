"""Composing the next release of an app: a pure function of what there is and one change.

The base of a new release is the newest one that is on its way (no rollout yet, queued or under way), else the
one that serves, else the newest there is. A release whose rollout failed or was cancelled is therefore never
built upon while another one serves: cancelling puts the config back, not only the traffic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from seaway.model import (
    WEB,
    App,
    BuildManifest,
    Meta,
    Phase,
    Release,
    ReleaseSpec,
    Rollout,
    Strategy,
    release_name,
)
from seaway.model.base import say_bytes
from seaway.rollout.keeping import list_kept_images

MOST_CONFIG = 1000
"""Config values of one app."""
LARGEST_CONFIG = 512 << 10
"""Bytes of all keys and values of an app: a Secret of Kubernetes takes 1 MiB, an environment in Linux 2 MiB."""
ADVICE = f"at most {MOST_CONFIG} and {say_bytes(LARGEST_CONFIG)} are kept; put the rest into a store of the app's own"


class ReleaseRefused(Exception):
    """No release is made of this change; `code` is a stable word for programs, the message is for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True)
class ConfigChange:
    """Set and unset config values."""

    set: Mapping[str, str] = field(default_factory=dict)
    unset: Sequence[str] = ()


@dataclass(frozen=True)
class ImageChange:
    """A new image with what its app files say."""

    image: str
    manifest: BuildManifest
    build: str | None = None
    strategy: Strategy | None = None
    description: str = ""  # what is said of the release; "": Deploy and the image's digest


@dataclass(frozen=True)
class Rollback:
    """Copy an old release; `to` None: the newest one that served before the one that serves now."""

    to: int | None = None


@dataclass(frozen=True)
class Restart:
    """Copy the release as it is, so that every instance is replaced by the usual road."""


Change = ConfigChange | ImageChange | Rollback | Restart


def find_base(app: App, releases: Sequence[Release], rollouts: Sequence[Rollout]) -> Release | None:
    """Return the release that the next one starts from; None if the app has none."""
    ended = {rollout.spec.target for rollout in rollouts if rollout.ended}
    ordered = sorted(releases, key=lambda release: release.spec.number, reverse=True)
    current = app.status.current
    for release in ordered:
        if release.spec.number == current or (current is None) or release.spec.number not in ended:
            return release
    return ordered[0] if ordered else None


def find_return(app: App, releases: Sequence[Release], rollouts: Sequence[Rollout]) -> ReleaseSpec | None:
    """Return what a rollback without a number copies: the newest that served before, and unlike, what serves now."""
    by_number = {release.spec.number: release.spec for release in releases}
    current = app.status.current
    served = {rollout.spec.target for rollout in rollouts if rollout.status.phase == "succeeded"}
    now = by_number.get(current) if current is not None else None
    seen = {_content(now)} if now else set()
    for number in sorted(by_number, reverse=True):
        if current is not None and number < current and number in served and _content(by_number[number]) not in seen:
            return by_number[number]
    return None


def select_live(apps: Iterable[App], releases: Iterable[Release], rollouts: Sequence[Rollout]) -> tuple[Release, ...]:
    """Return the releases whose routes and instances count: they serve, carry traffic, or are on their way.

    So is one that is newer than all that have a rollout: it is about to get one.
    """
    live = {(app.name, number) for app in apps for number, weight in app.status.traffic.items() if weight}
    live |= {(app.name, app.status.current) for app in apps if app.status.current is not None}
    live |= {(rollout.spec.app, rollout.spec.target) for rollout in rollouts if not rollout.ended}
    newest: dict[str, int] = {}
    for rollout in rollouts:
        newest[rollout.spec.app] = max(rollout.spec.target, newest.get(rollout.spec.app, 0))
    return tuple(
        release
        for release in releases
        if (release.spec.app, release.spec.number) in live
        or (release.spec.image is not None and release.spec.number > newest.get(release.spec.app, 0))
    )


def compose_release(
    app: App, releases: Sequence[Release], rollouts: Sequence[Rollout], change: Change, by: str
) -> Release:
    """Return the next release document (not stored yet); raise ReleaseRefused if the change makes none."""
    base = find_base(app, releases, rollouts)
    number = max((release.spec.number for release in releases), default=0) + 1
    spec = base.spec if base else ReleaseSpec(app=app.name, number=number)
    spec = _changed(app, spec, releases, rollouts, change)
    spec = spec.model_copy(update={"app": app.name, "number": number, "by": by})
    labels = {"app": app.name, "team": app.spec.team}
    return Release(meta=Meta(name=release_name(app.name, number), labels=labels), spec=spec)


def _changed(
    app: App, base: ReleaseSpec, releases: Sequence[Release], rollouts: Sequence[Rollout], change: Change
) -> ReleaseSpec:
    match change:
        case ConfigChange():
            return _with_config(base, change)
        case ImageChange():
            return _with_image(base, change, app, count_last(app, releases, rollouts))
        case Restart():
            if base.image is None:
                raise ReleaseRefused("nothing-deployed", f"{app.name} has no release to restart: deploy it first")
            return base.model_copy(update={"description": "Restart", "copies": None, "note": ""})
        case Rollback():
            target = _find_rollback_target(app, releases, rollouts, change.to)
            if target.image not in list_kept_images(app, releases, rollouts):
                raise ReleaseRefused(
                    "image-gone", f"the image of v{target.number} is no longer kept: deploy its source again"
                )
            update = {"description": f"Rollback to v{target.number}", "copies": target.number, "note": ""}
            return target.model_copy(update=update)


def _with_config(base: ReleaseSpec, change: ConfigChange) -> ReleaseSpec:
    missing = sorted(set(change.unset) - set(base.config))
    if missing:
        raise ReleaseRefused("no-such-config", f"not set: {', '.join(missing)}; `seaway config list` shows what is")
    config = {key: value for key, value in base.config.items() if key not in set(change.unset)} | dict(change.set)
    if config == base.config:
        raise ReleaseRefused("no-change", "the config has these values already; no release was made")
    _check_size(base.config, config)
    said = [f"Set {', '.join(sorted(change.set))}"] if change.set else []
    said += [f"Unset {', '.join(sorted(change.unset))}"] if change.unset else []
    return base.model_copy(update={"config": config, "description": "; ".join(said), "copies": None, "note": ""})


def _check_size(before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """Refuse config that is too large, unless the change makes it smaller."""
    size = _measure(after)
    if len(after) > MOST_CONFIG and len(after) > len(before):
        raise ReleaseRefused("config-too-large", f"the app would have {len(after)} config values: {ADVICE}")
    if size > LARGEST_CONFIG and size > _measure(before):
        raise ReleaseRefused("config-too-large", f"the app's config would take {say_bytes(size)}: {ADVICE}")


def _measure(config: Mapping[str, str]) -> int:
    return sum(len(key.encode()) + len(value.encode()) for key, value in config.items())


def _with_image(base: ReleaseSpec, change: ImageChange, app: App, last: Mapping[str, int]) -> ReleaseSpec:
    manifest = change.manifest
    idle = [name for name in find_unstarted(manifest, last) if name not in app.spec.scale]
    rollout = manifest.rollout
    if change.strategy is not None:
        rollout = rollout.model_copy(update={"strategy": change.strategy})
    update = {
        "image": change.image,
        "build": change.build,
        "processes": manifest.processes,
        "release_command": manifest.release_command,
        "routes": manifest.routes,
        "mounts": manifest.mounts,
        "scale": manifest.scale,
        "unsaid": count_unsaid(manifest, last),
        "rollout": rollout,
        "router": manifest.router,
        "description": change.description or f"Deploy {change.image.rpartition('sha256:')[2][:12]}",
        "copies": None,
        "note": say_unstarted(app.name, idle),
    }
    return base.model_copy(update=update)


def count_last(app: App, releases: Iterable[Release], rollouts: Iterable[Rollout]) -> dict[str, int]:
    """Return as how many each process that the app ever had ran last, or is about to, by its release's own word.

    Releases whose rollout brought nothing do not count: what they asked for does not run. A process that only releases
    had which are not kept any more (see `history`) is as good as new.
    """
    vain = {rollout.spec.target for rollout in rollouts if rollout.ended and rollout.status.phase != Phase.SUCCEEDED}
    specs = sorted((release.spec for release in releases), key=lambda spec: spec.number)
    ran = [spec for spec in specs if spec.number == app.status.current or spec.number not in vain]
    return {process: spec.count(process) for spec in ran for process in spec.processes}


def count_unsaid(manifest: BuildManifest, last: Mapping[str, int]) -> dict[str, int]:
    """Return as how many the processes of a new release run of which its app files say no number.

    What ran goes on as it last did. Of what is new, or did not run, one starts if it is `web`, or if there is no `web`:
    what else stands in Procfiles may be a worker or a one-off (`migrate`, `init`), and a one-off that is run as a
    process ends, which fails the rollout.
    """
    others = 0 if WEB in manifest.processes else 1
    defaults = {name: 1 if name == WEB else others for name in manifest.processes if name not in manifest.scale}
    return {name: last.get(name) or default for name, default in defaults.items()}


def find_unstarted(manifest: BuildManifest, last: Mapping[str, int]) -> list[str]:
    """Return the new processes that are not started because no app file says how many."""
    new = manifest.processes.keys() - manifest.scale.keys() - last.keys()
    return sorted(new - {WEB}) if WEB in manifest.processes else []


def say_unstarted(app: str, processes: Sequence[str]) -> str:
    """Return the sentence about processes that are not started; "" if there are none."""
    if not processes:
        return ""
    names, counts = " and ".join(filter(None, (", ".join(processes[:-1]), processes[-1]))), "=1 ".join(processes)
    are = "is" if len(processes) == 1 else "are"
    return f"{names} {are} not started: nobody has said how many; `seaway ps scale {counts}=1 -a {app}`"


def _find_rollback_target(
    app: App, releases: Sequence[Release], rollouts: Sequence[Rollout], to: int | None
) -> ReleaseSpec:
    by_number = {release.spec.number: release.spec for release in releases}
    if to is not None:
        if to not in by_number:
            known = ", ".join(f"v{n}" for n in sorted(by_number)[-10:]) or "none"
            lack = (
                f"v{to} of {app.name} is not kept any more"
                if to < max(by_number, default=0)
                else (f"{app.name} has no release v{to}")
            )
            raise ReleaseRefused("no-such-release", f"{lack}; the newest are: {known}")
        if by_number[to].image is None:
            raise ReleaseRefused("no-image", f"v{to} holds config only, it never ran; choose another release")
        return by_number[to]
    found = find_return(app, releases, rollouts)
    if found is None:
        raise ReleaseRefused(
            "nothing-to-return-to", f"{app.name} has no earlier release that served; name one: rollback vN"
        )
    return found


def _content(spec: ReleaseSpec) -> str:
    """What makes a release differ in use: everything but its number and its story."""
    counts = {process: spec.count(process) for process in spec.processes}  # older releases say the same otherwise
    spec = spec.model_copy(update={"scale": counts, "unsaid": {}})
    return spec.model_dump_json(exclude={"number", "copies", "description", "note", "by", "build"})

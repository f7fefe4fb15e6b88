"""Which releases, rollouts and builds of an app stay: pure functions. The others `control/pruning.py` deletes.

Laws: what stays decides all that it decided before: the next release's number and what it starts from, which images
stay, where a rollback leads, which releases are on their way. So the newest of each kind stays for ever, and a number
is never given twice. A rollout stays as long as its release, and goes after it: a release without rollout would look
as if it were on its way.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from datetime import datetime, timedelta

from seaway.model import App, Build, BuildState, Meta, Release, Rollout
from seaway.rollout.keeping import list_built_images, list_kept_images, select_built
from seaway.rollout.releases import find_base, find_return

MOST_RELEASES = 200
"""Releases of an app, with the rollouts of these; more only where something still refers to older ones."""
MOST_BUILDS = 100
"""Builds of an app, besides those that have something left to do, and those of which the image stays."""
SETTLED = timedelta(minutes=10)
"""Age below which nothing goes: whoever numbers a document by a list that is older finds that number taken."""


@dataclass(frozen=True)
class History:
    """The documents of one app."""

    app: App
    releases: tuple[Release, ...]
    rollouts: tuple[Rollout, ...]
    builds: tuple[Build, ...]


@dataclass(frozen=True)
class Surplus:
    """What goes, oldest first."""

    releases: tuple[Release, ...] = ()
    rollouts: tuple[Rollout, ...] = ()
    builds: tuple[Build, ...] = ()


def list_images(history: History) -> frozenset[str]:
    """Return the images that the app may still need."""
    return list_kept_images(history.app, history.releases, history.rollouts) | list_built_images(history.builds)


def select_surplus(history: History, in_use: Set[int], now: datetime) -> Surplus:
    """Return the documents that nothing needs any more. `in_use`: releases of which the engine has something."""
    before = now - SETTLED
    builds = sorted(history.builds, key=lambda build: build.spec.number, reverse=True)
    with_image = {build.name for build in select_built(builds)}
    old_builds = [
        build for build in builds[MOST_BUILDS:]
        if _is_old(build.meta, before) and not _has_work(build) and build.name not in with_image
    ]  # fmt: skip
    releases = sorted(history.releases, key=lambda release: release.spec.number, reverse=True)
    old = [release for release in releases[MOST_RELEASES:] if _is_old(release.meta, before)]
    if old:
        gone = {build.name for build in old_builds}
        needed = _list_needed(history, [build for build in builds if build.name not in gone]) | in_use
        old = [release for release in old if release.spec.number not in needed]
    return Surplus(tuple(old[::-1]), _list_orphans(history), tuple(old_builds[::-1]))


def _is_old(meta: Meta, before: datetime) -> bool:
    return meta.created_at < before


def _has_work(build: Build) -> bool:
    """Whether the build is still to end, or its release to be made."""
    state = build.status.state
    coming = state is BuildState.SUCCEEDED and build.spec.deploy and build.status.release is None
    return coming or state in (BuildState.QUEUED, BuildState.RUNNING)


def _list_needed(history: History, builds: list[Build]) -> Set[int | None]:
    """Return the numbers of the releases that a document refers to, or that decide something."""
    app, releases, rollouts = history.app, history.releases, history.rollouts
    ended = {rollout.spec.target for rollout in rollouts if rollout.ended}
    needed: set[int | None] = {app.status.current, *app.status.traffic}
    needed |= {n for r in rollouts if not r.ended for n in (r.spec.target, r.status.base)}
    needed |= {max((rollout.spec.target for rollout in rollouts), default=None)}  # older ones never get a rollout
    needed |= {r.spec.number for r in releases if r.spec.image is not None and r.spec.number not in ended}
    needed |= {build.status.release for build in builds}
    coming = {build.name for build in builds if _has_work(build)}  # a release may be there that is not noted yet
    needed |= {release.spec.number for release in releases if release.spec.build in coming}
    if (base := find_base(app, releases, rollouts)) is not None:
        needed.add(base.spec.number)
    if (back := find_return(app, releases, rollouts)) is not None:
        needed.add(back.number)
    return needed | _list_holders(history)


def _list_holders(history: History) -> Set[int]:
    """Return for each image that is kept the newest release that served with it, else the newest that has it."""
    images = list_kept_images(history.app, history.releases, history.rollouts)
    served = {rollout.spec.target for rollout in history.rollouts if rollout.status.phase == "succeeded"}
    holders: dict[str, int] = {}
    for release in sorted(history.releases, key=lambda r: (r.spec.number in served, r.spec.number), reverse=True):
        if release.spec.image in images:
            holders.setdefault(release.spec.image, release.spec.number)
    return frozenset(holders.values())


def _list_orphans(history: History) -> tuple[Rollout, ...]:
    """Return the rollouts that are over and brought a release that is gone; the newest of all stays."""
    there = {release.spec.number for release in history.releases}
    by_age = sorted(history.rollouts, key=lambda rollout: rollout.spec.target)
    return tuple(rollout for rollout in by_age[:-1] if rollout.ended and rollout.spec.target not in there)

"""Which images must stay: a pure function of the documents. What it does not name, `control/pruning.py` deletes.

Per app: the images of releases that serve or are on their way, of the newest KEEP_RELEASES releases, the last
KEEP_SERVED different ones that served, and those of the newest KEEP_BUILDS builds and of every open one. The release
that a rollback without a number goes to is always among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from seaway.model import App, Build, BuildState, Phase, Release, ReleaseSpec, Rollout

KEEP_RELEASES = 20
KEEP_SERVED = 5
KEEP_BUILDS = 5


def list_kept_images(app: App, releases: Sequence[Release], rollouts: Sequence[Rollout]) -> frozenset[str]:
    """Return the images that the app's releases may still need: others cannot be rolled back to."""
    specs = {release.spec.number: release.spec for release in releases}
    newest = sorted(specs, reverse=True)
    ended, served = set(), set()
    for rollout in rollouts:
        if rollout.ended:
            ended.add(rollout.spec.target)
        if rollout.status.phase is Phase.SUCCEEDED:
            served.add(rollout.spec.target)
    in_use = {number for number in newest if number not in ended} | set(app.status.traffic)
    in_use |= {rollout.status.base for rollout in rollouts if not rollout.ended and rollout.status.base is not None}
    in_use |= {app.status.current} if app.status.current is not None else set()
    kept = {image for number in in_use | set(newest[:KEEP_RELEASES]) if (image := _image(specs, number))}
    past = dict.fromkeys(image for number in newest if number in served and (image := _image(specs, number)))
    return frozenset(kept | set(list(past)[:KEEP_SERVED]))


def list_built_images(builds: Sequence[Build]) -> frozenset[str]:
    """Return the images of `select_built`."""
    return frozenset(build.status.image for build in select_built(builds) if build.status.image)


def select_built(builds: Sequence[Build]) -> list[Build]:
    """Return one app's newest builds that made an image, and those of which the release is still to be made."""
    built = sorted((b for b in builds if b.status.image), key=lambda b: b.spec.number, reverse=True)
    return built[:KEEP_BUILDS] + [b for b in built[KEEP_BUILDS:] if b.spec.deploy and b.status.release is None]


def list_wanted_sources(builds: Sequence[Build]) -> frozenset[str]:
    """Return the digests (hexadecimal) of the source archives that builds still to be run, or run again, need."""
    open_states = (BuildState.QUEUED, BuildState.RUNNING)
    wanted = (b.spec.source.archive for b in builds if b.status.state in open_states)
    return frozenset(archive.removeprefix("sha256:") for archive in wanted if archive)


def _image(specs: Mapping[int, ReleaseSpec], number: int) -> str | None:
    return specs[number].image if number in specs else None

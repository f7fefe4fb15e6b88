"""Which images stay for an app's releases, and that only those can be rolled back to."""

from __future__ import annotations

import pytest

from seaway.model import (
    App,
    AppStatus,
    Build,
    BuildSpec,
    BuildState,
    BuildStatus,
    Meta,
    Phase,
    Release,
    ReleaseSpec,
    Rollout,
    RolloutSpec,
    RolloutStatus,
    Source,
)
from seaway.rollout.keeping import (
    KEEP_BUILDS,
    KEEP_RELEASES,
    KEEP_SERVED,
    list_built_images,
    list_kept_images,
    list_wanted_sources,
)
from seaway.rollout.releases import ReleaseRefused, Rollback, compose_release


def make_release(number: int, image: str | None = None) -> Release:
    spec = ReleaseSpec(app="shop", number=number, image=image or f"i{number}")
    return Release(meta=Meta(name=f"shop.v{number}"), spec=spec)


def make_rollout(number: int, phase: Phase = Phase.SUCCEEDED, base: int | None = None) -> Rollout:
    return Rollout(
        meta=Meta(name=f"shop.v{number}"),
        spec=RolloutSpec(app="shop", target=number),
        status=RolloutStatus(phase=phase, base=base),
    )


def make_app(current: int | None, **status: object) -> App:
    return App(meta=Meta(name="shop"), status=AppStatus.model_validate({"current": current, **status}))


def make_build(number: int, state: BuildState, release: int | None = None, image: str | None = None) -> Build:
    source = Source(archive=f"sha256:{number:064d}")
    spec = BuildSpec(app="shop", number=number, source=source)
    return Build(
        meta=Meta(name=f"shop.b{number}"), spec=spec, status=BuildStatus(state=state, release=release, image=image)
    )


def test_newest_releases_and_the_last_that_served() -> None:
    """Of 40 releases that served, the newest 20 stay and nothing older."""
    releases = [make_release(n) for n in range(1, 41)]
    kept = list_kept_images(make_app(40), releases, [make_rollout(n) for n in range(1, 41)])
    assert kept == {f"i{n}" for n in range(41 - KEEP_RELEASES, 41)}


def test_what_serves_stays_however_old() -> None:
    """After 40 failed releases, those that served, serve, take traffic or are on the way are there still."""
    releases = [make_release(n) for n in range(1, 61)]
    rollouts = [make_rollout(n) for n in range(1, 11)] + [make_rollout(n, Phase.FAILED) for n in range(12, 61)]
    rollouts += [make_rollout(11, Phase.KEEPING, base=3)]
    kept = list_kept_images(make_app(10, traffic={2: 10, 10: 90}), releases, rollouts)
    served = {f"i{n}" for n in range(11 - KEEP_SERVED, 11)}
    assert kept == served | {"i2", "i3", "i10", "i11"} | {f"i{n}" for n in range(41, 61)}


def test_rollback_without_number_is_always_possible() -> None:
    """A hundred restarts of one image do not push out the image that served before it."""
    releases = [make_release(n, "old" if n == 1 else "new") for n in range(1, 102)]
    rollouts = [make_rollout(n) for n in range(1, 102)]
    assert compose_release(make_app(101), releases, rollouts, Rollback(), "me").spec.image == "old"


def test_no_rollback_to_what_is_gone() -> None:
    """The refusal says what to do; the oldest release that is kept can be returned to."""
    releases = [make_release(n) for n in range(1, 41)]
    rollouts = [make_rollout(n) for n in range(1, 41)]
    with pytest.raises(ReleaseRefused, match="image of v20 is no longer kept: deploy its source again"):
        compose_release(make_app(40), releases, rollouts, Rollback(20), "me")
    assert compose_release(make_app(40), releases, rollouts, Rollback(21), "me").spec.image == "i21"


def test_built_images() -> None:
    """The newest builds' images stay, and older ones of which the release is still to be made."""
    builds = [make_build(n, BuildState.SUCCEEDED, None if n == 2 else n, f"i{n}") for n in range(1, 11)]
    assert list_built_images(builds) == {"i2"} | {f"i{n}" for n in range(11 - KEEP_BUILDS, 11)}


def test_sources_of_open_builds() -> None:
    """Queued and running builds need their source; those that ended do not."""
    builds = [make_build(n, state) for n, state in enumerate(BuildState)]
    assert list_wanted_sources(builds) == {f"{n:064d}" for n in (0, 1)}

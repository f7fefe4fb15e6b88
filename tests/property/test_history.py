"""Which documents of an app stay, of any history: few, and those that decide anything."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from seaway.rollout import history as bounds
from seaway.rollout.history import SETTLED, History, list_images, select_surplus
from seaway.rollout.keeping import KEEP_BUILDS, KEEP_RELEASES
from seaway.rollout.releases import Restart, compose_release, find_base, find_return, select_live

NOW = datetime(2030, 1, 1, tzinfo=UTC)
OLD = NOW - 2 * SETTLED
RELEASES, BUILDS = KEEP_RELEASES + 1, KEEP_BUILDS + 1  # few, so that histories that are too long are short
ENDS = (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED, Phase.ROLLED_BACK)

IMAGES = [f"i{n}" for n in range(8)]


phases = st.none() | st.sampled_from([Phase.QUEUED, Phase.KEEPING, *ENDS, *[Phase.SUCCEEDED] * 5])
spells = st.tuples(st.integers(1, 15), st.sampled_from(IMAGES), st.sampled_from("ab"), phases)


@pytest.fixture(autouse=True, scope="module")
def _few() -> object:
    """Let few documents be too many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "MOST_RELEASES", RELEASES)
        patch.setattr(bounds, "MOST_BUILDS", BUILDS)
        yield


def make_release(number: int, image: str | None, config: str, build: str | None = None) -> Release:
    spec = ReleaseSpec(app="shop", number=number, image=image, config={"A": config}, build=build)
    return Release(meta=Meta(name=f"shop.v{number}", created_at=OLD), spec=spec)


def make_rollout(number: int, phase: Phase, base: int | None) -> Rollout:
    spec, status = RolloutSpec(app="shop", target=number), RolloutStatus(phase=phase, base=base)
    return Rollout(meta=Meta(name=f"shop.v{number}", created_at=OLD), spec=spec, status=status)


def make_build(number: int, state: BuildState, release: int | None, deploy: bool) -> Build:
    spec = BuildSpec(app="shop", number=number, source=Source(archive="0" * 64), deploy=deploy)
    image = f"i{number}" if state is BuildState.SUCCEEDED else None
    status = BuildStatus(state=state, release=release, image=image)
    return Build(meta=Meta(name=f"shop.b{number}", created_at=OLD), spec=spec, status=status)


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Spells of releases that are alike, of config only first; builds of any state; and some documents are gone."""
    made: list[tuple[str | None, str, Phase | None]] = []
    made += [(None, "a", None)] * draw(st.integers(0, RELEASES + 5))
    for length, image, config, phase in draw(st.lists(spells, min_size=1, max_size=8)):
        made += [(image, config, phase)] * length
    numbers = range(1, len(made) + 1)
    some = st.none() | st.sampled_from(numbers)
    states = st.tuples(st.sampled_from(BuildState), some, st.booleans())
    builds = [make_build(n, *drawn) for n, drawn in enumerate(draw(st.lists(states, max_size=BUILDS + 10)), 1)]
    lost = draw(st.sets(st.sampled_from(numbers[:-1]), max_size=3)) if len(made) > 1 else set()
    of_builds = draw(st.dictionaries(st.sampled_from(numbers), st.integers(1, len(builds) + 1), max_size=4))
    releases = [
        make_release(n, image, config, build=f"shop.b{of_builds[n]}" if n in of_builds else None)
        for n, (image, config, _) in enumerate(made, 1)
        if n not in lost
    ]
    bases = draw(st.dictionaries(st.sampled_from(numbers), st.sampled_from(numbers), max_size=4))
    rollouts = [make_rollout(n, phase, bases.get(n)) for n, (_, _, phase) in enumerate(made, 1) if phase]
    status = AppStatus(
        current=draw(some), traffic=dict.fromkeys(draw(st.sets(st.sampled_from(numbers), max_size=2)), 50)
    )
    return History(App(meta=Meta(name="shop"), status=status), tuple(releases), tuple(rollouts), tuple(builds))


def shorten(history: History, used: frozenset[int] = frozenset(), now: datetime = NOW) -> History:
    """Return what is left, of the rollouts after a second time: they go after their releases."""
    for _ in range(2):
        surplus = select_surplus(history, used, now)
        history = replace(
            history,
            releases=tuple(r for r in history.releases if r not in surplus.releases),
            rollouts=tuple(r for r in history.rollouts if r not in surplus.rollouts),
            builds=tuple(b for b in history.builds if b not in surplus.builds),
        )
    return history


def list_working(history: History) -> list[str]:
    """Return the builds that are to end, or of which the release is to be made."""
    ended = [b for b in history.builds if b.status.state not in (BuildState.QUEUED, BuildState.RUNNING)]
    to_release = [b for b in ended if b.status.image and b.spec.deploy and b.status.release is None]
    return [build.name for build in history.builds if build not in ended or build in to_release]


@given(histories())
def test_what_stays_decides_what_all_of_it_did(history: History) -> None:
    """The next number and what it starts from, images, the way back, what is on its way; in between, too."""
    app = history.app
    surplus = select_surplus(history, frozenset(), NOW)
    between = replace(history, releases=tuple(r for r in history.releases if r not in surplus.releases))
    for left in (between, shorten(history)):
        assert max(r.spec.number for r in left.releases) == max(r.spec.number for r in history.releases)
        assert find_base(app, left.releases, left.rollouts) == find_base(app, history.releases, history.rollouts)
        assert find_return(app, left.releases, left.rollouts) == find_return(app, history.releases, history.rollouts)
        assert list_images(left) == list_images(history)
        live = select_live([app], left.releases, left.rollouts)
        assert live == select_live([app], history.releases, history.rollouts)
        assert list_working(left) == list_working(history)
    assert shorten(shorten(history)) == shorten(history)


@given(histories(), st.frozensets(st.integers(1, RELEASES + 40), max_size=3))
def test_what_is_referred_to_stays(history: History, used: frozenset[int]) -> None:
    """By the engine, the app, open rollouts and builds; the newest of all; and rollouts of what stays."""
    left = shorten(history, used)
    open_ = [rollout for rollout in history.rollouts if not rollout.ended]
    named = used | {history.app.status.current, *history.app.status.traffic}
    named |= {n for r in open_ for n in (r.spec.target, r.status.base)} | {b.status.release for b in left.builds}
    named |= {r.spec.number for r in sorted(history.releases, key=lambda r: r.spec.number)[-RELEASES:]}
    there = {release.spec.number for release in left.releases}
    assert {r.spec.number for r in history.releases} & named <= there
    assert all(rollout in left.rollouts for rollout in open_)
    assert all(rollout in left.rollouts for rollout in history.rollouts if rollout.spec.target in there)
    assert all(build in left.builds for build in sorted(history.builds, key=lambda b: b.spec.number)[-BUILDS:])


@given(histories())
def test_histories_are_bounded(history: History) -> None:
    """By what refers to something: so many releases beside the newest at most, and a rollout each."""
    left = shorten(history)
    working = list_working(history)
    ended = {rollout.spec.target for rollout in history.rollouts if rollout.ended}
    on_the_way = [r for r in history.releases if r.spec.image and r.spec.number not in ended]
    coming = [r for r in history.releases if r.spec.build in working]
    open_ = [rollout for rollout in history.rollouts if not rollout.ended]
    few = 1 + len(history.app.status.traffic) + 3 + len(IMAGES)
    most = RELEASES + few + 2 * len(open_) + len(on_the_way) + len(coming) + len(left.builds)
    assert len(left.releases) <= most
    assert len(left.builds) <= BUILDS + len(working) + KEEP_BUILDS
    assert {r.spec.target for r in left.rollouts if r.ended} <= {
        *(r.spec.number for r in left.releases), max((r.spec.target for r in history.rollouts), default=0)
    }  # fmt: skip


@given(histories())
def test_nothing_young_goes(history: History) -> None:
    """Whoever numbers a release by an old list finds its number taken."""
    assert select_surplus(history, frozenset(), OLD + SETTLED).releases == ()
    assert select_surplus(history, frozenset(), OLD + SETTLED).builds == ()


def test_a_thousand_changes_leave_two_hundred() -> None:
    """The number of the next one goes on; what served before, with another image, can be returned to."""
    app = App(meta=Meta(name="shop"), status=AppStatus(current=1000, traffic={1000: 100}))
    releases = tuple(make_release(n, "old" if n == 1 else "new", "a") for n in range(1, 1001))
    rollouts = tuple(make_rollout(n, Phase.SUCCEEDED, n - 1) for n in range(1, 1001))
    left = shorten(History(app, releases, rollouts, ()), now=OLD + SETTLED + timedelta(seconds=1))
    numbers = [r.spec.number for r in left.releases]
    assert numbers == [1, *range(1001 - RELEASES, 1001)]
    assert [r.spec.target for r in left.rollouts] == numbers
    assert compose_release(app, left.releases, left.rollouts, Restart(), "me").spec.number == 1001

"""Which events stay, of any history: never too many, and what one app records costs no other app any."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from seaway.store.base import Written
from seaway.store.events import select_surplus

APPS = ("blog", "mail", "shop")
"""Those that are there; others are gone, and have one share together."""

owners = st.sampled_from([*APPS, "gone", "long-gone", None])
bounds = st.integers(1, 8)


@st.composite
def histories(draw: st.DrawFn) -> list[Written]:
    """Events in any order, a few loud apps among them."""
    written: list[str | None] = []
    for owner, count in draw(st.lists(st.tuples(owners, st.integers(1, 12)), max_size=8)):
        written += [owner] * count
    events = [Written(f"e{n}", n, {"app": app} if app else {}) for n, app in enumerate(draw(st.permutations(written)))]
    return draw(st.permutations(events))


def share(event: Written) -> str:
    app = event.labels.get("app", "none")
    return app if app in APPS or app == "none" else "gone"


def count(events: Iterable[Written]) -> Counter[str]:
    return Counter(share(event) for event in events)


def stay(history: list[Written], of_app: int, whole: int) -> list[Written]:
    surplus = select_surplus(history, frozenset(APPS), of_app, whole)
    assert [event.revision for event in surplus] == sorted(event.revision for event in surplus), "oldest first"
    gone = {event.name for event in surplus}
    assert len(gone) == len(surplus)
    return [event for event in history if event.name not in gone]


@given(histories(), bounds, st.integers(1, 40))
def test_no_bound_is_passed_and_no_room_is_wasted(history: list[Written], of_app: int, whole: int) -> None:
    """Nor does anything go that has room within both."""
    kept = stay(history, of_app, whole)
    assert max(count(kept).values(), default=0) <= of_app
    assert len(kept) == min(whole, sum(min(n, of_app) for n in count(history).values()))


@given(histories(), bounds, st.integers(1, 40))
def test_the_newest_of_each_stay(history: list[Written], of_app: int, whole: int) -> None:
    """What goes of a share is older than all that stays of it; while there is room for one of each, each has one."""
    kept = stay(history, of_app, whole)
    by_share: dict[str, list[Written]] = defaultdict(list)
    for event in sorted(history, key=lambda event: event.revision, reverse=True):
        by_share[share(event)].append(event)
    numbers = count(kept)
    for name, events in by_share.items():
        assert {e.name for e in events[: numbers[name]]} == {e.name for e in kept if share(e) == name}
    if whole >= len(by_share):
        assert numbers.keys() == by_share.keys()


@given(histories(), bounds, st.integers(1, 40))
def test_who_lost_has_no_less_than_the_others(history: list[Written], of_app: int, whole: int) -> None:
    """But for the one that is left when the rest does not go evenly."""
    had, has = count(history), count(stay(history, of_app, whole))
    for name in had:
        if has[name] < min(had[name], of_app):
            assert has[name] >= max(has.values()) - 1


@given(histories(), st.sampled_from(APPS), st.integers(1, 100), bounds, st.integers(6, 40))
def test_a_loud_app_costs_a_quiet_one_nothing(
    history: list[Written], loud: str, more: int, of_app: int, whole: int
) -> None:
    """Whoever has no more than an even share of the whole keeps all of it, whatever one app adds."""
    flood = [Written(f"f{n}", 1000 + n, {"app": loud}) for n in range(more)]
    kept = {event.name for event in stay(history + flood, of_app, whole)}
    even = min(of_app, whole // 6)  # of three apps, two that are gone with one share, and none; rounded down
    for name, number in count(history).items():
        if name != loud and number <= even:
            assert {event.name for event in history if share(event) == name} <= kept

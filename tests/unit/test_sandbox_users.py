"""Who has which user id of this machine: one each, none twice, none again while it is somebody's."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.sandbox.users import BLOCK, FIRST, FIRST_SMALL, LAST, Given, Users, choose_block

STEPS = st.lists(st.tuples(st.sampled_from(["take", "drop"]), st.sampled_from("abcdefgh")), max_size=60)
WHOLE, SMALL, FEW = "0 0 4294967295", "0 100000 65536", "0 1000 1\n1 100000 999"


@given(STEPS)
def test_ids_are_stable_and_nobodys_else(steps: list[tuple[str, str]]) -> None:
    """Whatever comes and goes; and one that was let go is given again as late as can be."""
    have, released = Given(first=100, count=10), list[int]()
    for verb, name in steps:
        if verb == "take" and name not in have.ids:
            more = have.give(name)
            number = more.ids[name]
            assert number in range(100, 110)
            assert number not in have.ids.values()
            fresh = set(range(100, 110)) - set(have.ids.values()) - set(released)
            assert number in fresh or not fresh
            assert {each: more.ids[each] for each in have.ids} == have.ids
            have, released = more, [old for old in released if old != number]
        elif verb == "drop" and name in have.ids:
            released.append(have.ids[name])
            have = have.model_copy(update={"ids": {k: v for k, v in have.ids.items() if k != name}})


def test_all_taken_is_said() -> None:
    """With what to do."""
    full = Given(first=1, count=1).give("a")
    with pytest.raises(ValueError, match="all 1 user ids of this machine's apps are taken: destroy an app first"):
        full.give("b")


def test_users_outlive_processes(tmp_path: Path) -> None:
    """They are in a file; a name that was let go is forgotten."""
    users = Users(tmp_path / "users.json")
    first = users.take("app/shop")
    assert first in range(FIRST, LAST + 1)
    assert Users(tmp_path / "users.json").take("app/shop") == first
    second = users.take("build/shop")
    assert second != first
    users.drop("app/shop")
    users.drop("app/shop")
    assert users.list_names() == ["build/shop"]
    assert users.take("app/shop") not in (first, second)


@pytest.mark.parametrize(("mapped", "first", "count"), [(WHOLE, None, BLOCK), (SMALL, FIRST_SMALL, 606)])
def test_block_is_within_what_is_mapped(mapped: str, first: int | None, count: int) -> None:
    """A container may have the first 65,536 ids only."""
    block = choose_block(mapped)
    assert block.count == count
    assert block.first == first if first is not None else FIRST <= block.first <= LAST + 1 - BLOCK


def test_no_block_is_said() -> None:
    """Where a container has too few ids."""
    with pytest.raises(OSError, match="this container has no user ids for apps"):
        choose_block(FEW)

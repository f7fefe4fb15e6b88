"""The transition table: every path ends, and the picture in the docs is the table's."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from seaway.model import ENDED, Phase, RolloutStatus
from seaway.rollout.transitions import TRANSITIONS, NotInTable, advance

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_every_phase_is_in_the_table() -> None:
    assert set(TRANSITIONS) == set(Phase)


def test_ended_phases_have_no_way_out() -> None:
    assert {phase for phase, edges in TRANSITIONS.items() if not edges} == ENDED


def test_every_phase_can_reach_an_end() -> None:
    for phase in Phase:
        seen, todo = set(), {phase}
        while todo:
            seen |= todo
            todo = {to for one in todo for to in TRANSITIONS[one]} - seen
        assert seen & ENDED


def test_the_table_has_no_cycles() -> None:
    """A rollout can't go round: longest path is bounded."""

    def depth(phase: Phase, trail: tuple[Phase, ...] = ()) -> int:
        assert phase not in trail
        return 1 + max((depth(to, (*trail, phase)) for to in TRANSITIONS[phase]), default=0)

    assert depth(Phase.QUEUED) <= 9


def test_a_transition_that_is_not_there_raises_and_changes_nothing() -> None:
    status = RolloutStatus(phase=Phase.SUCCEEDED)
    with pytest.raises(NotInTable):
        advance(status, Phase.STARTING, "no", NOW)
    assert status.phase is Phase.SUCCEEDED

"""A rollout that is paused and forgotten."""

from __future__ import annotations

from datetime import timedelta

import pytest

from seaway.model import Meta, Phase, Rollout, RolloutSpec, RolloutStatus
from seaway.rollout.progress import PAUSE_LIMIT, progress_rollout
from tests.unit.test_lost_instances import NOW, instance, know, spec


@pytest.mark.parametrize(("left", "phase"), [(1, Phase.KEEPING), (0, Phase.RETURNING)])
def test_a_pause_ends(left: float, phase: Phase) -> None:
    """As if it had been cancelled, and not a second before."""
    entered = NOW - PAUSE_LIMIT + timedelta(seconds=left)
    status = RolloutStatus(phase=Phase.KEEPING, base=1, entered_at=entered, deadline=entered + timedelta(seconds=30))
    rollout = Rollout(meta=Meta(name="shop.v2"), spec=RolloutSpec(app="shop", target=2, paused=True), status=status)
    facts = know(instance("a"), instance("b", 2), releases={1: spec(1), 2: spec(2)}, rollouts=(rollout,))
    after, _ = progress_rollout(facts, rollout, None)
    assert (after.phase, after.verdict) == (phase, "" if left else "cancelled")

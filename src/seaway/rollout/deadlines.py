"""When a phase of a rollout has to be over: computed from what it waits for, by the settings of whose that is."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from seaway.model import Phase, Rollout, RolloutPolicy
from seaway.rollout.facts import Facts
from seaway.rollout.wanted import find_others

STOP_MARGIN = timedelta(seconds=60)  # beyond drain and grace, for an engine to report an instance gone
COMMAND_MARGIN = timedelta(seconds=30)  # beyond the time of a release command, for an engine to start and to end it


def find_deadline(facts: Facts, rollout: Rollout, phase: Phase) -> datetime:
    """Return when a phase that is entered now has to be over."""
    target, base = rollout.spec.target, rollout.status.base
    own, before = _find_policy(facts, target), _find_policy(facts, base)
    match phase:
        case Phase.PREPARING:
            return facts.now + _seconds(own.release_timeout) + COMMAND_MARGIN
        case Phase.CLEARING:
            return facts.now + _stop(facts, list_to_clear(facts, rollout))
        case Phase.STARTING:
            return facts.now + _seconds(own.start_timeout)
        case Phase.VERIFYING:
            return facts.now + _seconds(own.router_timeout + own.min_ready)
        case Phase.SHIFTING:
            return facts.now + _seconds(own.router_timeout)
        case Phase.KEEPING:
            return facts.now + _seconds(own.keep) + STOP_MARGIN
        case Phase.RETURNING:
            return facts.now + _seconds(before.router_timeout)
        case Phase.RESTORING:
            others = find_others(facts, base) if base is not None else []
            return facts.now + _stop(facts, others) + _seconds(before.start_timeout + before.router_timeout)
        case _:
            raise ValueError(f"{phase} has no deadline")


def find_growth_deadline(facts: Facts, rollout: Rollout) -> datetime:
    """Return when A, which was kept smaller than is wanted by now, has to be as large."""
    return facts.now + _seconds(_find_policy(facts, rollout.status.base).start_timeout)


def list_to_clear(facts: Facts, rollout: Rollout) -> list[int]:
    """Return the releases that stop before the target of a rollout with `recreate` starts."""
    base = () if rollout.status.base is None else (rollout.status.base,)
    return sorted({*find_others(facts, rollout.spec.target), *base})


def _stop(facts: Facts, releases: Iterable[int]) -> timedelta:
    """Return how long these may take to end: each drains as long as its own setting says, then its grace begins."""
    longest = timedelta()
    for number in releases:
        processes = facts.releases[number].processes.values() if number in facts.releases else ()
        grace = max((process.stop_grace for process in processes), default=0.0)
        longest = max(longest, _seconds(_find_policy(facts, number).drain + grace))
    return longest + STOP_MARGIN


def _find_policy(facts: Facts, release: int | None) -> RolloutPolicy:
    return facts.releases[release].rollout if release is not None and release in facts.releases else RolloutPolicy()


def _seconds(number: float) -> timedelta:
    return timedelta(seconds=number)

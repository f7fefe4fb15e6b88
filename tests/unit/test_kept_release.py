"""Scaling while the old release is kept: only the one that serves grows, and the way back grows the old one first."""

from __future__ import annotations

from datetime import timedelta

import pytest

from seaway.model import (
    App,
    AppSpec,
    AppStatus,
    Instance,
    InstanceState,
    Meta,
    Phase,
    Process,
    Rollout,
    RolloutSpec,
    RolloutStatus,
    Workload,
    WorkloadKey,
)
from seaway.rollout.decide import decide
from seaway.rollout.facts import Facts
from seaway.rollout.wanted import choose_traffic
from tests.unit.test_lost_instances import NOW, instance, spec

BOTH = {"web": Process(command="run"), "worker": Process(command="work")}


def told(release: int, process: str, count: int) -> Workload:
    """Return what the engine was told before."""
    key = WorkloadKey(app="shop", release=release, process=process)
    return Workload(key=key, count=count, image="sha256:x", process=BOTH[process], team="default")


def know(web: dict[int, int], scale: int, *more: Instance, cancel: bool = False, **status: object) -> Facts:
    """Return facts after v1 gave the traffic to v2; `web`: how many of each release run; both have one worker."""
    phase = status.pop("phase", Phase.KEEPING)
    rollout = Rollout(
        meta=Meta(name="shop.v2"),
        spec=RolloutSpec(app="shop", target=2, cancel=cancel),
        status=RolloutStatus.model_validate(
            {"phase": phase, "base": 1, "entered_at": NOW, "deadline": NOW + timedelta(seconds=60)} | status
        ),
    )
    ready = [instance(f"w{r}-{i}", r) for r, count in web.items() for i in range(count)]
    workers = [instance(f"j{r}", r, process="worker") for r in (1, 2)]
    workloads = [told(r, name, n) for r in (1, 2) for name, n in (("web", web[r]), ("worker", 1))]
    holder = 2 if phase is Phase.KEEPING else 1
    app = App(meta=Meta(name="shop"), spec=AppSpec(scale={"web": scale, "worker": scale}))
    return Facts(
        now=NOW,
        app=app.model_copy(update={"status": AppStatus(current=holder, traffic={holder: 100})}),
        releases={n: spec(n).model_copy(update={"processes": BOTH}) for n in (1, 2)},
        rollouts=(rollout,),
        instances=(*ready, *workers, *more),
        workloads=tuple(workloads),
    )


def counts(facts: Facts) -> dict[str, int]:
    """Return how many of each are wanted after the pass."""
    asked = {w.key: w.count for w in (*facts.workloads, *decide(facts).apply)}
    return {f"v{key.release}.{key.process}": count for key, count in asked.items()}


def test_a_larger_scale_starts_none_of_the_old_release() -> None:
    """Web and workers alike; the release that serves grows."""
    assert counts(know({1: 1, 2: 1}, scale=3)) == {"v1.web": 1, "v1.worker": 1, "v2.web": 3, "v2.worker": 3}


def test_while_traffic_returns_the_release_that_is_left_does_not_grow() -> None:
    """The other way round."""
    facts = know({1: 1, 2: 1}, scale=3, phase=Phase.RETURNING, verdict="cancelled")
    assert counts(facts) == {"v1.web": 3, "v1.worker": 3, "v2.web": 1, "v2.worker": 1}


def test_a_smaller_scale_stops_what_is_too_much_of_both() -> None:
    """And a larger one later starts none of the old one again."""
    small = counts(know({1: 3, 2: 3}, scale=2))
    assert (small["v1.web"], small["v2.web"]) == (2, 2)
    assert counts(know({1: 2, 2: 2}, scale=3))["v1.web"] == 2


def test_a_cancel_grows_the_old_release_before_it_serves_again() -> None:
    """While it grows, all requests go to the new one."""
    asked = decide(know({1: 1, 2: 3}, scale=3, cancel=True)).rollout_status["shop.v2"]
    assert (asked.phase, asked.verdict) == (Phase.KEEPING, "cancelled")
    growing = {"cancel": True, **asked.model_dump(include={"verdict", "verdict_reason", "deadline"})}
    facts = know({1: 1, 2: 3}, 3, **growing)
    assert counts(facts)["v1.web"] == 3
    assert counts(facts)["v1.worker"] == 3
    waiting = decide(facts)
    assert choose_traffic(facts) == {2: 100}
    assert waiting.rollout_status["shop.v2"].reason == (
        "cancelled by a user; the traffic returns once v1 has grown (v1: 1 of 3 web ready; 1 of 3 worker ready)"
    )
    jobs = [instance(f"more{i}", process="worker") for i in range(2)]
    assert decide(know({1: 3, 2: 3}, 3, *jobs, **growing)).rollout_status["shop.v2"].phase is Phase.RETURNING


@pytest.mark.parametrize("serving", [True, False])
def test_a_fault_waits_for_growth_only_while_the_new_release_serves(serving: bool) -> None:
    """Of requests that nobody answers, a few answered by too small a release are the better part."""
    crashing = instance("bad", 2, InstanceState.CRASHING)
    facts = know({1: 1, 2: 2 if serving else 0}, 3, crashing)
    status = decide(facts).rollout_status["shop.v2"]
    assert status.phase is (Phase.KEEPING if serving else Phase.RETURNING)
    assert choose_traffic(facts) == ({2: 100} if serving else {1: 100})


@pytest.mark.parametrize(("verdict", "ends"), [("cancelled", Phase.CANCELLED), ("failed", Phase.RETURNING)])
def test_growth_ends(verdict: str, ends: Phase) -> None:
    """Late: a good release stays, a bad one is left for what there is of the old one."""
    facts = know({1: 1, 2: 3}, 3, verdict=verdict, verdict_reason="why", deadline=NOW)
    status = decide(facts).rollout_status["shop.v2"]
    assert status.phase is ends
    if ends is Phase.CANCELLED:
        assert status.reason.startswith("why; v2 stays, as v1 did not grow in time (`start_timeout` of [rollout]; v1:")


def test_from_zero_the_old_release_can_still_be_returned_to() -> None:
    """It was kept with nothing running; cancelled, it starts, and only then gets the traffic."""
    facts = know({1: 0, 2: 1}, 1, cancel=True)
    assert decide(facts).rollout_status["shop.v2"].phase is Phase.KEEPING
    assert counts(know({1: 0, 2: 1}, 1, verdict="cancelled"))["v1.web"] == 1

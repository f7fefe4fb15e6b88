"""What is said and done when the cluster makes no pods: a quota is used up, or an admission rule says no."""

from __future__ import annotations

from datetime import timedelta

import pytest

from seaway.model import (
    InstanceState,
    Meta,
    Phase,
    Rollout,
    RolloutSpec,
    RolloutStatus,
    Strategy,
    TaskState,
    WorkloadKey,
)
from seaway.rollout.decide import decide
from tests.unit.test_lost_instances import NOW, instance, know, reason, spec

WHY = "the cluster refuses its instances: quota seaway lacks pods: 1 asked for, 5 of 5 used"


def refused(release: int = 1, process: str = "web") -> dict[WorkloadKey, str]:
    return {WorkloadKey(app="shop", release=release, process=process): WHY}


def test_an_app_without_instances_says_why() -> None:
    """Nothing of it runs: the refusal is the only reason there is."""
    plan = decide(know(count=2, refused=refused()))
    assert plan.app_status is not None
    assert (plan.app_status.state, reason(plan)) == ("down", f"v1: 0 of 2 web ready ({WHY})")


def test_an_app_with_too_few_instances_says_why() -> None:
    """Those that serve have no reason of their own. Another workload's refusal is none of this one's."""
    plan = decide(know(instance("a"), count=2, refused=refused()))
    assert plan.app_status is not None
    assert (plan.app_status.state, reason(plan)) == ("degraded", f"v1: 1 of 2 web ready ({WHY})")
    assert reason(decide(know(instance("a"), count=2, refused=refused(process="worker")))) == "v1: 1 of 2 web ready"


def test_an_instances_own_reason_comes_first() -> None:
    """What crashes is worse than what is not there yet."""
    crashing = instance("b", state=InstanceState.BACKOFF, restarts=1, reason="exited with code 1")
    plan = decide(know(instance("a"), crashing, count=3, refused=refused()))
    assert reason(plan) == "v1: 1 of 3 web ready (exited with code 1)"


def test_a_release_command_that_does_not_start_says_why() -> None:
    """Its pod is refused, or waits for a node; once it runs there is nothing to say."""
    status = RolloutStatus(phase=Phase.PREPARING, base=1, entered_at=NOW, deadline=NOW + timedelta(seconds=60))
    rollout = Rollout(meta=Meta(name="shop.v2"), spec=RolloutSpec(app="shop", target=2), status=status)
    releases = {1: spec(1), 2: spec(2).model_copy(update={"release_command": "./migrate"})}
    for started, waits in ((None, f" (not started yet: {WHY})"), (NOW, "")):
        task = TaskState(id="shop-v2-release", app="shop", reason=WHY, started_at=started)
        facts = know(instance("a"), releases=releases, rollouts=(rollout,), tasks={task.id: task})
        found = decide(facts).rollout_status["shop.v2"]
        assert (found.phase, found.reason) == (Phase.PREPARING, f"runs the release command of v2: ./migrate{waits}")


def test_a_release_command_that_fails_says_with_which_error() -> None:
    """But no value of the app's config, which its error may quote."""
    config = {"DATABASE_URL": "postgres://shop:correct-horse@db/shop"}
    status = RolloutStatus(phase=Phase.PREPARING, base=1, entered_at=NOW, deadline=NOW + timedelta(seconds=60))
    rollout = Rollout(meta=Meta(name="shop.v2"), spec=RolloutSpec(app="shop", target=2), status=status)
    releases = {1: spec(1), 2: spec(2).model_copy(update={"release_command": "./migrate", "config": config})}
    said = f"exited with code 1; last output: no database at {config['DATABASE_URL']}"
    task = TaskState(id="shop-v2-release", app="shop", done=True, exit_code=1, reason=said, started_at=NOW)
    plan = decide(know(instance("a"), releases=releases, rollouts=(rollout,), tasks={task.id: task}))
    why = "the release command of v2 failed: exited with code 1; last output: no database at $DATABASE_URL"
    found = plan.rollout_status["shop.v2"]
    assert (found.phase, found.reason) == (Phase.FAILED, f"{why}; v1 serves on")
    assert [event.message for event in plan.events if "failed" in event.message] == [found.reason]


@pytest.mark.parametrize("strategy", list(Strategy))
def test_a_release_command_that_wrote_files_says_that_they_are_gone(strategy: Strategy) -> None:
    """In the reason of the next phase, whichever that is."""
    status = RolloutStatus(phase=Phase.PREPARING, base=1, entered_at=NOW, deadline=NOW + timedelta(seconds=60))
    rollout_spec = RolloutSpec(app="shop", target=2, strategy=strategy)
    rollout = Rollout(meta=Meta(name="shop.v2"), spec=rollout_spec, status=status)
    releases = {1: spec(1), 2: spec(2).model_copy(update={"release_command": "./migrate"})}
    task = TaskState(id="shop-v2-release", app="shop", done=True, exit_code=0, wrote=("db.sqlite3",))
    facts = know(instance("a"), releases=releases, rollouts=(rollout,), tasks={task.id: task})
    said = "wrote db.sqlite3 into its own copy of the app, which is gone now: what must stay goes into a folder of"
    assert said in decide(facts).rollout_status["shop.v2"].reason


def test_a_rollout_waits_then_gives_up_with_the_reason() -> None:
    """Somebody may make room in time; if not, A has all the traffic still."""
    rollout = Rollout(
        meta=Meta(name="shop.v2"),
        spec=RolloutSpec(app="shop", target=2),
        status=RolloutStatus(
            phase=Phase.STARTING, base=1, entered_at=NOW - timedelta(seconds=60), deadline=NOW + timedelta(seconds=1)
        ),
    )
    facts = know(instance("a"), releases={1: spec(1), 2: spec(2)}, rollouts=(rollout,), refused=refused(2))
    waiting = decide(facts).rollout_status["shop.v2"]
    assert (waiting.phase, waiting.reason) == (Phase.STARTING, f"v2: 0 of 1 web ready ({WHY})")
    late = rollout.model_copy(update={"status": rollout.status.model_copy(update={"deadline": NOW})})
    plan = decide(know(instance("a"), releases=facts.releases, rollouts=(late,), refused=refused(2)))
    given_up = plan.rollout_status["shop.v2"]
    assert given_up.phase is Phase.FAILED
    assert (
        given_up.reason
        == f"gave up after 60 s of starting (`start_timeout` of [rollout]): v2: 0 of 1 web ready ({WHY}); v1 serves on"
    )
    assert plan.app_status is None or plan.app_status.traffic == {1: 100}

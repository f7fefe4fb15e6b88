"""What is decided about instances on lost nodes: who is replaced, who is not and why, and what is not waited for."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from seaway.model import (
    App,
    AppSpec,
    AppStatus,
    Drain,
    Instance,
    InstanceState,
    Meta,
    NodeState,
    Phase,
    Process,
    ReleaseSpec,
    Rollout,
    RolloutPolicy,
    RolloutSpec,
    RolloutStatus,
    Strategy,
    WorkloadKey,
)
from seaway.rollout.decide import decide
from seaway.rollout.facts import Facts, Plan, RouterFacts
from seaway.rollout.wanted import choose_traffic
from seaway.router.table import build_app_table

NOW = datetime(2026, 1, 1, tzinfo=UTC)
S = InstanceState
WHY = "node n1 does not answer since 12:00:00 UTC, and nobody else has heard of it since"


def spec(number: int, strategy: Strategy = Strategy.BLUE_GREEN, process: str = "web") -> ReleaseSpec:
    return ReleaseSpec(
        app="shop",
        number=number,
        image="sha256:x",
        processes={process: Process(command="run")},
        rollout=RolloutPolicy(strategy=strategy),
    )


def instance(
    name: str, release: int = 1, state: InstanceState = S.RUNNING, process: str = "web", **more: Any
) -> Instance:
    return Instance(
        id=name,
        key=WorkloadKey(app="shop", release=release, process=process),
        node="n2",
        state=state,
        ready=state is S.RUNNING,
        created_at=NOW,
        address="10.0.0.1",
        port=8080,
        **more,
    )


def lost(name: str, release: int = 1, state: InstanceState = S.LOST, process: str = "web") -> Instance:
    return instance(name, release, state, process, node_state=NodeState.LOST, reason=WHY)


def judge(*instances: Instance, **more: Any) -> Plan:
    """Decide about the app of `know`."""
    return decide(know(*instances, **more))


def know(*instances: Instance, strategy: Strategy = Strategy.BLUE_GREEN, process: str = "web", **more: Any) -> Facts:
    """Return facts of an app whose v1 serves, with as many instances wanted as are given unless `count` says so."""
    count = more.pop("count", len(instances))
    status = AppStatus(current=1, traffic={1: 100}, drains=more.pop("drains", {}))
    app = App(
        meta=Meta(name="shop"), spec=AppSpec(scale={process: count}, destroy=more.pop("destroy", False)), status=status
    )
    releases = more.pop("releases", {1: spec(1, strategy, process)})
    routers = (RouterFacts("r1", applied=False),)  # one that hangs: nobody may wait for it on behalf of the lost
    return Facts(now=NOW, app=app, releases=releases, instances=instances, routers=routers, **more)


def retired(plan: Plan) -> dict[str, tuple[int, tuple[str, ...]]]:
    return {str(w.key): (w.count, w.retire) for w in plan.apply}


def reason(plan: Plan) -> str:
    assert plan.app_status is not None
    return plan.app_status.reason


def test_a_lost_instance_is_replaced_at_once() -> None:
    """It is named to the engine at an unchanged count, without a drain and without waiting for a router."""
    plan = judge(instance("a"), lost("b"))
    assert retired(plan) == {"shop.v1.web": (2, ("b",))}
    assert plan.app_status is not None
    assert (plan.app_status.state, plan.app_status.drains) == ("degraded", {})
    assert reason(plan) == f"v1: 1 of 2 web ready ({WHY}; another takes its place)"


def test_one_that_comes_back_goes_on() -> None:
    """Before it was told to stop, nothing of it is left."""
    assert retired(judge(instance("a"), instance("b"))) == {"shop.v1.web": (2, ())}


def test_nothing_counts_twice_when_the_node_returns() -> None:
    """The old one ends, its successor serves: that is as many as are wanted."""
    plan = judge(instance("a"), instance("b", state=S.STOPPING), instance("c"), count=2)
    assert retired(plan) == {"shop.v1.web": (2, ("b",))}
    assert plan.app_status is not None
    assert plan.app_status.state == "serving"


def test_in_an_outage_nothing_is_replaced() -> None:
    """The reason says so. A smaller scale still takes the lost ones first."""
    plan = judge(instance("a"), lost("b"), outage="2 of 3 nodes vanished at once")
    assert retired(plan) == {"shop.v1.web": (2, ())}
    assert "2 of 3 nodes vanished at once" in reason(plan)
    assert retired(judge(lost("a"), instance("b"), count=1, outage="x")) == {"shop.v1.web": (1, ("a",))}


@pytest.mark.parametrize("state", [S.LOST, S.STOPPING])
def test_what_must_not_run_twice_is_not_replaced(state: InstanceState) -> None:
    """It may still run there; the reason says what the user can do."""
    plan = judge(lost("a", process="worker", state=state), strategy=Strategy.RECREATE, process="worker")
    ((count, retire),) = retired(plan).values()
    assert (count, retire) == ((1, ()) if state is S.LOST else (0, ("a",)))
    assert reason(plan) == (
        f"v1: 0 of 1 worker ready ({WHY}; v1 may still run there and must not run twice; bring the node back, or, "
        "once you know that it is off, delete it from the cluster, or restart the app (`seaway ps restart`) and "
        "promote that rollout)"
    )


def test_nothing_starts_beside_another_release_that_must_not_run_twice() -> None:
    """v2 was to run alone, failed, and may still run on a lost node: v1 is not started again, and says why."""
    releases = {1: spec(1), 2: spec(2, Strategy.RECREATE)}
    plan = judge(lost("b", release=2, state=S.STOPPING), count=2, releases=releases)
    assert retired(plan)["shop.v1.web"] == (0, ())
    assert f"{WHY}; v2 may still run there and must not run twice" in reason(plan)
    plan = judge(instance("a"), lost("b", release=2, state=S.STOPPING), count=2, releases=releases)
    assert retired(plan)["shop.v1.web"] == (1, ())


def test_a_drain_on_a_lost_node_ends() -> None:
    """Nothing can be in flight there that could still be answered; the routers don't know it any more."""
    drain = Drain(since=NOW, limit=NOW + timedelta(seconds=30), why="fewer instances are wanted")
    plan = judge(instance("a"), lost("b"), count=1, drains={"b": drain})
    assert retired(plan) == {"shop.v1.web": (1, ("b",))}
    assert plan.app_status is not None
    assert plan.app_status.drains == {}


def test_destroying_does_not_wait_for_a_lost_node() -> None:
    """What was told to stop there stops when the node is back, whether or not the app is still known."""
    assert judge(lost("a", state=S.STOPPING), destroy=True).delete
    assert not judge(instance("a", state=S.STOPPING), destroy=True).delete


def midway(phase: Phase, strategy: Strategy, *instances: Instance, promote: bool = False) -> Facts:
    """Return facts in the middle of a rollout from v1 to v2."""
    rollout = Rollout(
        meta=Meta(name="shop.v2"),
        spec=RolloutSpec(app="shop", target=2, strategy=strategy, promote=promote),
        status=RolloutStatus(phase=phase, base=1, entered_at=NOW, deadline=NOW + timedelta(seconds=60)),
    )
    releases = {1: spec(1, strategy), 2: spec(2, strategy)}
    return know(*instances, count=1, rollouts=(rollout,), releases=releases)


def roll(phase: Phase, strategy: Strategy, *instances: Instance, promote: bool = False) -> tuple[Plan, RolloutStatus]:
    """Decide in the middle of a rollout; return its next status too."""
    facts = midway(phase, strategy, *instances, promote=promote)
    plan = decide(facts)
    return plan, plan.rollout_status.get("shop.v2", facts.rollouts[0].status)


def test_clearing_waits_for_a_lost_node_until_somebody_knows_better() -> None:
    """A recreate rollout says what it waits for; promoting it lets B start all the same."""
    plan, status = roll(Phase.CLEARING, Strategy.RECREATE, lost("a"))
    assert retired(plan) == {"shop.v1.web": (0, ("a",))}
    assert status.reason.startswith(f"waits for v1 to stop before v2 starts: {WHY}, and it may still run there; once")
    assert roll(Phase.CLEARING, Strategy.RECREATE, lost("a", state=S.STOPPING))[1].phase is Phase.CLEARING
    assert roll(Phase.CLEARING, Strategy.RECREATE, lost("a", state=S.STOPPING), promote=True)[1].phase is Phase.STARTING


@pytest.mark.parametrize("phase", [Phase.SHIFTING, Phase.KEEPING])
def test_traffic_returns_to_a_when_a_node_takes_all_of_b(phase: Phase) -> None:
    """It is not B's fault, but A answers and B does not: requests come first. The reason names the node."""
    _, status = roll(phase, Strategy.BLUE_GREEN, instance("a"), lost("b", release=2))
    assert status.phase is Phase.RETURNING
    assert status.reason.startswith(f"v2 serves nobody any more (v2: 0 of 1 web ready ({WHY}; another takes its place)")
    assert status.reason.endswith("the traffic returns to v1")


@pytest.mark.parametrize("phase", [Phase.SHIFTING, Phase.KEEPING])
def test_a_rollout_goes_on_when_nodes_take_all_of_both(phase: Phase) -> None:
    """There is nothing to return to: what was lost of B is replaced."""
    plan, status = roll(phase, Strategy.BLUE_GREEN, lost("a"), lost("b", release=2))
    assert status.phase is phase
    assert retired(plan)["shop.v2.web"] == (1, ("b",))


@pytest.mark.parametrize("phase", [Phase.SHIFTING, Phase.KEEPING])
def test_what_started_again_with_a_is_only_late(phase: Phase) -> None:
    """After `seaway down` and `up`, or of the machine, A may be ready first. Gone while A served on: back to A."""
    before, after = NOW - timedelta(minutes=1), NOW + timedelta(seconds=1)
    starts = instance("b", release=2, state=S.STARTING)
    for since, ends in ((after, phase), (before, Phase.RETURNING)):
        _, status = roll(phase, Strategy.BLUE_GREEN, instance("a", ready_since=since), starts)
        assert status.phase is ends
    both = (instance("a", ready_since=after), instance("a2", ready_since=before), starts)
    assert roll(phase, Strategy.BLUE_GREEN, *both)[1].phase is Phase.RETURNING


@pytest.mark.parametrize("phase", [Phase.SHIFTING, Phase.KEEPING])
def test_a_release_that_was_deleted_is_returned_from(phase: Phase) -> None:
    """By `kubectl delete`: no pass fails for it, and traffic returns."""
    facts = midway(phase, Strategy.BLUE_GREEN, instance("a"), instance("b", release=2))
    facts = replace(facts, releases={1: facts.releases[1]})
    assert choose_traffic(facts) == {1: 100}
    assert decide(facts).rollout_status["shop.v2"].phase is Phase.RETURNING


def test_a_worker_that_starts_again_is_no_reason_to_go_back() -> None:
    """No request is lost meanwhile; one that goes on crashing is."""
    for state, ends in ((S.BACKOFF, Phase.KEEPING), (S.CRASHING, Phase.RETURNING)):
        worker = instance("b", release=2, process="worker", state=state)
        facts = midway(Phase.KEEPING, Strategy.BLUE_GREEN, instance("a", process="worker"), worker)
        releases = {number: spec(number, process="worker") for number in (1, 2)}
        facts = replace(facts, releases=releases)
        status = decide(facts).rollout_status.get("shop.v2", facts.rollouts[0].status)
        assert status.phase is ends, status.reason


def test_the_pass_that_returns_traffic_sends_nobody_to_b() -> None:
    """A router that has not taken B's routes yet would be led from what serves to what does not."""
    for phase in (Phase.SHIFTING, Phase.KEEPING, Phase.RETURNING):
        assert choose_traffic(midway(phase, Strategy.BLUE_GREEN, instance("a"), lost("b", release=2))) == {1: 100}
    for ready in (instance("b", release=2), lost("b", release=2)):
        gone = lost("a") if ready.state is S.LOST else instance("a")
        assert choose_traffic(midway(Phase.KEEPING, Strategy.BLUE_GREEN, gone, ready)) == {2: 100}


GONE = (("c", S.LOST, 82), ("d", S.STOPPING, 83))


def test_routers_know_nothing_of_lost_instances_and_prefer_others_to_suspect_ones() -> None:
    """Not even one that was draining there."""
    drain = Drain(since=NOW, limit=NOW, why="")
    app = App(meta=Meta(name="shop"), status=AppStatus(traffic={1: 100}, drains={"d": drain}))
    doubt = instance("b", node_state=NodeState.SUSPECT).model_copy(update={"port": 81})
    gone = [lost(name, state=state).model_copy(update={"port": port}) for name, state, port in GONE]
    table = build_app_table(app, {}, [instance("a"), doubt, *gone], "localhost")
    (backend,) = table.backends
    assert [(e.instance, e.draining, e.degraded) for e in backend.endpoints] == [
        ("a", False, False),
        ("b", False, True),
    ]

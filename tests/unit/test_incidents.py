"""Failures and kills of instances become events: each once, also across a restart of the control plane."""

from __future__ import annotations

from datetime import UTC, datetime

from seaway.control.incidents import Incidents, describe
from seaway.model import App, AppSpec, EventSpec, Instance, InstanceState, Meta, WorkloadKey
from seaway.rollout.facts import Facts
from seaway.store.events import record_event
from seaway.store.memory import MemoryStore

NOW = datetime(2030, 1, 1, tzinfo=UTC)
KEY = WorkloadKey(app="shop", release=1, process="web")


def instance(**fields: object) -> Instance:
    known = {"id": "shop-v1-web-x", "key": KEY, "node": "here", "created_at": NOW}
    return Instance.model_validate(known | fields)


def facts(*instances: Instance) -> Facts:
    app = App(meta=Meta(name="shop"), spec=AppSpec(team="red"))
    return Facts(
        now=NOW, app=app, releases={}, rollouts=(), observed=True, instances=instances, workloads=(), tasks={},
        routers=(),
    )  # fmt: skip


async def test_an_incident_is_told_once() -> None:
    """However often it is seen, and by however many control planes; the next failure is another one."""
    store = MemoryStore()
    told: list[EventSpec] = []

    async def tell(event: EventSpec, team: str) -> None:
        told.append(event)
        await record_event(
            store, about=event.about, reason=event.reason, message=event.message, app=event.app, team=team
        )

    failed = instance(state=InstanceState.BACKOFF, reason="exited with code 3 after 2.0 s", restarts=1)
    for incidents in (Incidents(store, tell), Incidents(store, tell)):
        await incidents.note(facts(failed))
        await incidents.note(facts(failed))
    assert [(event.reason, event.about) for event in told] == [("InstanceFailed", "instance shop-v1-web-x")]
    assert told[0].message == "exited with code 3 after 2.0 s (restarts so far: 1)"
    await Incidents(store, tell).note(facts(failed.model_copy(update={"restarts": 2})))
    assert len(told) == 2


def test_a_crash_loop_fills_no_history() -> None:
    """After the first failures only every power of two is told."""
    failures = (instance(state=InstanceState.CRASHING, restarts=count) for count in range(100))
    assert [found for one in failures if (found := describe(one, NOW))][-1].message.endswith("(restarts so far: 64)")
    assert describe(instance(state=InstanceState.RUNNING), NOW) is None
    assert describe(instance(state=InstanceState.STOPPED, reason="retired"), NOW) is None
    lost = (instance(state=InstanceState.RUNNING, memory_kills=count, reason=f"{count} lost") for count in range(100))
    events = [found for one in lost if (found := describe(one, NOW))]
    assert [event.message for event in events] == [f"{n} lost" for n in (1, 2, 3, 4, 8, 16, 32, 64)]
    assert events[0].reason == "InstanceShortOfMemory"


def test_who_wrote_too_much_is_told_by_its_name() -> None:
    """On one machine it fails and is started again, in a cluster its pod is gone."""
    for state, said in ((InstanceState.BACKOFF, "wrote (restarts so far: 1)"), (InstanceState.STOPPED, "wrote")):
        event = describe(instance(state=state, over_disk=True, reason="wrote", restarts=1), NOW)
        assert event is not None
        assert (event.reason, event.message) == ("InstanceOverDisk", said)
    assert describe(instance(state=InstanceState.RUNNING, over_disk=True), NOW) is None
    killed = describe(instance(state=InstanceState.STOPPED, killed=True, reason="retired; killed"), NOW)
    assert killed is not None
    assert killed.reason == "InstanceKilled"

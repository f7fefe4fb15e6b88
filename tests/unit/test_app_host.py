"""The host that an app's checks name: it comes with a workload and stays with it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from seaway.model import App, AppSpec, AppStatus, Meta, Process, ReleaseSpec
from seaway.rollout.facts import Facts
from seaway.rollout.instances import settle_instances

RELEASE = ReleaseSpec(app="shop", number=1, image="sha256:x", processes={"web": Process(command="run")})
FACTS = Facts(
    now=datetime(2026, 1, 1, tzinfo=UTC),
    app=App(meta=Meta(name="shop"), spec=AppSpec(), status=AppStatus(current=1, traffic={1: 100})),
    releases={1: RELEASE},
    host="shop.localhost",
)


def test_a_workload_has_its_apps_host() -> None:
    (workload,) = settle_instances(FACTS).apply
    assert workload.host == "shop.localhost"


def test_a_workloads_host_stays() -> None:
    """Of one that runs under another domain, or since before hosts were known, nothing is changed."""
    (workload,) = settle_instances(FACTS).apply
    assert settle_instances(replace(FACTS, workloads=(workload,), host="shop.example.com")).apply == ()
    older = workload.model_copy(update={"host": "", "count": 0})
    (again,) = settle_instances(replace(FACTS, workloads=(older,))).apply
    assert (again.host, again.count) == ("", 1)

"""Processes that are new: which of them start, what is said of the others, and what helps when one ends."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from seaway.model import (
    App,
    AppSpec,
    AppStatus,
    BuildManifest,
    InstanceState,
    Meta,
    Phase,
    Process,
    Release,
    ReleaseSpec,
    Rollout,
    RolloutSpec,
    RolloutStatus,
)
from seaway.rollout.decide import decide
from seaway.rollout.facts import Facts
from seaway.rollout.releases import ImageChange, Rollback, compose_release, find_return
from tests.unit.test_lost_instances import NOW, instance

S = InstanceState


def release(number: int, *names: str, **scale: int) -> Release:
    """Return a release with these processes, and numbers for those that are given one."""
    processes = {name: Process(command=name) for name in names}
    spec = ReleaseSpec(app="shop", number=number, image="sha256:x", processes=processes, scale=scale)
    return Release(meta=Meta(name=f"shop.v{number}"), spec=spec)


def rollout(number: int, phase: Phase, base: int | None = None) -> Rollout:
    """Return a rollout in its phase since NOW."""
    status = RolloutStatus(phase=phase, base=base, entered_at=NOW, deadline=NOW + timedelta(seconds=60))
    return Rollout(meta=Meta(name=f"shop.v{number}"), spec=RolloutSpec(app="shop", target=number), status=status)


def counts(spec: ReleaseSpec) -> dict[str, int]:
    """Return as how many its processes run."""
    return {name: spec.count(name) for name in spec.processes}


def deploy(*names: str, before: tuple[Release, ...] = (), current: int | None = None, **scale: int) -> ReleaseSpec:
    """Return the release of a deploy; of those before the current one served, and all others failed."""
    app = App(meta=Meta(name="shop"), status=AppStatus(current=current))
    ends = [rollout(r.spec.number, Phase.SUCCEEDED if r.spec.number == current else Phase.FAILED) for r in before]
    manifest = BuildManifest(processes={name: Process(command=name) for name in names}, scale=scale)
    return compose_release(app, before, ends, ImageChange("sha256:y", manifest), "ann").spec


def test_of_new_processes_only_web_starts() -> None:
    """The others, of which nobody has said how many, are told of in one sentence."""
    assert counts(deploy("web", "worker", "migrate")) == {"web": 1, "worker": 0, "migrate": 0}
    assert deploy("web").note == ""
    assert deploy("web", "worker").note == (
        "worker is not started: nobody has said how many; `seaway ps scale worker=1 -a shop`"
    )
    assert deploy("web", "worker", "migrate", "init").note == (
        "init, migrate and worker are not started: nobody has said how many; "
        "`seaway ps scale init=1 migrate=1 worker=1 -a shop`"
    )


def test_numbers_that_are_said_hold_and_without_web_all_start() -> None:
    """By seaway.toml, or by `ps scale`, which is stronger still (see tests/property/test_counts.py)."""
    assert counts(deploy("web", "worker", "beat", web=0, worker=2, beat=0)) == {"web": 0, "worker": 2, "beat": 0}
    assert deploy("web", "worker", worker=0).note == ""
    alone = deploy("worker", "beat")
    assert (counts(alone), alone.note) == ({"worker": 1, "beat": 1}, "")


def test_what_ran_before_this_was_so_goes_on() -> None:
    """A release that says no number of a process ran one; the next deploy keeps it, as one that drops [scale] does."""
    before = (release(1, "web", "worker"),)
    spec = deploy("web", "worker", "migrate", before=before, current=1)
    assert counts(spec) == {"web": 1, "worker": 1, "migrate": 0}
    before = (release(1, "web", "worker", web=3, worker=2),)
    dropped = deploy("web", "worker", before=before, current=1)
    assert (counts(dropped), dropped.note) == ({"web": 3, "worker": 2}, "")


def test_what_failed_never_ran() -> None:
    """A migrate of before, which failed each deploy, is new once more; so is what a failed deploy was told of."""
    for before in (release(1, "web", "migrate"), release(1, "web", "migrate", web=1, migrate=0)):
        spec = deploy("web", "migrate", before=(before,))
        assert (spec.count("migrate"), "migrate is not started" in spec.note) == (0, True)


def test_a_process_that_comes_back_after_a_rollback_runs_again() -> None:
    """It is not new to the app: v2 had it, was left by a rollback to v1, and comes corrected."""
    before = (release(1, "web"), release(2, "web", "worker"), release(3, "web"))
    app = App(meta=Meta(name="shop"), status=AppStatus(current=3))
    ends = [rollout(n, Phase.SUCCEEDED) for n in (1, 2, 3)]
    manifest = BuildManifest(processes={name: Process(command=name) for name in ("web", "worker")})
    spec = compose_release(app, before, ends, ImageChange("sha256:y", manifest), "ann").spec
    assert (spec.count("worker"), spec.note) == (1, "")


def test_a_rollback_copies_numbers_and_says_nothing_of_them() -> None:
    """Also those that an older release does not say; one that differs only in that is no other one to return to."""
    before = (release(1, "web"), release(2, "web", "worker"), release(3, "web", "worker", web=1, worker=1))
    app = App(meta=Meta(name="shop"), status=AppStatus(current=3))
    ends = [rollout(n, Phase.SUCCEEDED) for n in (1, 2, 3)]
    copy = compose_release(app, before, ends, Rollback(2), "ann").spec
    assert (counts(copy), copy.note) == ({"web": 1, "worker": 1}, "")
    found = find_return(app, before, ends)
    assert found is not None
    assert found.number == 1


@pytest.mark.parametrize(
    ("names", "said"),
    [(("web",), "v1 serves all traffic"), (("job",), "v1 runs; it takes no requests, as it has no web process")],
)
def test_a_release_without_web_is_not_said_to_serve(names: tuple[str, ...], said: str) -> None:
    """It has the traffic, as far as documents go, and nobody is sent there."""
    facts = know(S.RUNNING, "", names=names)
    shifted = replace(facts, rollouts=(rollout(1, Phase.KEEPING),))
    app = facts.app.model_copy(update={"status": AppStatus(current=1, traffic={1: 100})})
    ended = decide(replace(shifted, app=app))
    assert ended.rollout_status["shop.v1"].reason == said
    assert ended.app_status is None or ended.app_status.webless == (names == ("job",))
    settled = decide(replace(facts, app=app, rollouts=(rollout(1, Phase.SUCCEEDED),))).app_status
    assert settled is not None
    assert (settled.state, settled.webless) == ("serving", names == ("job",))
    assert settled.reason.endswith("1 job; takes no requests, as it has no web process") == (names == ("job",))


def know(state: InstanceState, why: str, *ending: str, names: tuple[str, ...] = ("web", "worker")) -> Facts:
    """Return facts while v1, the first, starts: some of its processes end again and again, the others are ready."""
    ends = [instance(f"a-{name}", state=state, process=name, restarts=1, reason=why) for name in ending]
    ready = [instance(f"w-{name}", process=name) for name in names if name not in ending]
    return Facts(
        now=NOW,
        app=App(meta=Meta(name="shop"), spec=AppSpec(scale=dict.fromkeys(names, 1))),
        releases={1: release(1, *names).spec},
        rollouts=(rollout(1, Phase.STARTING),),
        instances=(*ends, *ready),
    )


def fail(facts: Facts) -> str:
    """Return why the rollout failed."""
    status = decide(facts).rollout_status["shop.v1"]
    assert status.phase is Phase.FAILED
    return status.reason


def test_a_process_that_crashes_is_told_how_to_deploy_without_it() -> None:
    """At once when it crashes; and if it was waited for until the time was over."""
    without = "; to deploy without worker: `seaway ps scale worker=0 -a shop` first"
    assert (
        fail(know(S.CRASHING, "exited with code 3", "worker")) == f"worker of v1 crashes: exited with code 3{without}"
    )
    late = replace(know(S.BACKOFF, "exited with code 3", "worker"), now=NOW + timedelta(seconds=60))
    assert fail(late).endswith(f"v1: 0 of 1 worker ready (exited with code 3){without}")


def test_a_process_that_ends_well_is_told_where_one_offs_go() -> None:
    """It did what it was there for, and nothing is to be corrected in it."""
    why, names = "exited with code 0 (it is meant to run on) after 0.1 s", ("web", "init", "migrate")
    assert "; init and migrate ended by themselves" in fail(know(S.CRASHING, why, "migrate", "init", names=names))
    assert fail(know(S.CRASHING, why, "worker")).endswith(
        "; worker ended by itself, as a one-off does: those are for `seaway run`, or for `release:` in the Procfile if "
        "they have to run before traffic moves; to deploy without worker: `seaway ps scale worker=0 -a shop` first"
    )


@pytest.mark.parametrize(
    ("ending", "names"), [(("web",), ("web", "worker")), (("web", "worker"), ("web", "worker")), (("job",), ("job",))]
)
def test_nothing_is_advised_where_nothing_would_be_left(ending: tuple[str, ...], names: tuple[str, ...]) -> None:
    """Without web, or without its only process, nobody wants a deploy."""
    why = "exited with code 0"
    assert fail(know(S.CRASHING, why, *ending, names=names)) == f"{ending[0]} of v1 crashes: {why}"


def test_where_web_is_what_fails_nothing_is_advised() -> None:
    """A worker that ends beside it is not the reason; without it web would fail all the same."""
    facts = know(S.CRASHING, "exited with code 1", "worker")
    sick = [
        i.model_copy(update={"ready": False, "state": S.STARTING, "restarts": 2}) if i.key.process == "web" else i
        for i in facts.instances
    ]
    assert fail(replace(facts, instances=tuple(reversed(sick)))).startswith("no web instance of v1 is healthy")
    assert "to deploy without" not in fail(replace(facts, instances=tuple(sick)))

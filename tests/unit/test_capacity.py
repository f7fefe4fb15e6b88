"""What is said of what does not fit, and what an instance counts with; the laws are in tests/property."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError

from seaway.home import Settings
from seaway.install.settings import ClusterSettings
from seaway.model import InstanceState, Process, Quotas
from seaway.rollout.capacity import (
    GUESS,
    LEAST,
    Scene,
    asks_more,
    expect_memory,
    find_shortages,
    list_shortages,
    measure_free,
    refuse_copy,
    refuse_deploy,
    wish_release,
    wish_scale,
)
from tests.capacity_kit import MIB, Seen, make_app, make_release, make_scene, recreating

GIB = 1024 * MIB
PENDING, RUNNING, STOPPING = InstanceState.PENDING, InstanceState.RUNNING, InstanceState.STOPPING


def say_scale(scene: Scene, **counts: int) -> str:
    app = scene.apps[0]
    live = scene.live_of(app)
    return list_shortages(find_shortages(scene, wish_scale(app, counts, live, live[:1])))


def test_the_number_that_fits_is_named_with_what_there_is() -> None:
    """What runs already needs no more room."""
    scene = make_scene(make_app(worker=0), seen=[Seen(memory=212 * MIB)], available=int(8.6 * GIB))
    expected = "web=1000 does not fit: 42 fit (each takes 212 MiB; 8.6 GiB are free on this machine)"
    assert say_scale(scene, web=1000) == expected
    assert say_scale(scene, web=42) == ""


def test_what_nobody_has_measured_is_a_guess_and_said_to_be_one() -> None:
    """One instance of the worker was promised: its guess is no longer free."""
    scene = make_scene(make_app(web=0, worker=1), available=10 * GUESS)
    expected = "web=10 does not fit: 9 fit (each is expected to take 64 MiB; 576 MiB are free on this machine)"
    assert say_scale(scene, web=10) == expected


def test_processes_share_the_room() -> None:
    """web comes first."""
    scene = make_scene(make_app(web=0, worker=0), available=10 * GUESS)
    assert say_scale(scene, web=8, worker=2) == ""
    assert say_scale(scene, web=8, worker=4).startswith("worker=4 does not fit: 2 fit")
    assert "worker=4 does not fit: none fits" in say_scale(scene, web=11, worker=4)


@pytest.mark.parametrize(
    ("quotas", "said"),
    [
        (Quotas(), "web=98 does not fit: 97 fit (an app may have 100 instances, this one has 4)"),
        (Quotas(team_instances=50), "web=98 does not fit: 43 fit (the team red may have 50 instances, it has 8)"),
        (
            Quotas(app_memory="1GiB"),
            "web=98 does not fit: 3 fit (each takes 256 MiB; an app may have 1 GiB, this one has 448 MiB)",
        ),
        (
            Quotas(team_memory="2GiB"),
            "web=98 does not fit: 6 fit (each takes 256 MiB; the team red may have 2 GiB, it has 704 MiB)",
        ),
    ],
)  # fmt: skip
def test_limits_are_named(quotas: Quotas, said: str) -> None:
    """Another team's apps do not count; what is wanted but not there counts as expected."""
    apps = (make_app(web=1, worker=3), make_app("blog", web=2, worker=2), make_app("mail", team="blue", web=90))
    scene = make_scene(*apps, seen=[Seen(memory=256 * MIB)], quotas=quotas)
    assert say_scale(scene, web=98) == said


def test_several_nodes_are_one_sum_and_held_or_sick_ones_have_nothing() -> None:
    """A node that says nothing of its memory adds nothing."""
    scene = make_scene(make_app(web=0, worker=0), available=GUESS)
    (node,) = scene.seen.nodes
    others = [node.model_copy(update=more) for more in ({"held": "lost"}, {"ready": False}, {"available": None})]
    many = replace(scene, seen=scene.seen.model_copy(update={"nodes": (node, *others, node)}))
    assert measure_free(many) == 2 * GUESS
    assert "64 MiB; 128 MiB are free on the nodes" in say_scale(many, web=3)
    assert measure_free(make_scene(make_app())) is None


def test_what_an_instance_counts_with() -> None:
    """The most measured, of the release that serves before others; a limit only where it is lower than the guess."""
    app = make_app()

    def expect(*seen: Seen, limit: int | None = None) -> tuple[int, bool]:
        return expect_memory(make_scene(app, seen=seen).seen, app, "web", Process(command="run", memory=limit))

    assert expect() == (GUESS, False)
    assert expect(limit=32 * MIB) == (32 * MIB, False)
    assert expect(limit=4 * GIB) == (GUESS, False)
    assert expect(Seen(memory=5 * MIB), Seen(memory=9 * MIB)) == (9 * MIB, True)
    assert expect(Seen(memory=5 * MIB), Seen(memory=9 * MIB, release=2)) == (5 * MIB, True)
    assert expect(Seen(memory=9 * MIB, release=2)) == (9 * MIB, True)
    assert expect(Seen(memory=0)) == (LEAST, True)
    assert expect(Seen(memory=None), Seen(state=PENDING), Seen(process="worker"), Seen(app="blog")) == (GUESS, False)


def test_what_was_promised_is_not_free() -> None:
    """Instances that are missing or not measured yet, and what those lack that still start; not those that stop."""
    scene = make_scene(
        make_app(web=4, worker=0),
        seen=[
            Seen(memory=200 * MIB), Seen(memory=50 * MIB, state=PENDING), Seen(memory=None),
            Seen(memory=None, state=STOPPING),
        ],
        available=GIB,
    )  # fmt: skip
    assert measure_free(scene) == GIB - (150 + 200 + 200) * MIB


def test_a_rollout_under_way_doubles_what_a_scale_takes() -> None:
    """Both releases are scaled; the limit of instances counts them once."""
    live = [make_release(), make_release(number=2)]
    scene = make_scene(make_app(web=1, worker=0), seen=[Seen(), Seen(release=2)], live=live, available=GIB)
    assert say_scale(scene, web=4).startswith("web=4 does not fit: 3 fit (each takes 400 MiB")
    limited = replace(scene, quotas=Quotas(app_instances=3))
    assert say_scale(limited, web=3) == ""


def test_a_release_that_stops_the_other_first_is_promised_only_what_it_has_more() -> None:
    """Its first instance starts where the one before it was."""
    app = make_app(web=2, worker=0)
    live = [make_release(), recreating(make_release(number=2))]
    scene = make_scene(app, seen=[Seen(), Seen()], live=live, available=GIB)
    assert measure_free(scene) == GIB


def test_a_deploy_needs_room_beside_what_runs() -> None:
    """Not if its strategy is to stop that first; a rollback or restart is not held up by it."""
    app = make_app(web=3, worker=0)
    scene = make_scene(app, seen=[Seen()] * 3, available=500 * MIB)
    release = make_release(number=2)
    wish = wish_release(app, release.spec, deploy=True)
    assert refuse_deploy(find_shortages(scene, wish), in_place=True, may_force=True) == (
        "web=3 does not fit: 2 fit (each takes 200 MiB; 500 MiB are free on this machine beside what runs): "
        "scale to web=2 first (`seaway ps scale`, or [scale] in seaway.toml), deploy with --strategy recreate, "
        "or give --force"
    )
    in_place, restart = wish_release(app, recreating(release).spec, deploy=True), replace(wish, beside=False)
    for easy in (in_place, restart):
        assert find_shortages(scene, easy) == ()
        assert not asks_more(easy, scene.live_of(app))


def test_a_rollback_to_more_instances_is_judged_by_what_it_adds() -> None:
    """It cannot be forced itself: the app's own numbers can."""
    app = make_app()
    scene = make_scene(app, seen=[Seen(), Seen(process="worker")], available=500 * MIB)
    wish = wish_release(app, make_release(number=2, scale={"web": 9}).spec, deploy=False)
    assert asks_more(wish, scene.live_of(app))
    said = refuse_copy(find_shortages(scene, wish), may_force=True)
    assert said.startswith("web=9 does not fit: 3 fit (each takes 200 MiB; 500 MiB are free on this machine): ")
    assert said.endswith("scale to web=3 first, or scale to web=9 with --force")
    said = refuse_copy(find_shortages(scene, wish), may_force=False)
    assert said.endswith("scale to web=3 first, or ask an admin to force web=9")


def test_limits_are_settings_everywhere() -> None:
    """Sizes are text or bytes; parts in a cluster have them from their environment."""
    assert Settings(app_memory="1.5GiB").app_memory == 3 * GIB // 2
    with pytest.raises(ValidationError, match="'much' is not an amount of memory or disk: write 512M"):
        Settings(team_memory="much")
    place = {"SEAWAY_NAMESPACE": "seaway", "SEAWAY_POD": "a", "SEAWAY_ADDRESS": "127.0.0.1"}
    here = ClusterSettings.read(place | {"SEAWAY_APP_INSTANCES": "7", "SEAWAY_TEAM_MEMORY": "0"})
    assert here.quotas() == Quotas(app_instances=7).quotas()

"""What fits, in any scene: the number named is right, decreases pass, no limit is broken, more memory is more room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from seaway.model import App, InstanceState, Quotas, ReleaseSpec
from seaway.rollout.capacity import (
    Scene,
    Wish,
    count_processes,
    expect_memory,
    find_shortages,
    measure_free,
    wish_release,
    wish_scale,
)
from tests.capacity_kit import MIB, Seen, make_app, make_release, make_scene

Ask = Callable[..., Wish]

counts = st.integers(0, 40)
scales = st.fixed_dictionaries({"web": counts, "worker": counts})
amounts = st.integers(0, 4000 * MIB)
living = st.sampled_from([s for s in InstanceState if s not in (InstanceState.STOPPING, InstanceState.STOPPED)])
instances = st.builds(
    Seen,
    app=st.sampled_from(["shop", "blog", "mail"]),
    process=st.sampled_from(["web", "worker"]),
    memory=st.none() | st.integers(0, 400 * MIB),
    state=living,
)
bounds = st.sampled_from([0, 10, 50, 100])
quotas = st.builds(
    Quotas,
    app_instances=bounds,
    team_instances=bounds,
    app_memory=st.sampled_from([0, 1024 * MIB]),
    team_memory=st.sampled_from([0, 2048 * MIB]),
)


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Two apps of the team red and one of the team blue."""
    shop = make_app("shop", "red", **draw(scales))
    apps = (shop, make_app("blog", "red", **draw(scales)), make_app("mail", "blue", **draw(scales)))
    limit = draw(st.none() | st.just(32 * MIB))
    return make_scene(
        *apps,
        seen=draw(st.lists(instances, max_size=30)),
        available=draw(st.none() | amounts),
        quotas=draw(quotas),
        live=[make_release(app.name, limit=limit) for app in apps],
    )


def shop_of(scene: Scene) -> tuple[App, list[ReleaseSpec]]:
    app = scene.apps[0]
    return app, scene.live_of(app)


def ask_scale(scene: Scene, **asked: int) -> Wish:
    app, live = shop_of(scene)
    return wish_scale(app, asked, live, live[:1])


def ask_deploy(scene: Scene, **scale: int) -> Wish:
    app = make_app()
    return wish_release(app, make_release(number=2, scale=scale).spec, deploy=True)


def fit(scene: Scene, wish: Wish) -> dict[str, int]:
    """Return how many of each process fit."""
    return dict(wish.counts) | {shortage.process: shortage.fits for shortage in find_shortages(scene, wish)}


@given(scenes(), st.sampled_from([ask_scale, ask_deploy]), st.integers(0, 300), st.integers(0, 300))
def test_the_numbers_named_fit_and_one_more_does_not(scene: Scene, ask: Ask, web: int, worker: int) -> None:
    """All processes together; one more of the first that was cut is one too many."""
    wish = ask(scene, web=web, worker=worker)
    shortages = find_shortages(scene, wish)
    fitting = fit(scene, wish)
    assert find_shortages(scene, replace(wish, counts=fitting)) == ()
    if shortages:
        first = shortages[0].process
        more = fitting | {first: fitting[first] + 1}
        assert find_shortages(scene, replace(wish, counts=more))[0].process == first


@given(scenes(), st.data())
def test_nobody_is_refused_what_is_wanted_or_runs_already(scene: Scene, data: st.DataObject) -> None:
    """Whatever limits are broken by then, and however little memory is left."""
    app, live = shop_of(scene)
    wanted = count_processes(app, live)
    running = {name: sum(i.key.process == name for i in scene.seen.part(app.name).instances) for name in wanted}
    asked = {name: data.draw(st.integers(0, max(wanted[name], running[name]))) for name in wanted}
    assert find_shortages(scene, ask_scale(scene, **asked)) == ()


@given(scenes(), st.integers(0, 300), st.integers(0, 300))
def test_what_is_granted_breaks_no_limit(scene: Scene, web: int, worker: int) -> None:
    """Unless it was broken before, and then nothing is granted."""
    app, live = shop_of(scene)
    before, after = count_processes(app, live), fit(scene, ask_scale(scene, web=web, worker=worker))
    seen = scene.seen.part(app.name).instances
    running = {name: sum(i.key.process == name for i in seen) for name in after}
    growth = {name: max(0, after[name] - max(before[name], running[name])) for name in after}
    if not any(growth.values()):
        return
    cost = sum(n * expect_memory(scene.seen, app, name, live[0].processes[name])[0] for name, n in growth.items())
    free, bound = measure_free(scene), scene.quotas
    assert free is None or cost <= free
    assert not bound.app_instances or sum(after.values()) <= bound.app_instances
    blog = sum(count_processes(scene.apps[1], scene.live_of(scene.apps[1])).values())
    assert not bound.team_instances or sum(after.values()) + blog <= bound.team_instances
    assert not bound.app_memory or cost <= bound.app_memory
    assert not bound.team_memory or cost <= bound.team_memory


@given(scenes(), st.integers(0, 300), amounts, amounts)
def test_more_memory_is_never_less_room(scene: Scene, web: int, less: int, more: int) -> None:
    """The same wish in the same scene, on a smaller and a larger machine."""
    poor, rich = (with_available(scene, amount) for amount in sorted((less, more)))
    assert fit(poor, ask_scale(poor, web=web))["web"] <= fit(rich, ask_scale(rich, web=web))["web"]


@given(scenes(), st.integers(0, 300))
def test_asking_for_more_never_gets_less(scene: Scene, web: int) -> None:
    """A wish that is cut gets at least what a smaller one gets."""
    assert fit(scene, ask_scale(scene, web=web))["web"] <= fit(scene, ask_scale(scene, web=web + 1))["web"]


@given(scenes(), st.integers(0, 300))
def test_what_was_granted_is_not_granted_twice(scene: Scene, web: int) -> None:
    """Before anything of it has started: whoever asks again finds room for no more than at first."""
    first = fit(scene, ask_scale(scene, web=1000))["web"]
    granted = min(web, first)
    shop = scene.apps[0]
    scale = {**shop.spec.scale, "web": max(granted, shop.spec.scale["web"])}
    later = replace(scene, apps=(make_app("shop", "red", **scale), *scene.apps[1:]))
    assert fit(later, ask_scale(later, web=1000))["web"] == first


def with_available(scene: Scene, amount: int) -> Scene:
    node = scene.seen.nodes[0].model_copy(update={"available": amount})
    return replace(scene, seen=scene.seen.model_copy(update={"nodes": (node,)}))

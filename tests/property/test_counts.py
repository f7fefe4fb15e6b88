"""As how many each process of a release starts, over any history of an app: nothing starts or stops by surprise."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from seaway.model import (
    App,
    AppSpec,
    AppStatus,
    BuildManifest,
    Meta,
    Phase,
    Process,
    Release,
    ReleaseSpec,
    Rollout,
    RolloutSpec,
    RolloutStatus,
    release_name,
)
from seaway.rollout.facts import count_wanted
from seaway.rollout.releases import Change, ConfigChange, ImageChange, Restart, Rollback, compose_release

NAMES = ["web", "worker", "migrate", "clock"]
IMAGE = "sha256:x"

files = st.dictionaries(st.sampled_from(NAMES), st.none() | st.integers(0, 3), min_size=1)
"""What app files say: process -> number, None: none is said."""
verdicts = st.sampled_from([Phase.SUCCEEDED, Phase.SUCCEEDED, Phase.FAILED])
old = st.tuples(st.just("old"), files, verdicts)
steps = st.one_of(
    st.tuples(st.just("deploy"), files, verdicts),
    st.tuples(st.just("scale"), st.sampled_from(NAMES), st.integers(0, 3)),
    st.tuples(st.just("rollback"), st.integers(0, 99), verdicts),
    st.tuples(st.sampled_from(["config", "restart"]), st.none(), verdicts),
)


@dataclass
class History:
    """An app whose rollouts all end at once."""

    app: App = field(default_factory=lambda: App(meta=Meta(name="shop")))
    releases: list[Release] = field(default_factory=list)
    rollouts: list[Rollout] = field(default_factory=list)

    def add(self, release: Release, phase: Phase) -> None:
        """Store a release and how its rollout ended."""
        number = release.spec.number
        self.releases.append(release)
        spec, status = RolloutSpec(app="shop", target=number), RolloutStatus(phase=phase)
        self.rollouts.append(Rollout(meta=Meta(name=release.name), spec=spec, status=status))
        if phase is Phase.SUCCEEDED:
            self.app = self.app.model_copy(update={"status": AppStatus(current=number, traffic={number: 100})})

    def compose(self, change: Change) -> ReleaseSpec:
        """Return the next release."""
        return compose_release(self.app, self.releases, self.rollouts, change, "test").spec

    def count(self, spec: ReleaseSpec) -> dict[str, int]:
        """Return as how many the processes of a release run."""
        return {process: count_wanted(self.app, spec, process) for process in spec.processes}

    @property
    def running(self) -> dict[str, int]:
        """As how many the processes run now."""
        return {name: n for r in self.releases if r.spec.number == self.app.status.current
                for name, n in self.count(r.spec).items()}  # fmt: skip


def make_manifest(said: dict[str, int | None]) -> BuildManifest:
    processes = {name: Process(command=f"run {name}") for name in said}
    return BuildManifest(processes=processes, scale={name: n for name, n in said.items() if n is not None})


def add_old(history: History, said: dict[str, int | None], phase: Phase) -> None:
    """Add a release as it was made before new processes were left out: without a number it ran one of each."""
    manifest, number = make_manifest(said), len(history.releases) + 1
    spec = ReleaseSpec(app="shop", number=number, image=IMAGE, processes=manifest.processes, scale=manifest.scale)
    history.add(Release(meta=Meta(name=release_name("shop", number)), spec=spec), phase)


def check_deploy(history: History, said: dict[str, int | None], spec: ReleaseSpec) -> None:
    """A number that was said holds; what runs goes on; what is new starts if it must be meant, and else is told of."""
    counts, running, app = history.count(spec), history.running, history.app.spec.scale
    ever = {name for r, o in zip(history.releases, history.rollouts, strict=True)
            if o.status.phase is Phase.SUCCEEDED for name in r.spec.processes}  # fmt: skip
    for name, number in said.items():
        if name in app or number is not None:
            assert counts[name] == app.get(name, number)
        elif running.get(name):
            assert counts[name] == running[name]
        elif name not in ever:
            assert counts[name] == int(name == "web" or "web" not in said)
    told = {name for name in said if f"{name}=1" in spec.note}
    assert told <= {name for name, count in counts.items() if count == 0}
    assert told == {
        name for name, n in said.items() if n is None and name not in {*app, *ever} and counts[name] == 0
    }  # fmt: skip


def play(history: History, step: tuple[str, object, object]) -> None:
    """Take one step, and check what it does to numbers."""
    kind, what, phase = step
    runnable = [release.spec for release in history.releases if release.spec.image]
    change: Change
    if kind == "scale":
        scale = {**history.app.spec.scale, str(what): int(str(phase))}
        history.app = history.app.model_copy(update={"spec": AppSpec(scale=scale)})
        return
    if kind == "deploy":
        change = ImageChange(IMAGE, make_manifest(what))  # type: ignore[arg-type]
    elif not runnable:
        return
    else:
        to = runnable[int(str(what)) % len(runnable)] if kind == "rollback" else None
        config = ConfigChange({"A": str(len(history.releases))})
        change = Rollback(to.number) if to else Restart() if kind == "restart" else config
    spec = history.compose(change)
    if kind == "deploy":
        check_deploy(history, what, spec)  # type: ignore[arg-type]
    elif kind == "rollback":
        assert to is not None
        assert (history.count(spec), spec.note) == (history.count(to), "")
    elif history.app.status.current is not None:
        assert (history.count(spec), spec.note) == (history.running, "")
    assert isinstance(phase, Phase)
    history.add(Release(meta=Meta(name=release_name("shop", spec.number)), spec=spec), phase)


@given(st.lists(old, max_size=3), st.lists(steps, max_size=8))
def test_nothing_starts_or_stops_by_surprise(before: list[tuple[str, object, object]], after: list[object]) -> None:
    """Deploys, rollbacks, config and restarts, after releases of before as well: all that runs goes on."""
    history = History()
    for _, said, phase in before:
        add_old(history, said, phase)  # type: ignore[arg-type]
    for step in after:
        play(history, step)  # type: ignore[arg-type]

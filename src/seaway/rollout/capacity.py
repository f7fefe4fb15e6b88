"""Whether more instances fit: a pure answer from what an engine observes, what documents want and what limits allow.

Laws:
- Only growth is judged: whoever scales down, or asks for what is wanted or runs already, is never refused.
- An instance counts with what it takes, or (until that is measured) with what it is expected to take; so does one that
  was granted and is not there yet. What was granted a moment ago is therefore not granted again.
- Processes that are asked for at once share what there is, `web` first: the numbers named fit together, and of the
  first one that was cut no instance more does.

Memory of several nodes is one sum. Where no node tells what it has available, only limits decide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from seaway.model import WEB, App, Instance, InstanceState, Observation, Process, Quotas, Release, ReleaseSpec, Strategy
from seaway.model.base import say_bytes
from seaway.rollout.facts import GONE, count_wanted

GUESS = 64 << 20
"""Bytes that an instance is expected to take of whose process none was measured; less if its limit is lower.

A small Python or Node web server takes 30 to 90 MiB. A limit is no forecast: it is set for the worst that may happen.
"""

LEAST = 1 << 20
"""Bytes that an instance counts with at least: one that has only just begun shows next to nothing."""

GROWING = frozenset({InstanceState.PENDING, InstanceState.STARTING, InstanceState.BACKOFF, InstanceState.CRASHING})
"""States in which an instance does not take yet (or again) what it will."""


@dataclass(frozen=True)
class Scene:
    """What there is when somebody asks for more; `live`: the releases of all apps that serve or are on their way."""

    seen: Observation
    apps: Sequence[App]
    live: Sequence[Release]
    quotas: Quotas

    def live_of(self, app: App) -> list[ReleaseSpec]:
        """Return the live releases of an app; none of one that is being destroyed."""
        return [release.spec for release in self.live if release.spec.app == app.name and not app.spec.destroy]


@dataclass(frozen=True)
class Wish:
    """So many instances of each process of an app, in each of `releases` that has the process (one has, at least).

    `rest`: instances of the app's other processes. `beside`: those that run go on until the wished ones serve.
    """

    app: App
    counts: Mapping[str, int]
    releases: Sequence[ReleaseSpec]
    rest: int = 0
    beside: bool = False


@dataclass(frozen=True)
class Shortage:
    """A process of which fewer instances fit than were asked for, and why."""

    process: str
    wanted: int
    fits: int
    why: str

    def __str__(self) -> str:
        fit = {0: "none fits", 1: "1 fits"}.get(self.fits, f"{self.fits} fit")
        return f"{self.process}={self.wanted} does not fit: {fit} ({self.why})"


class _Cost(NamedTuple):
    """What one instance takes of something."""

    amount: int
    words: str = ""


@dataclass
class _Room:
    """Something that there is only so much of. What is wanted up to `base` of each process takes nothing of `left`."""

    left: int
    costs: Mapping[str, _Cost]
    base: Mapping[str, int]
    words: str

    def fit(self, process: str, wanted: int) -> int:
        """Return how many of `wanted` instances fit."""
        return min(wanted, self.base[process] + max(0, self.left) // self.costs[process].amount)

    def take(self, process: str, count: int) -> None:
        """Use up what `count` instances need."""
        self.left -= max(0, count - self.base[process]) * self.costs[process].amount

    def explain(self, process: str) -> str:
        """Say what an instance takes, and how much there is."""
        return "; ".join(filter(None, (self.costs[process].words, self.words)))


def wish_scale(app: App, counts: Mapping[str, int], live: Sequence[ReleaseSpec], known: Sequence[ReleaseSpec]) -> Wish:
    """Return what a change of the app's scale asks for: of each release that runs, and of those `known` besides.

    These are the one that the next starts from, and one that failed for want of a number, which is deployed again.
    """
    releases = {spec.number: spec for spec in (*live, *known)}.values()
    rest = sum(count for process, count in count_processes(app, live).items() if process not in counts)
    return Wish(app, counts, tuple(releases), rest)


def wish_release(app: App, spec: ReleaseSpec, *, deploy: bool) -> Wish:
    """Return what a new release asks for.

    The instances of a deploy come beside those that run, unless its strategy is to stop those first. A rollback, a
    restart or new config is not held up by that: it is how people get rid of instances that have grown too large.
    """
    counts = {process: count_wanted(app, spec, process) for process in spec.processes} if spec.image else {}
    return Wish(app, counts, (spec,), beside=deploy and spec.rollout.strategy is Strategy.BLUE_GREEN)


def asks_more(wish: Wish, live: Sequence[ReleaseSpec]) -> bool:
    """Whether a wish is for more than documents want already; if not, there is nothing to judge."""
    wanted = count_processes(wish.app, live)
    return any(count > (0 if wish.beside else wanted.get(process, 0)) for process, count in wish.counts.items())


def count_processes(app: App, live: Iterable[ReleaseSpec]) -> dict[str, int]:
    """Return how many instances of each process an app wants; the two releases of a rollout count once."""
    counts: dict[str, int] = {}
    for spec in live:
        for process in spec.processes:
            counts[process] = max(counts.get(process, 0), count_wanted(app, spec, process))
    return counts


def find_shortages(scene: Scene, wish: Wish) -> tuple[Shortage, ...]:
    """Return the processes of which not as many fit as were asked for; none: everything fits."""
    held = _count_held(scene, wish.app)
    base = {process: min(count, held.get(process, 0)) for process, count in wish.counts.items()}
    rooms = [*_limit_instances(scene, wish, base), *_limit_memory(scene, wish, base)]
    shortages = []
    for process, wanted in sorted(wish.counts.items(), key=lambda item: (item[0] != WEB, item[0])):
        count = min((room.fit(process, wanted) for room in rooms), default=wanted)
        if count < wanted:
            tightest = min(rooms, key=lambda room: room.fit(process, wanted))
            shortages.append(Shortage(process, wanted, count, tightest.explain(process)))
        for room in rooms:
            room.take(process, count)
    return tuple(shortages)


def list_shortages(shortages: Iterable[Shortage]) -> str:
    """Return them as one sentence."""
    return "; ".join(map(str, shortages))


def advise(shortages: Sequence[Shortage]) -> str:
    """Say what can be had without force."""
    if not any(shortage.fits for shortage in shortages):
        return "scale something else down"
    return f"scale to {' '.join(f'{shortage.process}={shortage.fits}' for shortage in shortages)}"


def advise_force(*, may_force: bool) -> str:
    """Say what can be done all the same; `may_force`: whoever reads that is an admin."""
    return "give --force" if may_force else "ask an admin to force it"


def refuse_deploy(shortages: Sequence[Shortage], *, in_place: bool, may_force: bool) -> str:
    """Return why a deploy makes no release, and what to do; `in_place`: it fits once what runs has stopped."""
    first = f"{advise(shortages)} first (`seaway ps scale`, or [scale] in seaway.toml)"
    recreate = ", deploy with --strategy recreate" if in_place else ""
    return f"{list_shortages(shortages)}: {first}{recreate}, or {advise_force(may_force=may_force)}"


def refuse_copy(shortages: Sequence[Shortage], *, may_force: bool) -> str:
    """Return why a rollback makes no release, and what to do: it cannot be forced, but the app's own numbers can."""
    wanted = " ".join(f"{shortage.process}={shortage.wanted}" for shortage in shortages)
    force = f"scale to {wanted} with --force" if may_force else f"ask an admin to force {wanted}"
    return f"{list_shortages(shortages)}: {advise(shortages)} first, or {force}"


def expect_memory(seen: Observation, app: App, name: str, process: Process | None) -> tuple[int, bool]:
    """Return the bytes that one more instance of a process takes, and whether that was measured.

    Measured: the most among its running instances, of the release that serves before any other.
    """
    measured = [
        instance
        for instance in seen.part(app.name).instances
        if instance.key.process == name and instance.state is InstanceState.RUNNING and instance.memory is not None
    ]
    serving = [instance for instance in measured if instance.key.release == app.status.current]
    if measured:
        return max(LEAST, *(instance.memory or 0 for instance in serving or measured)), True
    limit = process.memory if process and process.memory else GUESS
    return min(GUESS, limit), False


def measure_promised(scene: Scene, app: App) -> int:
    """Return the bytes that an app was granted and does not take yet."""
    living = _list_living(scene.seen, app)
    live = scene.live_of(app)
    processes = {(spec.number, name): process for spec in live for name, process in spec.processes.items()}
    keys = processes.keys() | {(i.key.release, i.key.process) for i in living}
    expected = {key: expect_memory(scene.seen, app, key[1], processes.get(key))[0] for key in keys}
    growing = [i for i in living if i.state in GROWING or i.memory is None]
    promised = sum(max(0, expected[i.key.release, i.key.process] - (i.memory or 0)) for i in growing)
    for spec in live:
        exclusive = spec.rollout.strategy is Strategy.RECREATE  # starts where those of earlier releases were
        there = Counter(i.key.process for i in living if exclusive or i.key.release == spec.number)
        for name in spec.processes:
            promised += max(0, count_wanted(app, spec, name) - there[name]) * expected[spec.number, name]
    return promised


def measure_free(scene: Scene) -> int | None:
    """Return the bytes that nobody takes or was promised (below 0: too much was promised); None if nobody knows."""
    known = [node for node in scene.seen.nodes if node.available is not None]
    if not known:
        return None
    available = sum(node.available or 0 for node in known if node.ready and not node.held)
    return available - sum(measure_promised(scene, app) for app in scene.apps)


def _count_held(scene: Scene, app: App) -> dict[str, int]:
    """Return how many instances of each process an app has: wanted, or running in one release all the same."""
    held = count_processes(app, scene.live_of(app))
    for key, count in Counter(instance.key for instance in _list_living(scene.seen, app)).items():
        held[key.process] = max(held.get(key.process, 0), count)
    return held


def _limit_instances(scene: Scene, wish: Wish, base: Mapping[str, int]) -> list[_Room]:
    """Return what limits of instances leave. They count what is wanted: a rollout's two releases once."""
    quotas, costs = scene.quotas, dict.fromkeys(wish.counts, _Cost(1))
    mine = sum(base.values()) + wish.rest
    others = (count_processes(app, scene.live_of(app)) for app in _list_others(scene, wish.app))
    team = mine + sum(sum(counts.values()) for counts in others)
    rooms = []
    if quotas.app_instances:
        words = f"an app may have {quotas.app_instances} instances, this one has {mine}"
        rooms.append(_Room(quotas.app_instances - mine, costs, base, words))
    if quotas.team_instances:
        words = f"the team {wish.app.spec.team} may have {quotas.team_instances} instances, it has {team}"
        rooms.append(_Room(quotas.team_instances - team, costs, base, words))
    return rooms


def _limit_memory(scene: Scene, wish: Wish, base: Mapping[str, int]) -> list[_Room]:
    """Return what the nodes have left, and what limits of memory leave."""
    quotas, costs = scene.quotas, {name: _cost_memory(scene.seen, wish, name) for name in wish.counts}
    rooms = []
    if (free := measure_free(scene)) is not None:
        where = "this machine" if len(scene.seen.nodes) == 1 else "the nodes"
        words = f"{say_bytes(max(0, free))} are free on {where}"
        if wish.beside:
            rooms.append(_Room(free, costs, dict.fromkeys(base, 0), f"{words} beside what runs"))
        else:
            rooms.append(_Room(free, costs, base, words))
    if quotas.app_memory:
        mine = _measure_held(scene, wish.app)
        words = f"an app may have {say_bytes(quotas.app_memory)}, this one has {say_bytes(mine)}"
        rooms.append(_Room(quotas.app_memory - mine, costs, base, words))
    if quotas.team_memory:
        team = sum(_measure_held(scene, app) for app in (wish.app, *_list_others(scene, wish.app)))
        may, has = say_bytes(quotas.team_memory), say_bytes(team)
        words = f"the team {wish.app.spec.team} may have {may}, it has {has}"
        rooms.append(_Room(quotas.team_memory - team, costs, base, words))
    return rooms


def _cost_memory(seen: Observation, wish: Wish, name: str) -> _Cost:
    """Return what one more instance of a process takes in each release that has it."""
    having = [spec.processes[name] for spec in wish.releases if name in spec.processes]
    expected = [expect_memory(seen, wish.app, name, process) for process in having]
    amount = sum(memory for memory, _ in expected)
    word = "takes" if all(measured for _, measured in expected) else "is expected to take"
    return _Cost(amount, f"each {word} {say_bytes(amount)}")


def _measure_held(scene: Scene, app: App) -> int:
    """Return the bytes that an app takes or was promised."""
    return sum(i.memory or 0 for i in _list_living(scene.seen, app)) + measure_promised(scene, app)


def _list_others(scene: Scene, app: App) -> list[App]:
    return [other for other in scene.apps if other.spec.team == app.spec.team and other.name != app.name]


def _list_living(seen: Observation, app: App) -> list[Instance]:
    return [instance for instance in seen.part(app.name).instances if instance.state not in GONE]

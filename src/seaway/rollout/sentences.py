"""The one sentence of why: the same words in CLI, API, events and console."""

from __future__ import annotations

from seaway.model import WEB, AppState, Instance, InstanceState, Phase
from seaway.rollout.facts import Facts, RouterFacts


def describe_unready(facts: Facts, release: int) -> str:
    """Say what a release still lacks, with the first instance's own reason."""
    parts = []
    for process in facts.releases[release].processes:
        live = facts.live(release, process)
        wanted = facts.count(release, process)
        ready = sum(i.serving for i in live)
        if ready < wanted:
            parts.append(f"{ready} of {wanted} {process} ready{_first_reason(live)}")
    return f"v{release}: " + "; ".join(parts) if parts else f"v{release}: all ready"


def _first_reason(live: list[Instance]) -> str:
    worst = sorted((i for i in live if not i.serving), key=lambda i: (-i.restarts, i.id))
    return f" ({worst[0].reason})" if worst and worst[0].reason else ""


def find_broken(facts: Facts, release: int) -> str:
    """Return why a release can't be trusted with traffic, or "": crashing, or a process with nothing ready.

    One crash is no verdict where another instance of the process serves, nor is a first restart on its way.
    """
    for process in facts.releases[release].processes:
        live = facts.live(release, process)
        for instance in live:
            if instance.state is InstanceState.CRASHING:
                return f"{process} of v{release} crashes: {instance.reason or 'no reason given'}"
        if live and not any(i.serving for i in live):
            hopeless = [i for i in live if i.restarts >= 2 or i.state is InstanceState.RUNNING]
            if hopeless:
                return f"no {process} instance of v{release} is healthy{_first_reason(live)}"
    return ""


def is_serving(facts: Facts, release: int | None) -> bool:
    """Whether a release has at least one ready instance of each process that is wanted (web above all)."""
    if release is None or release not in facts.releases:
        return False
    processes = facts.releases[release].processes
    names = [WEB] if WEB in processes else list(processes)
    return all(facts.count(release, name) == 0 or any(i.serving for i in facts.live(release, name)) for name in names)


def describe_routers(routers: tuple[RouterFacts, ...], wanted: frozenset[str]) -> str:
    """Say what the routers still lack, or "" if every one has acknowledged and sees `wanted` healthy."""
    if not routers and wanted:
        return "no router is connected"
    for router in routers:
        if router.rejected:
            return f"{router.name} refused the routes: {router.rejected}"
    late = [router.name for router in routers if not router.applied]
    if late:
        return f"waiting for {', '.join(late)} to acknowledge the routes"
    blind = [router.name for router in routers if not wanted <= router.healthy]
    return f"waiting for {', '.join(blind)} to see the new instances healthy" if blind else ""


def describe_app(facts: Facts) -> tuple[AppState, str]:
    """Return the app's state and why."""
    app, active = facts.app, facts.active
    if app.spec.destroy:
        left = sum(i.state is not InstanceState.STOPPED for i in facts.instances)
        return "destroying", f"{left} instances still to stop" if left else "everything is down"
    if active is not None and active.status.phase is not Phase.KEEPING:
        return "deploying", f"v{active.spec.target} is {active.status.phase}: {active.status.reason}"
    current = app.status.current
    if current is None or current not in facts.releases:
        return "empty", "nothing deployed yet" if not facts.rollouts else "no release has succeeded yet"
    return _describe_current(facts, current) if facts.observed else (app.status.state, app.status.reason)


def _describe_current(facts: Facts, current: int) -> tuple[AppState, str]:
    wanted = {p: facts.count(current, p) for p in facts.releases[current].processes}
    if not any(wanted.values()):
        return "stopped", f"v{current} is scaled to zero"
    ready = {p: sum(i.serving for i in facts.live(current, p)) for p in wanted}
    if all(ready[p] >= n for p, n in wanted.items()):
        return "serving", f"v{current}: " + ", ".join(f"{n} {p}" for p, n in wanted.items())
    state: AppState = "degraded" if is_serving(facts, current) else "down"
    return state, describe_unready(facts, current)

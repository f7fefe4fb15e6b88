"""The one sentence of why: the same words in CLI, API, events and console."""

from __future__ import annotations

from seaway.model import WEB, AppState, Instance, InstanceState, Phase, Rollout, TaskState, WorkloadKey
from seaway.rollout.facts import Facts, RouterFacts


def describe_unready(facts: Facts, release: int) -> str:
    """Say what a release still lacks, with the first instance's own reason, else why there is no such instance."""
    parts = []
    for process in facts.releases[release].processes:
        live = facts.live(release, process)
        wanted = facts.count(release, process)
        ready = sum(i.serving for i in live)
        if ready < wanted:
            why = _explain_lost(facts, release, process) or _find_reason(live) or _find_refusal(facts, release, process)
            parts.append(f"{ready} of {wanted} {process} ready" + (f" ({why})" if why else ""))
    return f"v{release}: " + "; ".join(parts) if parts else f"v{release}: all ready"


def _find_reason(live: list[Instance]) -> str:
    worst = sorted((i for i in live if not i.serving), key=lambda i: (-i.restarts, i.id))
    return worst[0].reason if worst else ""


def _find_refusal(facts: Facts, release: int, process: str) -> str:
    return facts.refused.get(WorkloadKey(app=facts.app.name, release=release, process=process), "")


def _explain_lost(facts: Facts, release: int, process: str) -> str:
    """Say of which lost node an instance is missed, and why none takes its place if none does."""
    lost = [i for i in facts.live(release, process) if i.state is InstanceState.LOST]
    doubtful = facts.doubtful(release, process) or (lost if facts.is_exclusive(release) else [])
    if doubtful:
        first = min(doubtful, key=lambda i: i.id)
        again = f"v{first.key.release} may still run there and must not run twice; bring the node back, or, {OFF} or "
        return f"{first.reason}; {again}restart the app (`seaway ps restart`) and promote that rollout"
    if not lost:
        return ""
    return f"{lost[0].reason}; {facts.outage or 'another takes its place'}"


OFF = "once you know that it is off, delete it from the cluster,"


def describe_unreachable(facts: Facts, releases: list[int]) -> str:
    """Say which lost node keeps the end of `releases` from being known, and what can be done; "" if none does."""
    left = [i for i in facts.instances if i.key.release in releases and i.state is not InstanceState.STOPPED]
    if not left or not all(i.unreachable for i in left):
        return ""
    return f"{left[0].reason}, and it may still run there; {OFF} or promote this rollout"


def describe_written(task: TaskState) -> str:
    """Say which files a release command wrote that nothing else will see; "" if none is known."""
    if not task.wrote:
        return ""
    names = ", ".join(task.wrote)
    gone = "its own copy of the app, which is gone now: what must stay goes into a folder of [[mounts]] or to a service"
    return f", but wrote {names} into {gone}"


def find_broken(facts: Facts, release: int) -> str:
    """Return why a release can't be trusted with traffic, or "": crashing, or a process with nothing ready.

    One crash is no verdict where another instance of the process serves, nor is a first restart on its way. What
    a node took with it is not the release's fault: it is replaced (but see `find_fault`).
    """
    for process in facts.releases[release].processes:
        live = facts.live(release, process)
        for instance in live:
            if instance.state is InstanceState.CRASHING:
                why = instance.reason or "no reason given"
                return f"{process} of v{release} crashes: {why}{advise_without(facts, release)}"
        if live and not any(i.serving for i in live):
            hopeless = [i for i in live if not i.unreachable and (i.restarts >= 2 or i.state is InstanceState.RUNNING)]
            if hopeless:
                why = _find_reason(hopeless)
                sick = f"no {process} instance of v{release} is healthy" + (f" ({why})" if why else "")
                return sick + (advise_without(facts, release) if process != WEB else "")
    return ""


ENDED = frozenset({InstanceState.BACKOFF, InstanceState.CRASHING})
"""States of instances whose command has ended, and is started again."""
BY_ITSELF = "exited with code 0"
"""How engines begin the reason of an instance that ended by itself, and well."""


def advise_without(facts: Facts, release: int) -> str:
    """Say how to deploy without the processes that end again and again, as the end of a sentence; or "".

    Nothing is advised if `web` is one of them, or if no other process is wanted: nobody wants to deploy what is left.
    """
    wanted = {process for process in facts.releases[release].processes if facts.count(release, process)}
    ends = [i for i in facts.live(release) if i.state in ENDED]
    names = sorted({i.key.process for i in ends})
    if not names or WEB in names or wanted <= set(names):
        return ""
    well = sorted({i.key.process for i in ends if i.reason.startswith(BY_ITSELF)})
    counts = " ".join(f"{name}=0" for name in names)
    itself = "itself, as a one-off does" if len(well) == 1 else "themselves, as one-offs do"
    told = f"; {' and '.join(well)} ended by {itself}: {ONE_OFFS}" if well else ""
    return f"{told}; to deploy without {' and '.join(names)}: `seaway ps scale {counts} -a {facts.app.name}` first"


ONE_OFFS = "those are for `seaway run`, or for `release:` in the Procfile if they have to run before traffic moves"


def find_fault(facts: Facts, rollout: Rollout) -> str:
    """Return why traffic must not stay with B, or "": it is broken, or serves nobody while A could.

    Whose fault that is does not matter (a first crash, an eviction, a lost node): A is there, and requests are
    answered. But where A had to start again too (the machine did, or the platform), B is only a little later.
    """
    target, base = rollout.spec.target, rollout.status.base
    if target not in facts.releases:
        return f"v{target} is not there any more"
    broken = find_broken(facts, target)
    if broken or is_serving(facts, target) or base is None or not is_serving(facts, base):
        return broken
    if WEB not in facts.releases[target].processes:
        return ""  # no request is lost: what is missed of it is started again
    if _started_since(facts, base, rollout) and not any(i.unreachable for i in facts.live(target)):
        return ""
    return f"v{target} serves nobody any more ({describe_unready(facts, target)})"


def _started_since(facts: Facts, release: int, rollout: Rollout) -> bool:
    """Whether all that serves of a release became ready only after this phase of the rollout began."""
    entered = rollout.status.entered_at
    serving = [i for i in facts.live(release) if i.serving]
    return entered is not None and all(i.ready_since is not None and i.ready_since > entered for i in serving)


def is_serving(facts: Facts, release: int | None) -> bool:
    """Whether a release has at least one ready instance of each process that is wanted (web above all)."""
    if release is None or release not in facts.releases:
        return False
    processes = facts.releases[release].processes
    names = [WEB] if WEB in processes else list(processes)
    return all(facts.count(release, name) == 0 or any(i.serving for i in facts.live(release, name)) for name in names)


def is_webless(facts: Facts, release: int | None) -> bool:
    """Whether a release is there that has no web process: no request is meant for it."""
    return release is not None and release in facts.releases and WEB not in facts.releases[release].processes


def describe_holder(facts: Facts, release: int | None) -> str:
    """Say that a release has all the traffic, or that it runs where it takes no requests."""
    if is_webless(facts, release):
        return f"v{release} runs; it takes no requests, as it has no web process"
    return f"v{release} serves all traffic"


def is_full(facts: Facts, release: int) -> bool:
    """Whether as many instances of each process of a release are ready as are wanted."""
    return all(
        sum(i.serving for i in facts.live(release, process)) >= facts.count(release, process)
        for process in facts.releases[release].processes
    )


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
        more = "; takes no requests, as it has no web process" if is_webless(facts, current) else ""
        return "serving", f"v{current}: " + ", ".join(f"{n} {p}" for p, n in wanted.items()) + more
    state: AppState = "degraded" if is_serving(facts, current) else "down"
    return state, describe_unready(facts, current)

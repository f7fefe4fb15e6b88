"""What a pod's status means for the instance that it is. Pure: facts in, an Instance with one sentence out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from seaway.engine.kubernetes import reasons
from seaway.engine.kubernetes.objects import Condition, ContainerStatus, Pod, Terminated
from seaway.engine.kubernetes.settings import PORT
from seaway.engine.kubernetes.usage import UNKNOWN, Usage
from seaway.engine.local.reasons import USE_PORT, advise_time
from seaway.model import Instance, InstanceState, Workload, WorkloadKey

S = InstanceState

CRASHING_AFTER = 3  # failures in a row, as with the local engine
FORGIVEN = 60.0  # seconds: what ran for so long before it ended has not failed in a row
PULLING = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
           "RegistryUnavailable")  # fmt: skip
UNSTARTABLE = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError",
               "ContainerCannotRun", "PostStartHookError")  # fmt: skip


@dataclass(frozen=True)
class Clue:
    """What was said of a pod elsewhere: its last failed probes (events), why its image could not be pulled.

    `probes`: startup, readiness or liveness -> what went wrong, and when as Kubernetes writes it.
    """

    probes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    pull: str = ""

    def find_fault(self, probe: str, since: str | None) -> str:
        """Return what went wrong with a probe since then; "" if nothing was told."""
        fault, at = self.probes.get(probe, ("", ""))
        return fault if at >= (since or "") else ""

    def with_fault(self, message: str, at: str) -> Clue:
        """Return the clue with what an event says of a probe."""
        probe, fault = reasons.describe_fault(message, PORT)
        if at < self.probes.get(probe, ("", ""))[1]:
            return self
        return replace(self, probes={**self.probes, probe: (fault, at)})


@dataclass(frozen=True)
class _Life:
    """Where an instance is."""

    state: InstanceState
    reason: str = ""
    ready: bool = False
    started_at: str | None = None
    ready_since: str | None = None


NO_CLUE = Clue()
SET = set(Instance.model_fields) - {"killed"}
"""Names of the fields that are set here: one set for all, for the garbage collector's sake."""


def make_instance(
    pod: Pod,
    key: WorkloadKey,
    workload: Workload | None,
    *,
    lost: str = "",
    removed: bool = False,
    clue: Clue = NO_CLUE,
    usage: Usage = UNKNOWN,
) -> Instance:
    """Return the instance. `lost`: why its node is not to be counted on; `removed`: its workload is not wanted."""
    status = pod.status.container_statuses[0] if pod.status.container_statuses else ContainerStatus()
    retired = workload is not None and pod.metadata.name in workload.retire  # noted when its pod had been deleted
    why_stopped = "its release was removed" if removed else "told to stop" if retired else ""
    life = _judge_whole(pod, lost, why_stopped) or _judge(pod, status, workload, clue)
    ended = status.state.terminated or status.last_state.terminated
    known = None if ended is None or _is_missing(ended) else ended
    return Instance.model_construct(  # every field is set or right by itself; validating 5,000 costs 40 ms
        SET,
        id=pod.metadata.name,
        key=key,
        node=pod.spec.node_name,
        state=life.state,
        ready=life.ready,
        reason=life.reason,
        address=pod.status.pod_ip or None,
        port=_find_port(workload),
        created_at=parse_time(pod.metadata.creation_timestamp),
        started_at=parse_time(life.started_at) if life.started_at else None,
        ready_since=parse_time(life.ready_since) if life.ready and life.ready_since else None,
        restarts=status.restart_count,
        exit_code=reasons.read_exit_code(known) if known else None,
        cpu=usage.cpu,
        memory=usage.memory,
        over_disk=pod.status.reason == "Evicted" and reasons.is_over_disk(pod.status.message),
    )


def with_usage(instance: Instance, usage: Usage) -> Instance:
    """Return the instance with what it uses now."""
    return Instance.model_construct(SET, **instance.__dict__ | {"cpu": usage.cpu, "memory": usage.memory})


def _find_port(workload: Workload | None) -> int:
    return workload.process.port or PORT if workload else PORT


def parse_time(text: str) -> datetime:
    """Return Kubernetes' time, in UTC."""
    return datetime.fromisoformat(text)


def _judge_whole(pod: Pod, lost: str, why_stopped: str) -> _Life | None:
    """Judge by what does not depend on the container; None: it does.

    `why_stopped`: this engine has seen to its end, which the watch may not have brought yet.
    """
    if pod.metadata.deletion_timestamp is not None:
        if _has_ended(pod):  # the pod may stay for a minute more, until its kubelet looks for what it has to clear away
            return _Life(S.STOPPED, "told to stop")
        return _Life(S.STOPPING, f"told to stop; {lost}" if lost else "told to stop")
    if pod.status.phase in ("Failed", "Succeeded"):
        return _Life(S.STOPPED, reasons.describe_eviction(pod.status.reason, pod.status.message))
    if why_stopped:
        return _Life(S.STOPPING, why_stopped)
    if not pod.spec.node_name:
        return _Life(S.PENDING, _describe_waiting(pod))
    return _Life(S.LOST, lost) if lost else None


def _has_ended(pod: Pod) -> bool:
    """Whether all that ran in it has ended, by its kubelet's word; one that is to be deleted starts nothing again."""
    statuses = pod.status.container_statuses
    return bool(statuses) and all(
        s.state.terminated or (s.state.running is None and _is_missing(s.last_state.terminated)) for s in statuses
    )


def _is_missing(ended: Terminated | None) -> bool:
    """Whether the kubelet says so as it finds the container no more: how it ended nobody knows.

    Busy kubelets do, of containers that were cleared away before they looked; what they say of the state is "waiting".
    """
    return ended is not None and ended.reason == "ContainerStatusUnknown"


def _judge(pod: Pod, status: ContainerStatus, workload: Workload | None, clue: Clue) -> _Life:
    if status.state.running is not None:
        return _judge_running(pod, status, workload, clue)
    if status.state.terminated is not None:
        return _judge_ended(pod, status, status.state.terminated, workload, clue)
    return _judge_waiting(pod, status, workload, clue)


def _describe_waiting(pod: Pod) -> str:
    scheduled = _condition(pod, "PodScheduled")
    requests = pod.spec.containers[0].resources.requests if pod.spec.containers else {}
    if scheduled.status == "False":
        return reasons.describe_unscheduled(scheduled.message, requests)
    return "waits for a node"


def _judge_running(pod: Pod, status: ContainerStatus, workload: Workload | None, clue: Clue) -> _Life:
    assert status.state.running is not None
    since = status.state.running.started_at
    ready = _condition(pod, "Ready")
    if status.started is False:
        last = status.last_state.terminated
        again = (
            f"starting again; before that it {_describe_failure(pod, last, workload, clue)[0]}"
            if last
            else _describe_starting(workload, clue.find_fault("startup", since))
        )
        return _Life(S.STARTING, again, started_at=since)
    if ready.status == "True":
        return _Life(S.RUNNING, "", ready=True, started_at=since, ready_since=ready.last_transition_time or since)
    fault = clue.find_fault("readiness", since)
    return _Life(S.RUNNING, f"not ready: {fault}" if fault else "started, not ready yet", started_at=since)


def _judge_ended(pod: Pod, status: ContainerStatus, ended: Terminated, workload: Workload | None, clue: Clue) -> _Life:
    """It has just ended: the kubelet starts it again, sooner or later."""
    reason, hopeless = _describe_failure(pod, ended, workload, clue)
    crashing = hopeless or (status.restart_count + 1 >= CRASHING_AFTER and not _is_forgiven(ended))
    return _Life(S.CRASHING if crashing else S.BACKOFF, reason, started_at=ended.started_at)


def _judge_waiting(pod: Pod, status: ContainerStatus, workload: Workload | None, clue: Clue) -> _Life:
    waiting, last = status.state.waiting, status.last_state.terminated
    if waiting is None or waiting.reason in ("", "ContainerCreating", "PodInitializing"):
        if last is not None:
            return _judge_ended(pod, status, last, workload, clue)
        return _Life(S.PENDING, f"{pod.spec.node_name} prepares it")
    image = pod.spec.containers[0].image if pod.spec.containers else "of its release"
    if waiting.reason in PULLING:
        message = clue.pull if waiting.reason == "ImagePullBackOff" else waiting.message
        state = S.CRASHING if reasons.is_pulled_never(waiting.reason, message) else S.BACKOFF
        return _Life(state, reasons.describe_pull(image, message))
    if waiting.reason == "CrashLoopBackOff" and last is not None:
        return _judge_ended(pod, status, last, workload, clue)
    if waiting.reason in UNSTARTABLE:
        state = S.BACKOFF if waiting.reason == "CreateContainerConfigError" else S.CRASHING
        return _Life(state, reasons.describe_unstartable(waiting.reason, waiting.message))
    return _Life(S.BACKOFF, f"waits: {waiting.reason} {waiting.message}".strip()[: reasons.SHOWN])


def _describe_failure(pod: Pod, ended: Terminated, workload: Workload | None, clue: Clue) -> tuple[str, bool]:
    """Return why a container ended, and whether trying again is without hope: it never became healthy, or never ran."""
    lived = _lived(ended)
    killed = ended.reason != "OOMKilled" and reasons.read_exit_code(ended) in (-9, -15, 0)
    output = reasons.quote_output(ended)
    if killed and (fault := clue.find_fault("liveness", ended.started_at)):
        return f"liveness check failed {_times(workload)}: {fault}{output}", False
    if killed and (fault := clue.find_fault("startup", ended.started_at)):
        return _describe_unstarted(workload, fault, lived) + output, True
    hopeless = ended.reason in UNSTARTABLE
    return reasons.describe_end(ended, lived, pod.spec.memory_limit), hopeless


def _describe_starting(workload: Workload | None, fault: str) -> str:
    if "refused" in fault:
        return f"starting: it does not listen on PORT {_find_port(workload)} yet"
    return f"starting: {fault}" if fault else "starting"


def _describe_unstarted(workload: Workload | None, fault: str, lived: float | None) -> str:
    limit = workload.process.health.start_timeout if workload else lived or 0.0
    more = f"; {advise_time(workload.key.process)}" if workload else ""
    if "refused" in fault:
        what = f"did not listen on PORT {_find_port(workload)} within {limit:g} s"
        return f"{what}; {USE_PORT}, and on every address{more}"
    return f"did not become healthy within {limit:g} s: {fault}{more}"


def _times(workload: Workload | None) -> str:
    check = workload.process.health.liveness if workload else None
    return f"{check.unhealthy_after} times in a row" if check else "again and again"


def _is_forgiven(ended: Terminated) -> bool:
    lived = _lived(ended)
    return lived is not None and lived >= FORGIVEN


def _lived(ended: Terminated) -> float | None:
    if not ended.started_at or not ended.finished_at:
        return None
    return max(0.0, (parse_time(ended.finished_at) - parse_time(ended.started_at)).total_seconds())


def _condition(pod: Pod, kind: str) -> Condition:
    return next((c for c in pod.status.conditions if c.type == kind), Condition())

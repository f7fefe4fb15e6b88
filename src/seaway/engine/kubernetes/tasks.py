"""What a Job and its pod mean for the one-off that they are. Pure."""

from __future__ import annotations

from seaway.engine.kubernetes import names, reasons
from seaway.engine.kubernetes.instances import PULLING, UNSTARTABLE, Clue, parse_time
from seaway.engine.kubernetes.objects import Condition, ContainerStatus, Job, Pod
from seaway.model import TaskState


def make_task_state(job: Job, pods: tuple[Pod, ...], clue: Clue, refused: str = "") -> TaskState | None:
    """Return the one-off's state; None if the Job is not one of ours. Its first pod is the one that counts.

    `refused`: what the API server said when it did not take that pod, if it ever did not.
    """
    labels, notes = job.metadata.labels, job.metadata.annotations
    task_id, attached = notes.get(names.TASK_ID), notes.get(names.TASK_ATTACHED) == "true"
    if not task_id:
        return None
    state = TaskState(id=task_id, app=labels.get(names.APP, ""), attached=attached)
    over = _find_end(job)
    pod = min(pods, key=lambda p: (p.metadata.creation_timestamp, p.metadata.name), default=None)
    if pod is None:
        return _judge_podless(state, over, refused and reasons.describe_refused(refused, "its pod"))
    return _judge(state, pod, over, clue)


def is_over(job: Job) -> bool:
    """Whether a one-off has ended, one way or the other."""
    return _find_end(job) is not None


def _find_end(job: Job) -> Condition | None:
    return next((c for c in job.status.conditions if c.type in ("Complete", "Failed") and c.status == "True"), None)


def _judge_podless(state: TaskState, over: Condition | None, refused: str) -> TaskState:
    if over is None:
        return state.model_copy(update={"reason": refused or "waits for its pod"})
    ended = parse_time(over.last_transition_time) if over.last_transition_time else None
    if over.type == "Complete":
        return state.model_copy(
            update={"done": True, "exit_code": 0, "reason": "exited with code 0", "ended_at": ended}
        )
    why = "its pod is gone: deleted, or lost with its node"
    if over.reason == "DeadlineExceeded":
        why = f"gave up: {refused}" if refused else "killed: it did not end within its limit"
    return state.model_copy(update={"done": True, "reason": why, "ended_at": ended})


def _judge(state: TaskState, pod: Pod, over: Condition | None, clue: Clue) -> TaskState:
    status = pod.status.container_statuses[0] if pod.status.container_statuses else ContainerStatus()
    ended, waiting, running = status.state.terminated, status.state.waiting, status.state.running
    began = (ended.started_at if ended else running.started_at if running else None) or None
    state = state.model_copy(update={"started_at": parse_time(began) if began else None})
    if pod.status.phase in ("Succeeded", "Failed") or ended is not None:
        return _judge_ended(state, pod, status)
    if over is not None:  # Jobs and pods are watched apart: the pod's own end, with its exit code, is still to come
        never = over.reason == "DeadlineExceeded" or pod.metadata.deletion_timestamp is not None
        return _judge_ended(state, pod, status) if never else state.model_copy(update={"reason": "has ended"})
    if waiting is not None and waiting.reason in PULLING:
        message = clue.pull if waiting.reason == "ImagePullBackOff" else waiting.message
        never = reasons.is_pulled_never(waiting.reason, message)
        why = reasons.describe_pull(pod.spec.containers[0].image if pod.spec.containers else "", message)
        return state.model_copy(update={"done": never, "reason": why})
    if waiting is not None and waiting.reason in UNSTARTABLE:
        never = waiting.reason != "CreateContainerConfigError"
        return state.model_copy(
            update={"done": never, "reason": reasons.describe_unstartable(waiting.reason, waiting.message)}
        )
    if running is not None:
        return state.model_copy(update={"reason": "running"})
    if not pod.spec.node_name:
        scheduled = next((c for c in pod.status.conditions if c.type == "PodScheduled"), Condition())
        requests = pod.spec.containers[0].resources.requests if pod.spec.containers else {}
        return state.model_copy(update={"reason": reasons.describe_unscheduled(scheduled.message, requests)})
    return state.model_copy(update={"reason": f"{pod.spec.node_name} prepares it"})


def _judge_ended(state: TaskState, pod: Pod, status: ContainerStatus) -> TaskState:
    ended = status.state.terminated or status.last_state.terminated
    late = pod.status.reason == "DeadlineExceeded"
    if ended is None:
        why = f"killed: it did not end within {pod.spec.active_deadline_seconds} s" if late else ""
        why = why or reasons.describe_eviction(pod.status.reason, pod.status.message)
        code = -9 if late else None  # Kubernetes forgets the code of what it killed for that
        return state.model_copy(update={"done": True, "exit_code": code, "reason": why})
    code = reasons.read_exit_code(ended)
    why = "exited with code 0" if code == 0 else reasons.describe_failure(ended, pod.spec.memory_limit)
    if late:
        why = f"killed: it did not end within {pod.spec.active_deadline_seconds} s{reasons.quote_failure(ended)}"
        code = -9  # by SIGTERM or SIGKILL
    finished = parse_time(ended.finished_at) if ended.finished_at else None
    return state.model_copy(update={"done": True, "exit_code": code, "reason": why, "ended_at": finished})

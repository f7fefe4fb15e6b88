"""What the cluster looks like now: watched caches, and from them instances, workloads, tasks and nodes.

Nothing is asked of the API server when somebody looks. Each change of an object renews what depends on it; what this
engine wrote itself is seen at once, before the watch brings it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from seaway.engine.kubernetes import names
from seaway.engine.kubernetes.instances import NO_CLUE, Clue, make_instance, with_usage
from seaway.engine.kubernetes.nodes import describe_gone, make_node
from seaway.engine.kubernetes.objects import Job, KubeEvent, NodeObject, Pod, ReplicaSet, Secret
from seaway.engine.kubernetes.overlay import Overlay
from seaway.engine.kubernetes.reading import find_refusal, read_renewal, read_workload
from seaway.engine.kubernetes.settings import KubernetesEngineSettings
from seaway.engine.kubernetes.tasks import make_task_state
from seaway.engine.kubernetes.usage import UNKNOWN, Usage
from seaway.engine.kubernetes.watched import Steps, Watched
from seaway.engine.local.changes import Changes
from seaway.kube.cache import Delta, Key
from seaway.kube.client import KubeClient
from seaway.kube.structs import Object
from seaway.model import Instance, Node, Observation, Refusal, TaskState, Workload, WorkloadKey

SPARE_CLUES = 1000  # clues of pods that are not known (yet) before those are cleared away


class Picture:
    """The live picture. `changes` hears of apps ("": anything may have changed)."""

    def __init__(self, client: KubeClient, settings: KubernetesEngineSettings, changes: Changes) -> None:
        self._settings, self._changes = settings, changes
        self.watched = watched = Watched(client, settings.stale_after, changes.notify)
        self.pods, self.sets, self.secrets, self.jobs = watched.pods, watched.sets, watched.secrets, watched.jobs
        self.written: Overlay[ReplicaSet] = Overlay(self.sets)
        self.started: Overlay[Job] = Overlay(self.jobs)
        self.listeners: list[Callable[[Delta[Pod]], None]] = []  # hear of pods before their instances are renewed
        self._pods_of: dict[WorkloadKey, set[Key]] = {}
        self._pods_on: dict[str, set[Key]] = {}
        self._pods_of_job: dict[Key, set[Key]] = {}
        self._sets_of: dict[WorkloadKey, Key] = {}
        self._clues: dict[Key, Clue] = {}
        self._lost: dict[str, str] = {}  # node -> why its instances are lost
        self._usage: Mapping[Key, Usage] = {}
        self._instances: dict[Key, Instance] = {}
        self._refused: dict[WorkloadKey, str] = {}
        self._workloads: dict[WorkloadKey, tuple[Workload, bool]] = {}  # as written, and whether it is still so
        self._unmade: dict[Key, str] = {}  # Job -> why the API server did not take its pod
        self._tasks: dict[Key, TaskState] = {}
        self._nodes: dict[str, Node] = {}
        self._last: Observation | None = None  # the last one, until something changes
        self._note_gone: Callable[[WorkloadKey], None] = lambda _: None
        self.finish: Callable[[str, TaskState | None], TaskState | None] = lambda _, state: state  # see StreamHolder

    def start(self, note_gone: Callable[[WorkloadKey], None]) -> None:
        """Begin to watch; `note_gone` hears of ReplicaSets that somebody else deleted."""
        self._note_gone = note_gone
        self.watched.start(
            {
                "nodes": self.see_nodes, "leases": lambda _: (), "secrets": self.see_secrets, "sets": self.see_sets,
                "faults": self.see_faults, "unmade": self.see_unmade, "jobs": self.see_jobs, "pods": self.see_pods,
            }
        )  # fmt: skip

    def check(self) -> None:
        """Raise EngineUnavailable if the picture is not whole yet, or too old to act on."""
        self.watched.check()

    def observe(self) -> Observation:
        """Return everything as of now; raises EngineUnavailable."""
        self.check()
        leases = self.watched.leases.objects
        nodes = [
            node if (lease := leases.get(("kube-node-lease", name))) is None else read_renewal(node, lease)
            for name, node in self._nodes.items()
        ]
        if self._last is not None:  # nothing has changed but when nodes were heard of: what it has sorted is kept
            self._last = self._last.model_copy(update={"nodes": tuple(nodes)})
        else:
            self._last = Observation.model_construct(
                nodes=tuple(nodes),
                instances=tuple(self._instances.values()),
                workloads=tuple(workload for workload, intact in self._workloads.values() if intact),
                tasks=tuple(self._tasks.values()),
                refusals=tuple(Refusal(key=key, reason=reason) for key, reason in self._refused.items()),
            )
        return self._last

    def _tell(self, app: str) -> None:
        """Something of the app has changed ("": of anything)."""
        self._last = None
        self._changes.notify(app)

    def find_set(self, key: WorkloadKey) -> ReplicaSet | None:
        """Return the ReplicaSet of a workload."""
        place = self._sets_of.get(key)
        return self.written.get(place) if place else None

    def find_workload(self, key: WorkloadKey) -> Workload | None:
        """Return the workload as it was written, whether or not somebody changed it since."""
        found = self._workloads.get(key)
        return found[0] if found else None

    def find_job(self, task_id: str) -> Job | None:
        """Return the Job of a one-off."""
        for job in self.started.values():
            if job.metadata.annotations.get(names.TASK_ID) == task_id and self.is_ours(job):
                return job
        return None

    def find_task(self, task_id: str) -> TaskState | None:
        """Return the state of a one-off."""
        return next((state for state in self._tasks.values() if state.id == task_id), None)

    def find_pod_of(self, job: Job) -> Pod | None:
        """Return the pod of a Job, the first one if there were several."""
        found = [self.pods.objects.get(place) for place in self._pods_of_job.get(_place(job), ())]
        pods = [pod for pod in found if pod is not None]
        return min(pods, key=lambda pod: (pod.metadata.creation_timestamp, pod.metadata.name), default=None)

    def renew_job(self, job: Job) -> None:
        """Something is known of a one-off that its Job and pod do not say."""
        self._renew_task(_place(job))

    def find_pods(self, key: WorkloadKey) -> list[Pod]:
        """Return the pods of a workload."""
        return [pod for place in self._pods_of.get(key, ()) if (pod := self.pods.objects.get(place)) is not None]

    def note_set(self, written: ReplicaSet) -> None:
        """Take in what the API server answered to a write."""
        self.written.put(written)
        self._renew_set(_place(written))

    def note_removed(self, gone: ReplicaSet) -> None:
        """A ReplicaSet was deleted."""
        self.written.remove(gone)
        self._renew_set(_place(gone))

    def note_kept(self, there: ReplicaSet) -> None:
        """The deletion came to nothing, or nobody knows."""
        self.written.removed.pop(there.metadata.uid, None)
        self._renew_set(_place(there))

    def note_job(self, written: Job) -> None:
        """Take in what the API server answered to a new Job."""
        self.started.put(written)
        self._renew_task(_place(written))

    def note_job_removed(self, gone: Job) -> None:
        """A Job was deleted."""
        self.started.remove(gone)
        self._renew_task(_place(gone))

    def note_node(self, written: NodeObject) -> None:
        """Take in what the API server answered to a change of a node."""
        self._nodes[written.metadata.name] = make_node(written)

    def note_secret(self, written: Secret) -> None:
        """Take in what the API server answered to a new Secret."""
        self.secrets.objects.setdefault(_place(written), written)

    def take_usage(self, found: Mapping[Key, Usage]) -> Steps:
        """Take in what all instances use now. No app is told: nothing is decided by it."""
        self._usage = found
        for place in tuple(self._instances):
            yield lambda place=place: self._renew_usage(place)  # type: ignore[misc]

    def _renew_usage(self, place: Key) -> None:
        old, usage = self._instances.get(place), self._usage.get(place, UNKNOWN)
        if old is not None and (old.cpu, old.memory) != (usage.cpu, usage.memory):
            self._instances[place] = with_usage(old, usage)
            self._last = None

    # What the watches bring

    def see_nodes(self, delta: Delta[NodeObject]) -> Steps:
        """Take in nodes: their own state, and that of what they carry."""
        for item in delta.put:
            yield lambda item=item: self._renew_node(item)  # type: ignore[misc]
        for item in delta.gone:
            yield lambda item=item: self._drop_node(item.metadata.name)  # type: ignore[misc]

    def _renew_node(self, item: NodeObject) -> None:
        name, new = item.metadata.name, make_node(item)
        if self._nodes.get(name) != new:
            self._nodes[name] = new
            self._tell("")
        self._set_lost(name, "")

    def _drop_node(self, name: str) -> None:
        self._nodes.pop(name, None)
        self._tell("")
        self._set_lost(name, describe_gone(name))

    def _set_lost(self, name: str, why: str) -> None:
        if self._lost.get(name, "") != why:
            self._lost[name] = why
            for place in tuple(self._pods_on.get(name, ())):
                self._renew_instance(place)

    def see_secrets(self, delta: Delta[Secret]) -> Steps:
        """Take in config."""
        for item in (*delta.put, *delta.gone):
            key = names.read_key(item.metadata.labels)
            if key in self._sets_of:
                yield lambda place=self._sets_of[key]: self._renew_set(place)  # type: ignore[misc]

    def see_sets(self, delta: Delta[ReplicaSet]) -> Steps:
        """Take in ReplicaSets."""
        self.written.forget(delta.gone)
        for item in delta.gone:
            key = names.read_key(item.metadata.labels)
            if key is not None and self.is_ours(item) and item.metadata.uid not in self.written.removed:
                self._note_gone(key)
        for item in (*delta.put, *delta.gone):
            if self.is_ours(item):
                yield lambda item=item: self._renew_set(_place(item))  # type: ignore[misc]

    def see_jobs(self, delta: Delta[Job]) -> Steps:
        """Take in Jobs."""
        self.started.forget(delta.gone)
        for item in (*delta.put, *delta.gone):
            if self.is_ours(item):
                yield lambda item=item: self._renew_task(_place(item))  # type: ignore[misc]

    def see_faults(self, delta: Delta[KubeEvent]) -> Steps:
        """Take in failed probes."""
        for item in delta.put:
            about = item.involved_object
            if about.namespace.startswith(self._settings.namespace_prefix):
                yield lambda item=item: self._note_fault(item)  # type: ignore[misc]

    def _note_fault(self, item: KubeEvent) -> None:
        place = (item.involved_object.namespace, item.involved_object.name)
        old = self._clues.get(place, NO_CLUE)
        if len(self._clues) > 2 * len(self.pods.objects) + SPARE_CLUES:
            self._clues = {p: clue for p, clue in self._clues.items() if p in self.pods.objects}
        self._clues[place] = old.with_fault(item.message, item.last_timestamp or "")
        self._renew_instance(place)

    def see_unmade(self, delta: Delta[KubeEvent]) -> Steps:
        """Take in why pods of Jobs could not be made."""
        for item in delta.put:
            if item.involved_object.namespace.startswith(self._settings.namespace_prefix):
                yield lambda item=item: self._note_unmade(item)  # type: ignore[misc]

    def _note_unmade(self, item: KubeEvent) -> None:
        place = (item.involved_object.namespace, item.involved_object.name)
        if len(self._unmade) > 2 * len(self.jobs.objects) + SPARE_CLUES:
            self._unmade = {p: why for p, why in self._unmade.items() if p in self.jobs.objects}
        self._unmade[place] = item.message
        self._renew_task(place)

    def see_pods(self, delta: Delta[Pod]) -> Steps:
        """Take in pods."""
        for listener in self.listeners:
            listener(delta)
        for item in delta.put:
            if self.is_ours(item):
                yield lambda item=item: self._add_pod(item)  # type: ignore[misc]
        for item in delta.gone:
            if self.is_ours(item):
                yield lambda item=item: self._drop_pod(item)  # type: ignore[misc]

    def is_ours(self, item: Object) -> bool:
        """Whether this Seaway made the object, not another one in the same cluster."""
        return names.is_of(item.metadata, self._settings.namespace_prefix)

    def _add_pod(self, pod: Pod) -> None:
        place = _place(pod)
        for table, entry in self._tables(pod):
            table.setdefault(entry, set()).add(place)
        waiting = pod.status.container_statuses[0].state.waiting if pod.status.container_statuses else None
        if waiting is not None and waiting.reason == "ErrImagePull":
            old = self._clues.get(place, NO_CLUE)
            self._clues[place] = replace(old, pull=waiting.message)
        self._renew_instance(place)

    def _drop_pod(self, pod: Pod) -> None:
        place = _place(pod)
        if place in self.pods.objects:
            return  # another one of that name
        for table, entry in self._tables(pod):
            places = table.get(entry, set())
            places.discard(place)
            if not places:
                table.pop(entry, None)
        self._clues.pop(place, None)
        self._instances.pop(place, None)
        self._renew_instance(place, pod)

    def _tables(self, pod: Pod) -> Iterable[tuple[dict[Any, set[Key]], Any]]:
        labels = pod.metadata.labels
        if labels.get(names.KIND) == names.TASK:
            yield self._pods_of_job, (pod.metadata.namespace, labels.get("job-name", ""))
            return
        if pod.spec.node_name:
            yield self._pods_on, pod.spec.node_name
        if (key := names.read_key(labels)) is not None:
            yield self._pods_of, key

    # Renewing

    def _renew_instance(self, place: Key, gone: Pod | None = None) -> None:
        """Make the instance (or task) of a pod anew, and tell its app if it differs."""
        pod = self.pods.objects.get(place, gone)
        if pod is None:
            return
        labels = pod.metadata.labels
        if labels.get(names.KIND) == names.TASK:
            self._renew_task((pod.metadata.namespace, labels.get("job-name", "")))
            return
        key = names.read_key(labels)
        if key is None:
            return
        if place in self.pods.objects:
            new = make_instance(
                pod, key, self.find_workload(key), lost=self._why_lost(pod), removed=self._is_removed(pod),
                clue=self._clues.get(place, NO_CLUE), usage=self._usage.get(place, UNKNOWN),
            )  # fmt: skip
            if self._instances.get(place) == new:
                return
            self._instances[place] = new
        self._tell(key.app)

    def _why_lost(self, pod: Pod) -> str:
        name = pod.spec.node_name
        if name and name not in self._nodes and self.watched.nodes.synced.is_set():
            return describe_gone(name)
        return self._lost.get(name, "")

    def _is_removed(self, pod: Pod) -> bool:
        return any(owner.uid in self.written.removed for owner in pod.metadata.owner_references)

    def _renew_set(self, place: Key) -> None:
        found = self.written.get(place)
        key = names.read_key(found.metadata.labels) if found else None
        if found is None or key is None:
            key = next((k for k, p in self._sets_of.items() if p == place), None)
            if key is None:
                return
            self._sets_of.pop(key)
            self._workloads.pop(key, None)
            self._refused.pop(key, None)
        else:
            self._sets_of[key] = place
            config = found.metadata.annotations.get(names.CONFIG, "")
            read = read_workload(found, self.secrets.objects.get((found.metadata.namespace, config)))
            refused = find_refusal(found)
            old = self._workloads.pop(key, None), self._refused.pop(key, "")
            if read is not None:
                self._workloads[key] = read
            if refused:
                self._refused[key] = refused
            if (read, refused) == old:
                return
        for pod in tuple(self._pods_of.get(key, ())):
            self._renew_instance(pod)
        self._tell(key.app)

    def _renew_task(self, place: Key) -> None:
        job = self.started.get(place)
        state = None
        if job is not None:
            places = self._pods_of_job.get(place, ())
            pods = tuple(pod for p in places if (pod := self.pods.objects.get(p)) is not None)
            if pods:  # it was made in the end
                self._unmade.pop(place, None)
            clue = next((self._clues[p] for p in places if p in self._clues), NO_CLUE)
            state = make_task_state(job, pods, clue, self._unmade.get(place, ""))
        old = self._tasks.pop(place, None)
        if (either := state or old) is not None:
            state = self.finish(either.id, state)
        if state is not None:
            self._tasks[place] = state
        if old != state and (either := state or old) is not None:
            self._tell(either.app)


def _place(item: Object) -> Key:
    return item.metadata.namespace, item.metadata.name

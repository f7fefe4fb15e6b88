"""The fields of Kubernetes objects that the engine reads."""

from __future__ import annotations

from typing import Any

import msgspec

from seaway.kube.structs import Metadata, Object

Amounts = dict[str, str]
"""Resource name -> quantity, such as {"cpu": "500m"}."""


class Struct(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """A part of an object."""


class Condition(Struct, frozen=True, gc=False, rename="camel"):
    """One entry of status.conditions."""

    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""
    last_transition_time: str | None = None  # Kubernetes writes null for no time, here as in every object


class Waiting(Struct, frozen=True, gc=False, rename="camel"):
    """A container that does not run."""

    reason: str = ""
    message: str = ""


class Running(Struct, frozen=True, gc=False, rename="camel"):
    """A container that runs."""

    started_at: str | None = None


class Terminated(Struct, frozen=True, gc=False, rename="camel"):
    """A container that has ended; `message` are its last lines."""

    exit_code: int = 0
    reason: str = ""
    message: str = ""
    started_at: str | None = None
    finished_at: str | None = None


class State(Struct, frozen=True, gc=False, rename="camel"):
    """Exactly one of the three, or nothing yet."""

    waiting: Waiting | None = None
    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(Struct, frozen=True, gc=False, rename="camel"):
    """What a kubelet says of a container."""

    ready: bool = False
    started: bool | None = None
    restart_count: int = 0
    state: State = State()
    last_state: State = State()


class Resources(Struct, frozen=True, gc=False, rename="camel"):
    """What a container asks for."""

    requests: Amounts = {}
    limits: Amounts = {}


class Container(Struct, frozen=True, gc=False, rename="camel"):
    """A container as wanted."""

    image: str = ""
    resources: Resources = Resources()


class PodSpec(Struct, frozen=True, gc=False, rename="camel"):
    """A pod as wanted."""

    node_name: str = ""
    containers: tuple[Container, ...] = ()
    active_deadline_seconds: int | None = None

    @property
    def memory_limit(self) -> str:
        """How much memory its first container may take; "": no limit."""
        return self.containers[0].resources.limits.get("memory", "") if self.containers else ""


class PodStatus(Struct, frozen=True, gc=False, rename="camel"):
    """A pod as it is."""

    phase: str = ""
    reason: str = ""
    message: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    start_time: str | None = None
    conditions: tuple[Condition, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(Object, frozen=True, gc=False, rename="camel"):
    """A pod."""

    metadata: Metadata
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class ReplicaSetSpec(Struct, frozen=True, gc=False, rename="camel"):
    """The only field besides the template that can change."""

    replicas: int = 1


class ReplicaSetStatus(Struct, frozen=True, gc=False, rename="camel"):
    """How many pods there are, and why there are not more."""

    replicas: int = 0
    observed_generation: int = 0
    conditions: tuple[Condition, ...] = ()


class ReplicaSet(Object, frozen=True, gc=False, rename="camel"):
    """A ReplicaSet."""

    metadata: Metadata
    spec: ReplicaSetSpec = ReplicaSetSpec()
    status: ReplicaSetStatus = ReplicaSetStatus()


class JobStatus(Struct, frozen=True, gc=False, rename="camel"):
    """How far a Job is."""

    conditions: tuple[Condition, ...] = ()
    start_time: str | None = None
    completion_time: str | None = None


class Job(Object, frozen=True, gc=False, rename="camel"):
    """A Job."""

    metadata: Metadata
    status: JobStatus = JobStatus()


class Secret(Object, frozen=True, gc=False, rename="camel"):
    """A Secret of Seaway's own; values in base 64."""

    metadata: Metadata
    type: str = ""
    data: dict[str, str] = {}


class Taint(Struct, frozen=True, gc=False, rename="camel"):
    """Keeps pods away from a node."""

    key: str = ""
    value: str = ""
    effect: str = ""


class NodeSpec(Struct, frozen=True, gc=False, rename="camel"):
    """A node as wanted."""

    unschedulable: bool = False
    taints: tuple[Taint, ...] = ()


class Address(Struct, frozen=True, gc=False, rename="camel"):
    """One of a node's addresses."""

    type: str = ""
    address: str = ""


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """A port; Kubernetes writes this one with a capital."""

    port: int = msgspec.field(default=0, name="Port")


class Endpoints(Struct, frozen=True, gc=False, rename="camel"):
    """Where a node's agents listen."""

    kubelet_endpoint: Endpoint = Endpoint()


class NodeStatus(Struct, frozen=True, gc=False, rename="camel"):
    """A node as it is."""

    conditions: tuple[Condition, ...] = ()
    addresses: tuple[Address, ...] = ()
    allocatable: Amounts = {}
    daemon_endpoints: Endpoints = Endpoints()


class NodeObject(Object, frozen=True, gc=False, rename="camel"):
    """A node."""

    metadata: Metadata
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class LeaseSpec(Struct, frozen=True, gc=False, rename="camel"):
    """When a kubelet last said that it lives."""

    renew_time: str | None = None


class Lease(Object, frozen=True, gc=False, rename="camel"):
    """A node's lease in kube-node-lease."""

    metadata: Metadata
    spec: LeaseSpec = LeaseSpec()


class Reference(Struct, frozen=True, gc=False, rename="camel"):
    """What an event is about."""

    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""


class KubeEvent(Object, frozen=True, gc=False, rename="camel"):
    """One of Kubernetes' own events."""

    metadata: Metadata
    involved_object: Reference = Reference()
    reason: str = ""
    message: str = ""
    last_timestamp: str | None = None


class ContainerMetrics(Struct, frozen=True, gc=False, rename="camel"):
    """What one container uses."""

    name: str = ""
    usage: Amounts = {}


class PodMetrics(Object, frozen=True, gc=False, rename="camel"):
    """What a pod uses; its metadata is the pod's name and namespace."""

    metadata: Metadata
    containers: tuple[ContainerMetrics, ...] = ()


class PodMetricsList(msgspec.Struct, frozen=True, gc=False):
    """The answer; Go writes null for an empty list."""

    items: tuple[PodMetrics, ...] | None = None


class Plain(Object, frozen=True, gc=False, rename="camel"):
    """An object of which the whole spec is compared; for the few that fence a team in."""

    metadata: Metadata
    spec: Any = None
    type: str = ""
    data: dict[str, str] = {}
    automount_service_account_token: bool | None = None

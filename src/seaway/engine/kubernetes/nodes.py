"""A cluster's nodes as the model has them. Pure."""

from __future__ import annotations

from seaway.engine.kubernetes import names
from seaway.engine.kubernetes.objects import Condition, NodeObject
from seaway.engine.kubernetes.reasons import parse_quantity
from seaway.model import Node

_PRESSURES = {"DiskPressure": "its disk is almost full", "MemoryPressure": "its memory is almost used up",
              "PIDPressure": "it has almost no process numbers left"}  # fmt: skip


def make_node(node: NodeObject) -> Node:
    """Return the node; its address is the one inside the cluster, cores and memory what pods may use."""
    conditions = {c.type: c for c in node.status.conditions}
    ready = conditions.get("Ready", Condition(status="Unknown"))
    addresses = {a.type: a.address for a in node.status.addresses}
    held = any(taint.key == names.HELD for taint in node.spec.taints)
    return Node(
        name=node.metadata.name,
        ready=ready.status == "True",
        reason=_describe(node, ready, conditions),
        address=addresses.get("InternalIP") or addresses.get("ExternalIP") or "",
        cores=round(parse_quantity(node.status.allocatable.get("cpu", "")), 3),
        memory=int(parse_quantity(node.status.allocatable.get("memory", ""))),
        held=(node.metadata.annotations.get(names.HELD) or "held back by Seaway") if held else "",
        agent_port=node.status.daemon_endpoints.kubelet_endpoint.port,
    )


def describe_gone(name: str) -> str:
    """Return why instances on a node that is no more are lost.

    One that merely does not answer its API server is not for the engine to give up: the health decisions know more.
    """
    return f"its node {name} is not part of the cluster any more"


def _describe(node: NodeObject, ready: Condition, conditions: dict[str, Condition]) -> str:
    if ready.status == "Unknown":
        since = f" since {ready.last_transition_time}" if ready.last_transition_time else ""
        return f"its kubelet has not answered{since}"
    if ready.status != "True":
        return ready.message or "not ready"
    found = [say for kind, say in _PRESSURES.items() if conditions.get(kind, Condition()).status == "True"]
    if node.spec.unschedulable:
        found.append("cordoned: nothing new is placed on it")
    return "; ".join(found)

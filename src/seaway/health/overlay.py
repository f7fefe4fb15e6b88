"""Lays verdicts about nodes over what an engine observes. Pure."""

from __future__ import annotations

from seaway.health.facts import NodeVerdict, NodeVerdicts
from seaway.model import Instance, InstanceState, Node, NodeState, Observation

ENDING = frozenset({InstanceState.STOPPING, InstanceState.STOPPED})


def overlay(observation: Observation, verdicts: NodeVerdicts) -> Observation:
    """Return the observation with each node's and instance's state as the verdicts have it.

    Instances on a lost node are LOST, but for those that were told to stop: whether they did nobody can tell.
    """
    odd = {name: verdict for name, verdict in verdicts.nodes.items() if verdict.state is not NodeState.WELL}
    if not odd and not verdicts.outage:
        return observation
    return observation.model_copy(
        update={
            "nodes": tuple(_mark_node(node, odd.get(node.name)) for node in observation.nodes),
            "instances": tuple(_mark_instance(i, odd.get(i.node)) for i in observation.instances),
            "outage": verdicts.outage,
        }
    )


def _mark_node(node: Node, verdict: NodeVerdict | None) -> Node:
    if verdict is None:
        return node
    ready = node.ready and verdict.state is not NodeState.LOST
    return node.model_copy(update={"ready": ready, "reason": verdict.why or node.reason})


def _mark_instance(instance: Instance, verdict: NodeVerdict | None) -> Instance:
    if verdict is None or instance.state is InstanceState.STOPPED:
        return instance
    changes: dict[str, object] = {"node_state": verdict.state}
    if verdict.state is NodeState.LOST:
        changes |= {"ready": False, "ready_since": None, "reason": verdict.why}
        if instance.state not in ENDING:
            changes["state"] = InstanceState.LOST
    return instance.model_copy(update=changes)

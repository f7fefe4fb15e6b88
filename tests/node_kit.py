"""Nodes on a simulated network: probes are sent as the product's own plan says, packets get lost by a seeded dice."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from seaway.health.decide import DEFAULT, decide_nodes, is_due
from seaway.health.facts import NodeFacts, NodeVerdict, NodeVerdicts, Probes
from seaway.model import NodeState

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """Return the moment so many seconds after the start."""
    return START + timedelta(seconds=seconds)


@dataclass
class SimNode:
    """One node: whether its link is up, and what is known of it."""

    name: str
    up: bool = True
    probes: Probes = field(default_factory=Probes)
    verdict: NodeVerdict = field(default_factory=NodeVerdict)
    phase: timedelta = timedelta(0)  # how long before the others it is probed
    seen_at: datetime | None = None
    renewed_at: datetime | None = None
    losses: tuple[datetime, ...] = ()
    states: list[tuple[float, NodeState]] = field(default_factory=list)


class NodeLab:
    """Small steps: probes, answers, verdicts. `loss` is the share of packets that get lost, each way."""

    def __init__(self, count: int, seed: int = 0, loss: float = 0.0, step: float = 0.02) -> None:
        self._step = timedelta(seconds=step)
        self.dice = random.Random(seed)
        self.loss = loss
        self.now = START
        self.api_alive = True
        self.cut_off = False
        self.nodes = {name: SimNode(name) for name in (f"n{number}" for number in range(1, count + 1))}
        self.verdicts = NodeVerdicts()
        self.overdue: set[str] = set()  # nodes that owe an answer: verdicts are looked at when the product does
        self.longest = 0  # run of probes without an answer on a node that is up
        for node in self.nodes.values():  # they don't all begin at the same moment
            node.phase = timedelta(seconds=self.dice.random() * DEFAULT.interval)
            node.probes = Probes(sent_at=START - node.phase)

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return (self.now - START).total_seconds()

    def state(self, name: str) -> NodeState:
        return self.nodes[name].verdict.state

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + timedelta(seconds=seconds)
        while self.now < end:
            if self.is_quiet():
                self.skip(min(timedelta(seconds=1), end - self.now))
            else:
                self.step()

    def is_quiet(self) -> bool:
        """Whether every node answers every probe, and did so before."""
        return not (self.loss or self.cut_off) and all(
            node.up and node.verdict.state is NodeState.WELL and not node.probes.unanswered
            for node in self.nodes.values()
        )

    def skip(self, time: timedelta) -> None:
        """Pass quiet time at once: one probe of each node stands for all."""
        self.now += time
        for node in self.nodes.values():
            sent = max(self.now - node.phase, node.probes.sent_at or START)
            node.probes = node.probes.send(sent).answer(sent, DEFAULT.suspect_patience)
        self.judge()

    def step(self) -> None:
        self.now += self._step
        for node in self.nodes.values():
            hurry = node.verdict.state is NodeState.SUSPECT
            due = node.probes.find_due(DEFAULT.interval, DEFAULT, hurry=hurry)
            if due is None or due <= self.now:
                node.probes = node.probes.send(self.now)
                packets = self.dice.random() >= self.loss and self.dice.random() >= self.loss
                if node.up and packets and not self.cut_off:
                    node.probes = node.probes.answer(self.now, DEFAULT.suspect_patience)
            if node.up:
                self.longest = max(self.longest, len(node.probes.unanswered))
            if node.probes.count_lost(self.now, DEFAULT.hurry_after):
                self.overdue.add(node.name)
            elif not node.probes.unanswered:
                self.overdue.discard(node.name)
        if not self.verdicts.nodes or is_due(self.verdicts, self.overdue, self.now):
            self.judge()

    def judge(self) -> None:
        facts = [
            NodeFacts(n.name, n.probes, n.seen_at, n.renewed_at, n.losses, before=n.verdict)
            for n in self.nodes.values()
        ]
        self.verdicts = decide_nodes(facts, self.now, api_alive=self.api_alive, outage=self.verdicts.outage)
        for node in self.nodes.values():
            verdict = self.verdicts.nodes[node.name]
            if verdict.state is not node.verdict.state:
                node.states.append((self.seconds, verdict.state))
                if verdict.state is NodeState.LOST:
                    node.losses += (self.now,)
            node.verdict = verdict

    def forget(self) -> None:
        """Restart the control plane: nothing that it saw is known any more."""
        for node in self.nodes.values():
            node.probes, node.verdict = Probes(), NodeVerdict()
        self.verdicts = NodeVerdicts()
        self.overdue.clear()

"""Tells a dead node from a slow one. Pure: what is known of all nodes in, a verdict for each out.

The laws:

1. A probe that is answered, even by a refusal, is life. So is an instance that answered a router, or a renewal in
   the engine, after the silence began. Any of them forbids "lost", and takes it back.
2. A node is *suspect* after 7 probes in a row without an answer. That costs nobody anything: its instances serve on
   where no other does.
3. It is *lost* after 40 probes in a row without an answer (in 4 to 5 s), if nothing forbids it, if another node
   answered meanwhile, and if the engine answers. A control plane that is cut off, or whose engine is, judges nobody.
4. A lost node is *back* after 2 s of answers without a gap. One lost more than twice within an hour is *held*: it
   serves, and nothing new is placed there until it was well for 1, 2, 4 ... 30 minutes.
5. If more than half of the nodes, and at least two, vanish within 5 minutes, nothing is replaced until enough are
   back, and none of the others is on its way or was back less than 10 s ago: those that are left could not carry it,
   and it is more likely the network than the nodes, which then come back one after another. While one is suspect whose
   loss would make it so, nobody is lost before that is cleared up. Nodes lost longer ago don't count.
6. What this process has not seen itself is not so: after a restart every node is watched anew.

The numbers: with 30 % of all packets lost, a TCP connect whose packets aren't sent again has 0.7 * 0.7 = 49 % to be
answered. 40 in a row fail with 0.51 ** 40 = 2e-12. A series sends 12.5 a second, so a node is wrongly lost at most
12.5 * 0.49 * 2e-12 = 1.2e-11 times a second: with 1,000 nodes once in 2 years of such a network, and then only if
neither a router nor the engine hears of it. 7 in a row fail with 0.9 %: suspicions come and go.

A link that breaks is found at the next probe (0.75 s at the most); 0.2 s later the series begins. Suspect: 0.75 + 0.2
+ 5 * 0.08 + 0.3 = 1.65 s. Lost: 0.75 + 0.2 + 38 * 0.08 + 0.7 = 4.7 s, at the most.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta

from seaway.health.facts import NodeFacts, NodePolicy, NodeVerdict, NodeVerdicts
from seaway.model import NodeState

DEFAULT = NodePolicy()
LOOK_INTERVAL = timedelta(seconds=0.05)  # while something is being cleared up
LOST_INTERVAL = timedelta(seconds=0.25)  # while a lost node may come back


def decide_nodes(
    nodes: Sequence[NodeFacts], now: datetime, *, api_alive: bool, outage: str = "", policy: NodePolicy = DEFAULT
) -> NodeVerdicts:
    """Return the verdict of each node; `outage` is what the last verdicts said, `api_alive`: the engine answers."""
    was_lost = {n.name for n in nodes if n.before.state is NodeState.LOST}
    silent = {n.name for n in nodes if n.probes.count_lost(now, policy.suspect_patience) >= policy.suspect_probes}
    living = {n.name for n in nodes if find_life(n, now, policy)}
    ripe = {n.name for n in nodes if api_alive and n.name not in living and _is_ripe(n, nodes, now, policy)}
    lost = {n.name for n in nodes if n.name in was_lost and not _is_back(n, living, now, policy)}
    recent = [n for n in nodes if outage or n.name not in lost or not _is_old(n, now, policy)]
    counted = {n.name for n in recent}
    unclear = silent - living - ripe - was_lost
    if not (unclear and _is_outage((lost | ripe | unclear) & counted, recent, policy)):
        lost |= ripe
    judge = _Judge(now, lost, silent, _is_cut_off(nodes, silent), policy)
    verdicts = {n.name: judge(n) for n in nodes}
    vanished = lost & counted
    if _is_outage(vanished, recent, policy):
        outage = _describe_outage(vanished, recent)
    elif not (unclear or _are_more_to_return(nodes, verdicts, lost, now, policy)):
        heard = all(n.probes.answered_at or n.name in lost for n in nodes)
        outage = "" if heard else outage
    return NodeVerdicts(
        nodes=verdicts,
        outage=outage,
        look_again=_find_next(nodes, verdicts, now, policy),
    )


def is_due(verdicts: NodeVerdicts, overdue: Set[str], now: datetime) -> bool:
    """Whether a verdict may have changed since: by time alone, or as a node owes an answer (`overdue`)."""
    if verdicts.look_again is not None and verdicts.look_again <= now:
        return True
    return any(name not in verdicts.nodes or verdicts.nodes[name].state is not NodeState.LOST for name in overdue)


def find_life(node: NodeFacts, now: datetime, policy: NodePolicy = DEFAULT) -> str:
    """Return who heard of the node after its silence began; "" if nobody did."""
    begun = node.probes.silent_since
    if begun is None:
        return ""
    if node.seen_at and node.seen_at > begun and now - node.seen_at < timedelta(seconds=policy.router_memory):
        return "a router reaches an instance there"
    heard, margin = node.renewed_at, timedelta(seconds=policy.renewal_margin)
    if heard and heard > begun + margin and now - heard < timedelta(seconds=policy.renewal_memory):
        return "it still renews its lease"
    return ""


def _is_ripe(node: NodeFacts, nodes: Sequence[NodeFacts], now: datetime, policy: NodePolicy) -> bool:
    """Whether a node was silent for long enough, while another one answered."""
    begun = node.probes.silent_since
    if begun is None or node.probes.count_lost(now, policy.lost_patience) < policy.lost_probes:
        return False
    return any(other.probes.answered_at is not None and other.probes.answered_at > begun for other in nodes)


def _is_cut_off(nodes: Sequence[NodeFacts], silent: Set[str]) -> bool:
    """Whether it is more likely this process that is alone: somebody is silent, and nobody answers."""
    return bool(silent) and not any(n.name not in silent and n.probes.answered_at is not None for n in nodes)


def _is_back(node: NodeFacts, living: set[str], now: datetime, policy: NodePolicy) -> bool:
    """Whether a lost node is to be believed again: it answered without a gap, or somebody else hears of it."""
    if node.name in living:
        return True
    since = node.probes.answering_since
    if since is None or node.probes.count_lost(now, policy.suspect_patience):
        return False
    answered = node.probes.answered_at
    return answered is not None and answered - since >= timedelta(seconds=policy.back_after)


def _is_old(node: NodeFacts, now: datetime, policy: NodePolicy) -> bool:
    lost_at = node.before.lost_at
    return lost_at is not None and now - lost_at > timedelta(seconds=policy.outage_window)


def _is_outage(vanished: Set[str], nodes: Sequence[NodeFacts], policy: NodePolicy) -> bool:
    return len(vanished) >= 2 and len(vanished) > policy.outage_share * len(nodes)


def _are_more_to_return(
    nodes: Sequence[NodeFacts], verdicts: dict[str, NodeVerdict], lost: Set[str], now: datetime, policy: NodePolicy
) -> bool:
    """Whether lost nodes may be back in a moment, so that what runs there had better not be replaced any more.

    One of them answers, or another one was back a moment ago: what took them away lets go of them one by one.
    """
    missed = [n.probes for n in nodes if n.name in lost]
    if any(probes.answering_since and not probes.count_lost(now, policy.suspect_patience) for probes in missed):
        return True
    rest = timedelta(seconds=policy.outage_rest)
    return bool(lost) and any(v.back_at is not None and now - v.back_at < rest for v in verdicts.values())


def _describe_outage(vanished: Set[str], nodes: Sequence[NodeFacts]) -> str:
    return (
        f"{len(vanished)} of {len(nodes)} nodes vanished at once ({', '.join(sorted(vanished))}), so nothing is "
        "replaced; bring them back, or delete those that are gone for good from the cluster"
    )


@dataclass(frozen=True)
class _Judge:
    """Writes the verdict of one node, once it is clear who is lost and who is silent."""

    now: datetime
    lost: Set[str]
    silent: Set[str]
    cut_off: bool
    policy: NodePolicy

    def __call__(self, node: NodeFacts) -> NodeVerdict:
        before, was_lost = node.before, node.before.state is NodeState.LOST
        if node.name in self.lost:
            return before if was_lost else self._lose(node)
        back_at = self.now if was_lost else before.back_at
        until = find_hold_end(node.losses, back_at, self.now, self.policy)
        hold = _describe_hold(until) if until and until > self.now else ""
        state, why = NodeState.HELD if hold else NodeState.WELL, hold
        if self.cut_off and not was_lost:
            state, why = before.state, "no node answers: the control plane is cut off, so it judges none"
        elif self._is_suspect(node):
            state, why = NodeState.SUSPECT, self._describe_silence(node)
        if (state, why, hold, back_at) == (before.state, before.why, before.hold, before.back_at):
            return before
        since = before.since if state is before.state else self.now
        return NodeVerdict(state, why, hold, since, before.lost_at, back_at)

    def _is_suspect(self, node: NodeFacts) -> bool:
        if node.name in self.silent or (node.before.state is NodeState.LOST and node.probes.silent_since):
            return True
        return node.before.state is NodeState.SUSPECT and node.probes.answers < self.policy.clear_answers

    def _lose(self, node: NodeFacts) -> NodeVerdict:
        begun = node.probes.silent_since or self.now
        why = f"node {node.name} does not answer since {_clock(begun)}, and nobody else has heard of it since"
        return NodeVerdict(NodeState.LOST, why, why, self.now, node.lost_since or self.now, node.before.back_at)

    def _describe_silence(self, node: NodeFacts) -> str:
        begun = node.probes.silent_since or node.before.since or self.now
        life = find_life(node, self.now, self.policy)
        return f"node {node.name} does not answer since {_clock(begun)}" + (f", yet {life}" if life else "")


def find_hold_end(
    losses: Sequence[datetime], back_at: datetime | None, now: datetime, policy: NodePolicy = DEFAULT
) -> datetime | None:
    """Return until when a node that is back is held; None if it was not lost too often."""
    if back_at is None:
        return None
    recent = sum(now - loss < timedelta(seconds=policy.flap_window) for loss in losses)
    if recent <= policy.flaps:
        return None
    return back_at + timedelta(seconds=min(policy.hold_limit, policy.hold * 2 ** (recent - policy.flaps - 1)))


def _describe_hold(until: datetime) -> str:
    return f"it was lost too often of late, so nothing new is placed there until {_clock(until)}"


def _clock(moment: datetime) -> str:
    return moment.strftime("%H:%M:%S UTC")


def _find_next(
    nodes: Sequence[NodeFacts], verdicts: dict[str, NodeVerdict], now: datetime, policy: NodePolicy
) -> datetime | None:
    states = {n.name: verdicts[n.name].state for n in nodes}
    late = {n.name for n in nodes if n.probes.count_lost(now, policy.hurry_after)}
    if any(state is NodeState.SUSPECT or (n in late and state is not NodeState.LOST) for n, state in states.items()):
        return now + LOOK_INTERVAL
    if NodeState.LOST in states.values():
        return now + LOST_INTERVAL
    ends = (find_hold_end(n.losses, verdicts[n.name].back_at, now, policy) for n in nodes)
    return min((end for end in ends if end and end > now), default=None)


__all__ = ["DEFAULT", "decide_nodes", "find_hold_end", "find_life", "is_due"]

"""What a verdict about nodes is made from: values only. Times are this process's own clock throughout."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from seaway.model import NodeState

MEMORY = 64  # unanswered probes that are remembered one by one; more than any policy counts


@dataclass(frozen=True)
class NodePolicy:
    """When a node is suspect, lost, back or held; times in seconds. See `decide` for what the numbers amount to."""

    interval: float = 0.75  # between probes of a node that answers
    probes_a_second: float = 300.0  # of all nodes that answer together: beyond 225 nodes the interval grows
    hurry_after: float = 0.2  # an answer that takes longer than this begins a series
    hurry_interval: float = 0.08  # between the probes of a series
    suspect_patience: float = 0.3  # a probe without an answer for this long counts towards suspicion
    suspect_probes: int = 7
    lost_patience: float = 0.7  # a probe without an answer for this long is lost
    lost_probes: int = 40
    clear_answers: int = 3  # in a row, from suspect to well
    back_after: float = 2.0  # of answers without a gap, from lost to back
    renewal_margin: float = 1.5  # a renewal that is heard of this soon after the silence began may be older than it
    renewal_memory: float = 15.0  # how long one renewal speaks for a node; kubelets renew every 10 s
    router_memory: float = 5.0  # how long one sign of life seen by a router speaks for a node
    outage_share: float = 0.5  # more than this share of the nodes (and at least two) at once is an outage
    outage_window: float = 300.0  # nodes lost within this were lost at once
    outage_rest: float = 10.0  # after each return in an outage: time for those still lost to come back as well
    flaps: int = 2  # losses within `flap_window` that are no reason to hold a node back
    flap_window: float = 3600.0
    hold: float = 60.0  # how long a node is held back the first time; doubles with each further loss
    hold_limit: float = 1800.0


@dataclass(frozen=True)
class Probes:
    """What probes of one node came to: a probe is known by when it was sent.

    `unanswered` were sent after the last answered one; `silent_since` is the first of them.
    """

    sent_at: datetime | None = None
    answered_at: datetime | None = None
    answering_since: datetime | None = None
    answers: int = 0  # in a row
    silent_since: datetime | None = None
    unanswered: tuple[datetime, ...] = ()

    def send(self, now: datetime) -> Probes:
        """Return the same after one more was sent."""
        first = self.silent_since or now
        return replace(self, sent_at=now, silent_since=first, unanswered=(*self.unanswered, now)[-MEMORY:])

    def answer(self, sent: datetime, patience: float) -> Probes:
        """Return the same after the one sent at `sent` was answered; late answers count, they show life."""
        if self.answered_at is not None and sent <= self.answered_at:
            return self
        late = timedelta(seconds=patience)
        broken = self.answering_since is None or any(sent - probe > late for probe in self.unanswered)
        left = tuple(probe for probe in self.unanswered if probe > sent)
        return replace(
            self,
            answered_at=sent,
            answering_since=sent if broken else self.answering_since,
            answers=1 if broken else self.answers + 1,
            silent_since=left[0] if left else None,
            unanswered=left,
        )

    def count_lost(self, now: datetime, patience: float) -> int:
        """Return how many of the latest probes in a row have had no answer for `patience` seconds."""
        if not self.unanswered:
            return 0
        late = now - timedelta(seconds=patience)
        return 0 if self.unanswered[0] > late else bisect_right(self.unanswered, late)  # in the order they were sent

    def find_due(self, interval: float, policy: NodePolicy, *, hurry: bool) -> datetime | None:
        """Return when the next probe is due (None: now); `hurry` while a suspicion is to be cleared up."""
        if self.sent_at is None:
            return None
        if len(self.unanswered) >= policy.lost_probes:
            return self.sent_at + timedelta(seconds=max(interval, policy.interval))
        if self.silent_since is not None:
            begin = self.silent_since + timedelta(seconds=policy.hurry_after)
            return max(begin, self.sent_at + timedelta(seconds=policy.hurry_interval))
        return self.sent_at + timedelta(seconds=policy.hurry_interval if hurry else interval)


@dataclass(frozen=True)
class NodeVerdict:
    """What is made of one node. `hold`: why nothing new is to be placed there; "" if it may."""

    state: NodeState = NodeState.WELL
    why: str = ""
    hold: str = ""
    since: datetime | None = None  # of the state
    lost_at: datetime | None = None  # of the last loss
    back_at: datetime | None = None  # of the last return


@dataclass(frozen=True)
class NodeFacts:
    """One node.

    `seen_at`: a moment at which it certainly lived, as far as routers can tell: an instance of it answered then.
    `renewed_at`: when the engine heard of a sign of life. `losses`: when it was lost, as far back as is remembered.
    `lost_since`: it was lost then, and has not been back that anybody knows. `before`: the last verdict.
    """

    name: str
    probes: Probes = Probes()
    seen_at: datetime | None = None
    renewed_at: datetime | None = None
    losses: tuple[datetime, ...] = ()
    lost_since: datetime | None = None
    before: NodeVerdict = NodeVerdict()


@dataclass(frozen=True)
class NodeVerdicts:
    """What is made of all nodes. `outage`: why nothing is replaced now; "" if lost instances are."""

    nodes: Mapping[str, NodeVerdict] = field(default_factory=dict)
    outage: str = ""
    look_again: datetime | None = None

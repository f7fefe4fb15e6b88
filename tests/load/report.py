"""What a run of load found: every request counted, every failure explained as far as the client can tell."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import TypeAdapter

LISTED_FAILURES = 5000  # more are counted but not listed


class Cause(StrEnum):
    """Why a request counts as failed."""

    CONNECT = "connect"  # no connection could be made
    BROKEN = "broken"  # the connection broke before the whole response was there
    TIMEOUT = "timeout"
    STATUS = "status"  # another status than 200 (101 for a WebSocket)
    BODY = "body"  # status 200 and the wrong body
    ERROR = "error"  # the generator itself; never expected


@dataclass(frozen=True)
class Connection:
    """The connection a request used. `opened_at` is when connecting began; `local_port` is None if it failed."""

    opened_at: float
    local_port: int | None
    reused: bool


@dataclass(frozen=True)
class Kill:
    """A process killed while connected to the generator (times in seconds since the epoch).

    `began` is before the signal, `gone` after the process was gone; `ports` are the generator's ends of the
    connections the process held. None: not known, any connection from before `gone` may have been its own.
    """

    part: str
    began: float
    gone: float
    ports: frozenset[int] | None = None

    def explains(self, failure: Failure) -> bool:
        """Whether this kill is why the request failed: its connection was the process's own, and it broke then."""
        if failure.cause not in (Cause.BROKEN, Cause.CONNECT) or failure.connection is None:
            return False
        opened, port = failure.connection.opened_at, failure.connection.local_port
        if opened > self.gone or failure.ended_at < self.began:
            return False
        return self.ports is None or port in self.ports or opened >= self.began


@dataclass(frozen=True)
class Failure:
    """One failed request. Times are seconds since the epoch; `reason` is the header x-seaway-reason."""

    sequence: int
    kind: str
    sent_at: float
    ended_at: float
    cause: Cause
    error: str
    status: int | None = None
    reason: str | None = None
    body: str = ""
    connection: Connection | None = None

    def __str__(self) -> str:
        parts = [f"#{self.sequence} {self.kind} sent at {self.sent_at:.3f}, failed after "]
        parts.append(f"{self.ended_at - self.sent_at:.3f} s ({self.cause}): {self.error}")
        if self.reason:
            parts.append(f"; x-seaway-reason: {self.reason}")
        if self.connection is not None:
            where = self.connection
            parts.append(f"; {'kept' if where.reused else 'new'} connection from port {where.local_port}")
            parts.append(f" opened {self.sent_at - where.opened_at:.3f} s before")
        if self.body:
            parts.append(f"; body starts {self.body!r}")
        return "".join(parts)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request. `latency` is in seconds from when it was due."""

    kind: str
    due_at: float
    latency: float
    release: str | None = None
    failure: Failure | None = None


@dataclass(frozen=True)
class Stats:
    """Counts, and latencies in seconds of the requests that were answered rightly (0 if there were none)."""

    sent: int
    ok: int
    failed: int
    p50: float
    p95: float
    p99: float
    longest: float
    releases: dict[str, int]

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> Stats:
        """Count the outcomes."""
        seen = list(outcomes)
        good = sorted(outcome.latency for outcome in seen if outcome.failure is None)
        releases = Counter(o.release for o in seen if o.failure is None and o.release is not None)
        return cls(
            sent=len(seen),
            ok=len(good),
            failed=len(seen) - len(good),
            p50=percentile(good, 0.50),
            p95=percentile(good, 0.95),
            p99=percentile(good, 0.99),
            longest=good[-1] if good else 0.0,
            releases=dict(sorted(releases.items())),
        )


@dataclass(frozen=True)
class Span:
    """The requests that were due from one mark to the next."""

    label: str
    start: float
    end: float
    stats: Stats


@dataclass(frozen=True)
class Interval:
    """The requests that were due in one second of the run; `at` is its start."""

    at: float
    stats: Stats


@dataclass(frozen=True)
class Report:
    """All of a run. `total.sent == total.ok + total.failed`; nothing is left out.

    `largest_lag` is how late (seconds) the generator itself sent a request: if it is large, the machine was too
    busy to believe the latencies. `websockets_closed` counts server closes with a polite code (1000, 1001, 1012).
    """

    started_at: float
    ended_at: float
    rate: float
    mix: str
    total: Stats
    kinds: dict[str, Stats]
    spans: tuple[Span, ...]
    timeline: tuple[Interval, ...]
    failures: tuple[Failure, ...]
    failures_not_listed: int = 0
    largest_lag: float = 0.0
    connections: int = 0
    websockets_closed: int = 0

    @classmethod
    def from_json(cls, text: str | bytes) -> Report:
        """Read what to_json wrote."""
        return _ADAPTER.validate_json(text)

    def to_json(self) -> str:
        """Write everything as one line of JSON."""
        return _ADAPTER.dump_json(self).decode()

    def span(self, label: str) -> Span:
        """Return the (last) span of that label or raise KeyError."""
        for span in reversed(self.spans):
            if span.label == label:
                return span
        raise KeyError(f"no span {label!r}; there are {[span.label for span in self.spans]}")

    def unexplained(self, kills: Sequence[Kill] = ()) -> tuple[Failure, ...]:
        """Return the listed failures that none of the kills explains."""
        return tuple(f for f in self.failures if not any(kill.explains(f) for kill in kills))

    def assert_clean(self, kills: Sequence[Kill] = (), least: int = 1) -> None:
        """Raise AssertionError that lists the unexplained failures, or says that under `least` requests were sent."""
        bad = self.unexplained(kills)
        if bad or self.failures_not_listed:
            lines = [f"{len(bad) + self.failures_not_listed} of {self.total.sent} requests failed:"]
            lines += [f"[{self.label_at(f.sent_at)}] {f}" for f in bad[:20]]
            lines += [f"{k.part} was killed from {k.began:.3f} on, and gone at {k.gone:.3f}" for k in kills]
            raise AssertionError("\n  ".join(lines))
        if self.total.sent < least:
            raise AssertionError(f"only {self.total.sent} requests were sent; the test needs {least}")

    def label_at(self, moment: float) -> str:
        """Return the label of the span that holds the moment, or ""."""
        return next((s.label for s in reversed(self.spans) if s.start <= moment), "")

    def describe(self) -> str:
        """Return a table for people."""
        lines = [f"{'':16}{'sent':>8}{'failed':>8}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}  releases"]
        rows = [*self.kinds.items(), ("all", self.total), *((f"[{s.label}]", s.stats) for s in self.spans)]
        for name, stats in rows:
            times = "".join(f"{1000 * value:9.1f}" for value in (stats.p50, stats.p95, stats.p99))
            seen = " ".join(f"{release}:{count}" for release, count in stats.releases.items())
            lines.append(f"{name:16}{stats.sent:8}{stats.failed:8}{times}  {seen}")
        lines += [str(failure) for failure in self.failures[:20]]
        if self.total.failed > 20:
            lines.append(f"... and {self.total.failed - 20} more failures")
        return "\n".join(lines)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of sorted values; 0.0 if there are none."""
    return values[max(0, math.ceil(share * len(values)) - 1)] if values else 0.0


@dataclass
class Recorder:
    """Collects outcomes and makes the report; keeps every outcome (some 200 bytes each)."""

    started_at: float
    rate: float
    mix: str
    outcomes: list[Outcome] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)
    failed: int = 0
    largest_lag: float = 0.0
    connections: int = 0
    websockets_closed: int = 0

    def add(self, outcome: Outcome) -> None:
        """Count one request."""
        self.outcomes.append(outcome)
        self.failed += outcome.failure is not None

    def report(self, now: float) -> Report:
        """Return what is known at `now`."""
        by_kind: dict[str, list[Outcome]] = {}
        by_second: dict[int, list[Outcome]] = {}
        for outcome in self.outcomes:
            by_kind.setdefault(outcome.kind, []).append(outcome)
            by_second.setdefault(int(outcome.due_at - self.started_at), []).append(outcome)
        failures = sorted((o.failure for o in self.outcomes if o.failure is not None), key=lambda f: f.sent_at)
        return Report(
            started_at=self.started_at,
            ended_at=now,
            rate=self.rate,
            mix=self.mix,
            total=Stats.of(self.outcomes),
            kinds={kind: Stats.of(found) for kind, found in sorted(by_kind.items())},
            spans=tuple(self._spans(now)),
            timeline=tuple(
                Interval(at=self.started_at + second, stats=Stats.of(found))
                for second, found in sorted(by_second.items())
            ),
            failures=tuple(failures[:LISTED_FAILURES]),
            failures_not_listed=max(0, len(failures) - LISTED_FAILURES),
            largest_lag=self.largest_lag,
            connections=self.connections,
            websockets_closed=self.websockets_closed,
        )

    def _spans(self, now: float) -> Iterable[Span]:
        ends = [at for at, _ in self.marks[1:]] + [now]
        for (start, label), end in zip(self.marks, ends, strict=False):
            last = end == now
            inside = [o for o in self.outcomes if start <= o.due_at and (last or o.due_at < end)]
            yield Span(label=label, start=start, end=end, stats=Stats.of(inside))


_ADAPTER = TypeAdapter(Report)

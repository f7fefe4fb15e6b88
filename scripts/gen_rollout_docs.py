"""Draws docs/rollouts.md from the transition table. `--check` only says whether the file is current."""

from __future__ import annotations

import sys
from pathlib import Path

from seaway.rollout.transitions import TRANSITIONS, draw_mermaid

TARGET = Path(__file__).resolve().parent.parent / "docs" / "rollouts.md"

INTRODUCTION = """\
# Rollouts

A rollout moves an app's traffic from the release that serves (A) to a new one (B). Deploys, config changes,
restarts and rollbacks all take this road; a rollback is a new release that copies an old one. This page is
drawn from the transition table (`src/seaway/rollout/transitions.py`) by `scripts/gen_rollout_docs.py`. Each of its
edges is taken in one of the stories in `tests/unit/rollouts/told/`, which say second by second what happens.

All process types move together: B counts as started when every instance of every process type is ready.
Requests reach B only after every live router has acknowledged B's endpoints and its own health checks found them
good; A is stopped only after every live router has acknowledged that nothing is sent there and reports no
request in flight on it (or the drain limit has passed).

```mermaid
"""


def render() -> str:
    """Return the page."""
    rows = [
        f"| {phase.value} | {to.value} | {why} |" for phase, edges in TRANSITIONS.items() for to, why in edges.items()
    ]
    return (
        INTRODUCTION
        + draw_mermaid()
        + "```\n\n| from | to | when |\n| --- | --- | --- |\n"
        + "\n".join(rows)
        + """

## What a user can do meanwhile
- `seaway rollouts pause`: it holds before traffic moves, or keeps A; a pause ends after 24 hours.
- `seaway rollouts resume`, `seaway rollouts promote`: go on; promote also ends the time in which A is kept.
- `seaway rollouts cancel`: before traffic moved, B goes; afterwards traffic returns to A first. The config goes
  back too, because the next release is never built on one whose rollout was cancelled or failed.
- `seaway ps scale`: once traffic has moved, more instances are started of B alone; A is kept as large as it was (or
  smaller, if fewer are wanted). If traffic is to return to A at a larger scale, A grows first while B serves on; a
  cancel whose A does not get ready within its `start_timeout` leaves the traffic with B. If B serves nobody, nothing
  waits.
- Deploying again: the newer release waits for its turn and supersedes any that waited before it; a release that
  already serves ends its keeping time early for it.

## Deadlines
`[rollout]` in seaway.toml sets them, in seconds: `release_timeout` (600) for the release command,
`start_timeout` (120, or 60 more than the longest `start_timeout` that seaway.toml gives to the health of a process) for
B to be ready, `router_timeout` (30) for the routers, `keep` (30) for A to be kept, `drain` (30) for requests in flight
on an instance that is to stop. Each is that of the release which is waited for: with `recreate`, A and B may drain for
different times. Whatever gives up names its setting. An instance that takes long to start says from 2 s
on what it lacks, such as that it listens on another port than `$PORT`, and from 8 s on also what it wrote last; it is
given up only when its time is over, because some apps open an admin port first.

What the release command writes is shown as it comes by whoever waits for the rollout (`seaway deploy`, `config set`,
...), each line behind `release |` and at most 10,000 of them; `seaway logs -p release` shows it, too. If it fails, the
rollout's reason ends with the error that it wrote, without a traceback's body; values of the app's config in it are
shown as `$NAME`.
"""
    )


def main() -> int:
    """Write the page, or check it."""
    page = render()
    if "--check" in sys.argv:
        return 0 if TARGET.read_text() == page else 1
    TARGET.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Writes docs/limits.md from the table in seaway.limits. `--check` only says whether the page is current."""

from __future__ import annotations

import sys
from pathlib import Path

from seaway.limits import LIMITS

TARGET = Path(__file__).resolve().parent.parent / "docs" / "limits.md"

INTRODUCTION = """\
# Limits

Made by `scripts/gen_limits_docs.py` from `src/seaway/limits.py`. At each limit the one who hits it is told so, and
nobody else feels it; the last column names the test that hits it. Errors of the API have a stable `code`, a sentence
and a hint. In a cluster each replica of the control plane counts requests and streams for itself: a token may have as
many times the number as there are replicas, and what one passes on to the one that leads counts at both.
Decision [015](decisions/015-limits.md) says how instances are limited.
"""


def render() -> str:
    """Return the page."""
    lines = [INTRODUCTION.rstrip("\n")]
    for heading, limits in LIMITS.items():
        lines += [
            "",
            f"## {heading}",
            "",
            "| limit | of what | default | how to change it | what happens at it | test |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| {limit.name} | {limit.bounds} | {limit.default} | {limit.change} | {limit.at_it} | `{limit.test}` |"
            for limit in limits
        ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the page, or check it."""
    page = render()
    if "--check" in sys.argv:
        return 0 if TARGET.exists() and TARGET.read_text() == page else 1
    TARGET.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())

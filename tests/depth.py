"""How deep long proofs go: `make test` goes through every step once, `make soak` (SEAWAY_SOAK=1) at full length."""

from __future__ import annotations

import os
from typing import TypeVar

SOAK = os.environ.get("SEAWAY_SOAK") == "1"
T = TypeVar("T")


def choose(short: T, full: T) -> T:
    """Return what holds for this run."""
    return full if SOAK else short

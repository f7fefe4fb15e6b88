"""The composition root: the one place that names concrete classes."""

from __future__ import annotations


def run() -> None:
    """Entry point of the `seaway` command."""
    raise SystemExit("seaway: not assembled yet")

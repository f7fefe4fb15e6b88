"""What the reconciler needs of the routers: routes out, facts back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from seaway.model import App, Instance, Release
from seaway.rollout.facts import RouterFacts


class Routes(Protocol):
    """Publishes what documents and instances amount to, and says how far the routers are with exactly that."""

    def publish(
        self, app: App, releases: Mapping[int, Release], instances: Sequence[Instance], now: datetime
    ) -> tuple[RouterFacts, ...]:
        """Make the routes of one app what the facts say; return each live router's view of them."""
        ...

    def withdraw(self, app: str) -> None:
        """Remove everything of an app that is gone."""
        ...

"""How much an app, and all apps of a team, may have: part of the platform's settings."""

from __future__ import annotations

from pydantic import Field

from seaway.model.base import Bytes, Frozen


class Quotas(Frozen):
    """What may be asked for without force; 0: no limit. What runs beyond a limit already goes on.

    An app may have 100 instances unless told otherwise: more than most need, and few enough that a slip of the keyboard
    (web=1000) does nothing. Teams have no limit by default: how many apps a team has is nothing that Seaway can guess.
    """

    app_instances: int = Field(default=100, ge=0)
    team_instances: int = Field(default=0, ge=0)
    app_memory: Bytes = 0
    team_memory: Bytes = 0

    def quotas(self) -> dict[str, int]:
        """Return the limits alone, of settings that hold more."""
        return self.model_dump(include=set(Quotas.model_fields))

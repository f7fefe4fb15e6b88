"""How much an app, all apps of a team, and a token may have: part of the platform's settings."""

from __future__ import annotations

from pydantic import Field

from seaway.model.base import Bytes, Frozen


class Quotas(Frozen):
    """What may be asked for without force; 0: no limit. What runs beyond a limit already goes on.

    An app may have 100 instances unless told otherwise: more than most need, and few enough that a slip of the keyboard
    (web=1000) does nothing. Teams have no limit of these by default: how much a team needs is nothing that Seaway can
    guess. `team_apps` bounds what a script creates by mistake. `token_rate` is in requests to the API a second: a
    command line that waits sends five, and a token may have many of them.
    """

    app_instances: int = Field(default=100, ge=0)
    team_instances: int = Field(default=0, ge=0)
    app_memory: Bytes = 0
    team_memory: Bytes = 0
    team_apps: int = Field(default=1000, ge=0)
    token_rate: int = Field(default=50, ge=0, le=1_000_000)

    def quotas(self) -> dict[str, int]:
        """Return the limits alone, of settings that hold more."""
        return self.model_dump(include=set(Quotas.model_fields))

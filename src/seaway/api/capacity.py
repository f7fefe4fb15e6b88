"""Refusing to scale to what does not fit, unless it is forced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import Query

from seaway.api.auth import Caller
from seaway.api.context import require_role
from seaway.api.deps import ApiDeps
from seaway.api.errors import ApiError
from seaway.control.capacity import CapacityJudge, tell_forced
from seaway.model import App, ReleaseSpec, Role
from seaway.rollout.capacity import advise, advise_force, list_shortages

Force = Annotated[bool, Query(description="do it even if not as many instances fit (admins)")]


def check_force(caller: Caller, *, force: bool) -> None:
    """Raise ApiError if somebody forces who may not: limits are the platform's, and its machine everybody's."""
    if force:
        require_role(caller, Role.ADMIN, "forcing what does not fit")


def make_judge(deps: ApiDeps) -> CapacityJudge:
    """Return who says what fits. Hold deps.claiming until it is stored: from then on it is counted."""
    return CapacityJudge(deps.store, deps.engine.observe, deps.settings)


async def check_scale(
    deps: ApiDeps, caller: Caller, app: App, counts: dict[str, int], known: Sequence[ReleaseSpec], *, force: bool
) -> str:
    """Raise ApiError if not as many instances fit; forced: return what an event is to say of it ("": they fit)."""
    shortages = await make_judge(deps).judge_scale(app, counts, known, force=force)
    if shortages and not force:
        hint = f"{advise(shortages)}, or {advise_force(may_force=caller.may(Role.ADMIN))}"
        raise ApiError(422, "does-not-fit", list_shortages(shortages), field=shortages[0].process, hint=hint)
    return tell_forced(shortages)

"""Rollouts: look at them and steer them."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from fastapi import APIRouter

from seaway.api.auth import Caller
from seaway.api.changing import change, is_past
from seaway.api.context import Deps, Developer, Number, VisibleApp, note
from seaway.api.deps import ApiDeps
from seaway.api.errors import ApiError
from seaway.model import App, Release, Rollout, release_name
from seaway.store.base import NotFound

router = APIRouter(tags=["rollouts"])


class Steer(StrEnum):
    """What may be asked of a rollout that has not ended."""

    PAUSE = "pause"
    RESUME = "resume"
    PROMOTE = "promote"
    CANCEL = "cancel"


SAID = {
    Steer.PAUSE: ("RolloutPaused", "Is to stay where it is."),
    Steer.RESUME: ("RolloutResumed", "May go on."),
    Steer.PROMOTE: ("RolloutPromoted", "Need not wait any longer."),
    Steer.CANCEL: ("RolloutCancelRequested", "Is to be cancelled; traffic and config go back."),
}


@router.get("/apps/{app}/rollouts", summary="List an app's rollouts, newest first")
async def list_rollouts(app: VisibleApp, deps: Deps) -> list[Rollout]:
    """`status.reason` says in one sentence why each is where it is."""
    rollouts = (await deps.store.list(Rollout, {"app": app.name})).documents
    return sorted(rollouts, key=lambda rollout: -rollout.spec.target)


@router.get("/apps/{app}/rollouts/{number}", summary="A rollout: where it is, why, and every phase it went through")
async def get_rollout(app: VisibleApp, number: Number, deps: Deps) -> Rollout:
    """`number` is that of the release it brings."""
    try:
        return await deps.store.get(Rollout, release_name(app.name, number))
    except NotFound:
        raise await _find_reason(deps, app, number) from None


@router.post("/apps/{app}/rollouts/{number}/pause", status_code=202, summary="Hold a rollout where it is")
async def pause(app: VisibleApp, number: Number, deps: Deps, caller: Developer) -> Rollout:
    """It can still be cancelled, and it goes back by itself if the new release fails."""
    return await _steer(deps, caller, app, number, Steer.PAUSE)


@router.post("/apps/{app}/rollouts/{number}/resume", status_code=202, summary="Let a paused rollout go on")
async def resume(app: VisibleApp, number: Number, deps: Deps, caller: Developer) -> Rollout:
    """Does nothing if it is not paused."""
    return await _steer(deps, caller, app, number, Steer.RESUME)


@router.post("/apps/{app}/rollouts/{number}/promote", status_code=202, summary="Skip the rest of the waiting")
async def promote(app: VisibleApp, number: Number, deps: Deps, caller: Developer) -> Rollout:
    """The old release is let go at once; one that waits for what may still run on a lost node goes on."""
    return await _steer(deps, caller, app, number, Steer.PROMOTE)


@router.post("/apps/{app}/rollouts/{number}/cancel", status_code=202, summary="Put traffic and config back")
async def cancel(app: VisibleApp, number: Number, deps: Deps, caller: Developer) -> Rollout:
    """The release it was to bring stays in the list, but nothing is built upon it."""
    return await _steer(deps, caller, app, number, Steer.CANCEL)


async def _steer(deps: ApiDeps, caller: Caller, app: App, number: int, verb: Steer) -> Rollout:
    updates: dict[Steer, dict[str, Any]] = {
        Steer.PAUSE: {"paused": True},
        Steer.RESUME: {"paused": False},
        Steer.PROMOTE: {"promote": True, "paused": False},
        Steer.CANCEL: {"cancel": True, "cancelled_by": caller.name},
    }
    asked = False

    def edit(rollout: Rollout) -> Rollout:
        nonlocal asked
        if rollout.ended:
            message = (
                f"the rollout of v{number} of {app.name} has ended ({rollout.status.phase}): {rollout.status.reason}"
            )
            raise ApiError(409, "ended", message, hint="`seaway rollback` makes a release of an earlier one")
        if verb is Steer.CANCEL and rollout.spec.cancel:
            return rollout
        changed = rollout.model_copy(update={"spec": rollout.spec.model_copy(update=updates[verb])})
        asked = changed != rollout
        return changed

    try:
        rollout = await change(deps.store, Rollout, release_name(app.name, number), edit)
    except NotFound:
        raise await _find_reason(deps, app, number) from None
    if asked:
        reason, message = SAID[verb]
        await note(deps, caller, app, about=f"rollout {rollout.name}", reason=reason, message=message)
    return rollout


async def _find_reason(deps: ApiDeps, app: App, number: int) -> ApiError:
    hint = f"`seaway rollouts list -a {app.name}` shows what there is"
    message = f"{app.name} has no rollout of v{number}"
    if await is_past(deps.store, Release, app, number):
        message = f"v{number} of {app.name} is not kept any more"
    return ApiError(404, "no-such-rollout", message, field="number", hint=hint)

"""Tokens: make, list, revoke. Only for admins; an admin of one team manages that team's tokens."""

from __future__ import annotations

from datetime import timedelta

from fastapi import APIRouter

from seaway.api.auth import is_platform_admin, make_secret, new_token
from seaway.api.claims import check_team
from seaway.api.context import Admin, Deps
from seaway.api.errors import ApiError
from seaway.api.inputs import TokenInput
from seaway.api.views import NewToken, TokenView, view_token
from seaway.model import Token
from seaway.store.base import AlreadyExists, NotFound, Store
from seaway.store.events import record_event

router = APIRouter(tags=["tokens"])

MOST_TOKENS = 1000  # of one team, or of every team; who makes one for each job and forgets it is told


@router.get("/tokens", summary="List the tokens, without their secrets")
async def list_tokens(deps: Deps, caller: Admin) -> list[TokenView]:
    """By name."""
    now = deps.clock()
    return [view_token(t, now) for t in (await deps.store.list(Token)).documents if caller.sees(t.spec.team)]


@router.post("/tokens", status_code=201, summary="Make a token; its secret is in this answer and never again")
async def create_token(body: TokenInput, deps: Deps, caller: Admin) -> NewToken:
    """A token bound to a team sees and changes only that team's apps."""
    now = deps.clock()
    team = body.team or caller.team
    if not caller.sees(team):
        message = f"the token {caller.name!r} belongs to the team {caller.team!r}, not {team!r}"
        raise ApiError(403, "other-team", message, field="team", hint="leave team out")
    if body.expires_at is not None and body.expires_at <= now:
        raise ApiError(422, "invalid", "expires_at: is in the past", field="expires_at")
    if team:
        await check_team(deps, team)
    expires = now + timedelta(seconds=body.expires_in) if body.expires_in else body.expires_at
    secret = make_secret()
    try:
        made = new_token(body.name, secret, body.role, team=team, created_by=caller.name, expires_at=expires)
        async with deps.claiming:
            await _check_count(deps.store, team)
            token = await deps.store.create(made)
    except AlreadyExists:
        message, hint = f"there is a token {body.name!r} already", "choose another name, or revoke that one first"
        raise ApiError(409, "exists", message, field="name", hint=hint) from None
    of = _say_team(team)
    await record_event(
        deps.store, about=f"token {token.name}", reason="TokenCreated", message=f"Has the role {body.role}, {of}.",
        team=team, by=caller.name, at=now,
    )  # fmt: skip
    view = view_token(token, now)
    return NewToken(meta=view.meta, spec=view.spec, secret=secret)


@router.delete("/tokens/{name}", summary="Revoke a token; the next request with it is refused")
async def revoke_token(name: str, deps: Deps, caller: Admin) -> TokenView:
    """The last admin token of the platform cannot be revoked."""
    now = deps.clock()
    tokens = (await deps.store.list(Token)).documents
    found = next((token for token in tokens if token.name == name and caller.sees(token.spec.team)), None)
    if found is None:
        raise _unknown(name)
    admins = [token for token in tokens if is_platform_admin(token, now)]
    if found in admins and len(admins) == 1:
        message = f"{name!r} is the last token that may do everything"
        raise ApiError(409, "last-admin", message, hint="make another admin token first")
    try:
        await deps.store.delete(Token, name, found.meta.revision)
    except NotFound:
        raise _unknown(name) from None
    await record_event(
        deps.store, about=f"token {name}", reason="TokenRevoked", message="Is refused from now on.",
        team=found.spec.team, by=caller.name, at=now,
    )  # fmt: skip
    return view_token(found, now)


async def _check_count(store: Store, team: str | None) -> None:
    """Raise ApiError if there are as many tokens of the team as there may be; the others' do not count."""
    count = sum(token.spec.team == team for token in (await store.list(Token)).documents)
    if count >= MOST_TOKENS:
        message = f"there are {count} tokens {_say_team(team)}, the most there may be"
        hint = "revoke what is not needed, expired ones too: `seaway tokens list` shows what there is"
        raise ApiError(422, "too-many-tokens", message, hint=hint)


def _say_team(team: str | None) -> str:
    return f"of the team {team}" if team else "of every team"


def _unknown(name: str) -> ApiError:
    hint = "`seaway tokens list` shows what there is"
    return ApiError(404, "no-such-token", f"there is no token {name[:80]!r}", field="name", hint=hint)

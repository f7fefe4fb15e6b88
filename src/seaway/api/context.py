"""What endpoints ask for: the collaborators, who calls, and the app in the path."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Path, Request

from seaway.api.auth import Caller
from seaway.api.deps import ApiDeps
from seaway.api.errors import ApiError
from seaway.api.guard import CALLER
from seaway.model import App, Role
from seaway.store.base import NotFound, Store
from seaway.store.events import record_event

LONGEST_NAME = 200  # characters of a name in a path; longer ones cannot exist

Number = Annotated[int, Path(ge=1, le=2**31, description="number, for example 3 for v3 or b3")]


def get_deps(request: Request) -> ApiDeps:
    """Return the collaborators."""
    deps = request.app.state.deps
    assert isinstance(deps, ApiDeps)
    return deps


def get_caller(request: Request) -> Caller:
    """Return who calls; the guard has put it there."""
    caller = request.scope[CALLER]
    assert isinstance(caller, Caller)
    return caller


Deps = Annotated[ApiDeps, Depends(get_deps)]
Viewer = Annotated[Caller, Depends(get_caller)]


def require(role: Role) -> Callable[[Caller], Caller]:
    """Return a dependency that lets only this role and higher ones through."""

    def check(caller: Viewer) -> Caller:
        require_role(caller, role, "this")
        return caller

    return check


def require_role(caller: Caller, role: Role, what: str) -> None:
    """Raise ApiError 403 unless the caller has the role."""
    if not caller.may(role):
        message = f"the token {caller.name!r} has the role {caller.role}; {what} needs {role}"
        raise ApiError(403, "role-too-low", message, hint="use another token, or ask an admin for one")


Developer = Annotated[Caller, Depends(require(Role.DEVELOPER))]
Admin = Annotated[Caller, Depends(require(Role.ADMIN))]


async def find_app(
    deps: Deps,
    caller: Viewer,
    app: Annotated[str, Path(max_length=LONGEST_NAME, description="name of the app")],
) -> App:
    """Return the app in the path; raise 404 if there is none that the caller may see."""
    return await load_app(deps.store, caller, app)


async def find_changeable(app: Annotated[App, Depends(find_app)], _: Developer) -> App:
    """Return the app in the path for a change; raise 409 if it is being destroyed."""
    if app.spec.destroy:
        raise ApiError(409, "destroying", f"{app.name} is being destroyed")
    return app


VisibleApp = Annotated[App, Depends(find_app)]
ChangeableApp = Annotated[App, Depends(find_changeable)]


async def load_app(store: Store, caller: Caller, name: str) -> App:
    """Return an app that the caller may see, or raise 404 with the names that come near."""
    try:
        app = await store.get(App, name)
    except NotFound:
        app = None
    if app is not None and caller.sees(app.spec.team):
        return app
    known = [other.name for other in (await store.list(App)).documents if caller.sees(other.spec.team)]
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`seaway apps list` shows what there is"
    raise ApiError(404, "no-such-app", f"there is no app {name!r}", field="app", hint=hint)


async def note(deps: ApiDeps, caller: Caller, app: App, *, about: str, reason: str, message: str) -> None:
    """Record an event of an app, done by the caller."""
    await record_event(
        deps.store, about=about, reason=reason, message=message,
        app=app.name, team=app.spec.team, by=caller.name, at=deps.clock(),
    )  # fmt: skip

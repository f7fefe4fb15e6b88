"""The application: middleware, error answers and endpoints put together."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.security import HTTPBearer

from seaway import __version__
from seaway.api.deps import ApiDeps
from seaway.api.endpoints import apps, builds, releases, rollouts, routes, running, status, tokens, watching
from seaway.api.endpoints.builds import UPLOAD_PREFIX
from seaway.api.errors import ErrorAnswer, install_handlers
from seaway.api.guard import Guard

DESCRIPTION = """
Seaway's API records what is wanted and shows what is; the control loop does the rest. Every request but /healthz
and /metrics carries `Authorization: Bearer swy_...` (or `X-Seaway-Token: swy_...`, behind a proxy that keeps the former
to itself). Every error is
`{"error": {"code", "message", "field"?, "hint"?}}`.
"""

MEANINGS = {
    400: "The request is not JSON, or not what it says it is",
    401: "No token, or one that is unknown, revoked or expired",
    403: "The token's role or team may not do this",
    404: "There is no such thing, or not for this token",
    409: "Not possible as things are now",
    413: "The body is too large",
    422: "A field is wrong; it is named",
    429: "The token asks too often (Retry-After says when to ask again), or has too many streams open",
    431: "Headers and query are too large",
    503: "A part of the platform does not answer now; try again",
}
SCHEMAS = "#/components/schemas/"
ERROR = {"application/json": {"schema": {"$ref": f"{SCHEMAS}{ErrorAnswer.__name__}"}}}
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"content": ERROR, "description": meaning} for status, meaning in MEANINGS.items()
}
"""Of every path. As a `model` FastAPI would prepare it for each of them, which made every start 0.1 s longer."""


class Api(FastAPI):
    """FastAPI, with the error answer's schema in the document that describes it all."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        if self.openapi_schema is None:
            schemas = super().openapi()["components"]["schemas"]
            answer = ErrorAnswer.model_json_schema(ref_template=f"{SCHEMAS}{{model}}")
            schemas |= answer.pop("$defs") | {ErrorAnswer.__name__: answer}
        return super().openapi()


def create_api(deps: ApiDeps) -> FastAPI:
    """Return the ASGI application. More routers may be included; the guard lets no one but /metrics in unnamed."""
    api = Api(title="Seaway", version=__version__, description=DESCRIPTION.strip(), redoc_url=None)
    api.state.deps = deps
    install_handlers(api)
    api.add_middleware(Guard)
    api.include_router(status.public)
    token = HTTPBearer(auto_error=False, description="a token, swy_...")
    versioned = APIRouter(prefix="/v1", dependencies=[Depends(token)], responses=RESPONSES)
    for part in (apps, builds, releases, rollouts, routes, running, watching, tokens, status):
        versioned.include_router(part.router)
    api.include_router(versioned)
    remove_leftovers(deps)
    return api


def remove_leftovers(deps: ApiDeps) -> None:
    """Delete uploads that a killed control plane left half done."""
    for leftover in deps.home.sources.glob(f"{UPLOAD_PREFIX}*"):
        leftover.unlink(missing_ok=True)

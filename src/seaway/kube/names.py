"""What Seaway's own objects in a cluster are called, for the installer, the parts and the command line."""

from __future__ import annotations

from typing import Literal

NAMESPACE = "seaway-system"
"""Where Seaway is put unless told otherwise."""

CONTROL = "seaway-control"
ADMIN_TOKEN = "seaway-admin-token"  # noqa: S105  # the name of a Secret; its key is "token"
API_SCHEME: Literal["http", "https"] = "https"
API_PORT = "api"

TEAM_PREFIX = "seaway-"
"""Of teams' namespaces."""

TEAM_LABEL = "seaway.dev/team"
"""On each namespace that Seaway made for a team."""

TOKEN_HEADER = "X-Seaway-Token"  # noqa: S105  # the name of a header
"""Takes a token instead of `Authorization`, which the API server's proxy keeps for itself."""


def api_proxy_path(namespace: str) -> str:
    """Return the path at the API server through which Seaway's API is reached with any kubeconfig."""
    return f"/api/v1/namespaces/{namespace}/services/{API_SCHEME}:{CONTROL}:{API_PORT}/proxy"

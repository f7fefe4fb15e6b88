"""The HTTP API: records intent, shows state, streams progress."""

from seaway.api.app import create_api
from seaway.api.auth import ensure_admin_token
from seaway.api.deps import ApiDeps

__all__ = ["ApiDeps", "create_api", "ensure_admin_token"]

"""The API server's refusals as the engine contract has them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from seaway.engine.base import EngineError, EngineUnavailable
from seaway.kube import errors


@contextmanager
def engine_errors() -> Iterator[None]:
    """Turn KubeError into EngineError; what may be different soon into EngineUnavailable."""
    try:
        yield
    except (errors.Unavailable, errors.Conflict, errors.Gone) as error:
        raise EngineUnavailable(f"the cluster did not take it now: {error}") from error
    except errors.Denied as error:
        raise EngineError(f"the cluster does not let Seaway do this; see `seaway install`: {error}") from error
    except errors.KubeError as error:
        raise EngineError(f"the cluster refused: {error}") from error

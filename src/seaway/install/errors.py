"""What ends an installation: a sentence, what to do next, the exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from seaway.kube.errors import Denied, KubeError, Misconfigured, Unavailable

FAILED, USAGE, NOT_FOUND, NOT_ALLOWED, TIMED_OUT = 1, 2, 3, 4, 5  # as of every command of Seaway


class InstallError(Exception):
    """The cluster is not as it was asked for; what was done so far stays, and running it again goes on from there."""

    def __init__(self, message: str, *, hint: str = "", exit_code: int = FAILED, field: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code
        self.field = field


@contextmanager
def explained() -> Iterator[None]:
    """Turn what the API server answers into InstallError."""
    try:
        yield
    except Misconfigured as error:
        raise InstallError(str(error), hint="name a kubeconfig with --kubeconfig FILE", exit_code=USAGE) from error
    except Denied as error:
        hint = "use the kubeconfig of an administrator of the cluster (--kubeconfig, --context)"
        raise InstallError(str(error), hint=hint, exit_code=NOT_ALLOWED) from error
    except Unavailable as error:
        hint = "check that `kubectl cluster-info` works, and run it again: it goes on where it was"
        raise InstallError(str(error), hint=hint) from error
    except KubeError as error:
        raise InstallError(str(error), hint="correct that and run it again: it goes on where it was") from error

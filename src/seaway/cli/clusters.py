"""The cluster that this user is logged in to: where it is kept, and the way to Seaway's API through its API server.

`seaway login --cluster` and `seaway install` write it into SEAWAY_HOME, mode 0600. Requests go to the API server with
the kubeconfig's own credentials, over TLS, and from there to a replica of the control plane; so nothing has to be
opened to the outside. Seaway's token goes in a header of its own.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import AsyncGenerator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from seaway.cli.errors import CliError, ExitCode
from seaway.home import Home

LOGIN_FILE = "cluster.json"


@dataclass(frozen=True)
class ClusterLogin:
    """A cluster by kubeconfig (None: as kubectl finds it) and context (None: the current one), and Seaway's token."""

    namespace: str
    token: str = field(default="", repr=False)
    kubeconfig: str | None = None
    context: str | None = None


@dataclass(frozen=True)
class Way:
    """How HTTP gets there: base URL, TLS, and the cluster's own credentials."""

    url: str
    verify: ssl.SSLContext
    auth: httpx2.Auth | None


class _ClusterAuth(httpx2.Auth):
    """Credentials as the cluster's client library makes them, for requests of the library used here."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        flow = self._inner.async_auth_flow(request)
        try:
            prepared = await anext(flow)
            while True:
                answer = yield prepared
                try:
                    prepared = await flow.asend(answer)
                except StopAsyncIteration:
                    return
        finally:
            await flow.aclose()


def make_login(namespace: str, token: str, kubeconfig: Path | None, context: str | None) -> ClusterLogin:
    """Return a login for the cluster as it is chosen now: neither KUBECONFIG nor kubectl's context moves it later."""
    from seaway.kube.config import load_config  # noqa: PLC0415
    from seaway.kube.errors import Misconfigured  # noqa: PLC0415

    named = os.environ.get("KUBECONFIG", "")
    if kubeconfig is None and named and os.pathsep not in named:
        kubeconfig = Path(named)
    try:
        context = load_config(kubeconfig, context).context_name
    except Misconfigured as error:
        raise CliError(str(error), exit_code=ExitCode.USAGE) from error
    path = str(kubeconfig.expanduser().absolute()) if kubeconfig else None
    return ClusterLogin(namespace, token, path, context)


def read_login(home: Home) -> ClusterLogin | None:
    """Return the cluster that is logged in to, None if it is the platform on this machine."""
    file = home.root / LOGIN_FILE
    try:
        return ClusterLogin(**json.loads(file.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        hint = f"remove it or run `seaway login --cluster` again: {file}"
        raise CliError(f"{file} cannot be read ({type(error).__name__})", hint=hint) from error


def write_login(home: Home, login: ClusterLogin) -> None:
    """Keep the login, for this user alone."""
    home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = home.root / LOGIN_FILE
    temporary = file.with_name(f".{LOGIN_FILE}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(json.dumps(asdict(login), indent=2) + "\n")
    temporary.replace(file)


def remove_login(home: Home) -> bool:
    """Forget the login; return whether there was one."""
    file = home.root / LOGIN_FILE
    there = file.exists()
    file.unlink(missing_ok=True)
    return there


def find_way(login: ClusterLogin) -> Way:
    """Return the way to Seaway's API; CliError if the kubeconfig cannot be used."""
    from lightkube.config.client_adapter import user_auth, verify_cluster  # noqa: PLC0415  (0.5 s, for clusters alone)
    from lightkube.core.exceptions import ConfigError  # noqa: PLC0415

    from seaway.kube.config import load_config  # noqa: PLC0415
    from seaway.kube.errors import Misconfigured  # noqa: PLC0415
    from seaway.kube.names import api_proxy_path  # noqa: PLC0415

    try:
        config = load_config(Path(login.kubeconfig) if login.kubeconfig else None, login.context)
        assert config.user is not None
        verify = verify_cluster(config.cluster, config.user, config.abs_file)
        auth = user_auth(config.user)
    except (Misconfigured, ConfigError, OSError, AssertionError, ValueError) as error:
        raise CliError(
            f"the kubeconfig of the cluster that you are logged in to cannot be used ({error})",
            hint="run `seaway login --cluster` again, or `seaway login --local` for the platform on this machine",
            exit_code=ExitCode.USAGE,
        ) from error
    url = config.cluster.server.rstrip("/") + api_proxy_path(login.namespace)
    return Way(url, verify, _ClusterAuth(auth) if auth is not None else None)

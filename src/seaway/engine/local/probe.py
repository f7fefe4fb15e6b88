"""Asking one instance once: HTTP, TCP or a command."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2

from seaway.engine.local.lag import Lag
from seaway.engine.local.usage import find_listeners
from seaway.model import Check
from seaway.model.app import make_check_headers
from seaway.model.quoting import QUOTED, quote_text
from seaway.sandbox.enter import PASSING
from seaway.sandbox.view import View, enter

HOST = "127.0.0.1"
LATE = 0.25  # of a check's timeout: a failed check that the agent delayed by more says nothing
ANSWER = 4 * QUOTED  # bytes of an answer's body that are read, to be quoted

CHECK = """{ echo 500 >/proc/self/oom_score_adj; for group in $2; do echo 0 >"$group"; done; } 2>/dev/null
exec /bin/sh -c "$1"
"""
"""A check command belongs to its instance: whatever it leaves behind ends with that."""


@dataclass(frozen=True)
class Target:
    """What a check is asked of: the port, and the folder and environment in which commands run.

    `admission`: how they enter the instance's control groups (`Kin.admit`); `view`: what they see and who they are.
    `host`: the app's own, which HTTP checks name as requests do; "": they name the address.
    """

    port: int | None
    workdir: Path
    env: Mapping[str, str]
    admission: str = ""
    view: View | None = None
    host: str = ""


class Unknown(Exception):
    """A check failed that the agent itself made too late, or could not make: neither good nor bad."""


class Prober:
    """Runs checks; one HTTP client for all, without keep-alive."""

    def __init__(self) -> None:
        self.lag = Lag()
        self._http: httpx2.AsyncClient | None = None

    async def ask(self, check: Check, target: Target) -> str | None:
        """Return None if the check passes, else what went wrong as the end of a sentence. May raise Unknown."""
        began = time.monotonic()
        try:
            fault = await self._ask(check, target)
        except (OSError, httpx2.HTTPError) as error:
            raise Unknown(f"the node agent could not ask: {find_want(error) or error}") from error
        late = self.lag.find_worst(began)
        if fault is not None and late > LATE * check.timeout:
            raise Unknown(f"the node agent was too busy to ask (late by {late:.1f} s)")
        return fault

    async def _ask(self, check: Check, target: Target) -> str | None:
        if check.command is not None:
            return await ask_command(check.command, check.timeout, target)
        if target.port is None:
            return "the process has no PORT"
        if check.http is not None:
            fault = await self._ask_http(check.http, check.timeout, target.port, target.host)
        else:
            fault = await ask_tcp(check.timeout, target.port)
        return fault or find_stranger(target)

    async def _ask_http(self, path: str, timeout: float, port: int, host: str) -> str | None:
        if self._http is None:
            self._http = httpx2.AsyncClient(
                verify=False,  # plain HTTP to this machine only; saves loading certificates
                trust_env=False,
                limits=httpx2.Limits(max_keepalive_connections=0),
            )
        headers = {"User-Agent": "seaway-health", "Accept-Encoding": "identity", **make_check_headers(host)}
        code, body = 0, bytearray()
        try:
            async with (
                asyncio.timeout(timeout),
                self._http.stream("GET", f"http://{HOST}:{port}{path}", timeout=None, headers=headers) as response,
            ):
                code = response.status_code
                if 200 <= code < 400:
                    return None
                async for part in response.aiter_raw():
                    body += part
                    if len(body) >= ANSWER:
                        break
        except TimeoutError:
            if code:
                return describe_answer(path, port, code, body)
            return f"GET {path} on port {port} got no answer within {timeout:g} s"
        except httpx2.HTTPError as error:
            if find_want(error):
                raise
            if code:
                return describe_answer(path, port, code, body)
            return f"GET {path} on port {port} failed: {str(error) or type(error).__name__}"
        return describe_answer(path, port, code, body)

    async def close(self) -> None:
        """Close the HTTP client."""
        if self._http is not None:
            await self._http.aclose()


def describe_answer(path: str, port: int, code: int, body: bytes | bytearray) -> str:
    """Say what a check was answered instead of a good status, with the beginning of the body."""
    said = quote_text(bytes(body[:ANSWER]).decode(errors="replace"))
    return f"GET {path} on port {port} answered {code}" + (f": {said}" if said else "")


def find_want(error: BaseException) -> str:
    """Return what this process lacks if that is why something failed, such as descriptors; "" if it is not."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in PASSING:
            return os.strerror(seen.errno)
        seen = seen.__cause__ or seen.__context__
    return ""


async def ask_tcp(timeout: float, port: int) -> str | None:
    """Return None if something accepts a connection on the port within `timeout` seconds. OSError: it was not asked."""
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(HOST, port)
    except TimeoutError:
        return f"port {port} did not accept a connection within {timeout:g} s"
    except OSError as error:
        if find_want(error):
            raise
        return f"port {port} refused the connection"
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return None


def find_stranger(target: Target) -> str | None:
    """Return what is wrong if others than the instance's user listen on its port: traffic must not go to them."""
    if target.view is None or target.port is None:
        return None
    strangers = find_listeners(target.port) - {target.view.user}
    return f"port {target.port} is held by another user's process (user id {min(strangers)})" if strangers else None


async def ask_command(command: str, timeout: float, target: Target) -> str | None:
    """Run the command in the instance's folder and environment; 0 is good. Its whole group is killed at the limit."""
    sealed, env = [], dict(target.env)
    if target.view is not None:
        sealed = [target.view.seal(["/bin/sh", "-c", command], target.workdir, env)]
        command, env = f"exec {shlex.join(enter(sealed[0]))}", {}
    try:
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", CHECK, "seaway-check", command, target.admission,
            cwd=target.workdir, env=env, start_new_session=True, pass_fds=sealed,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
    finally:
        for fd in sealed:
            os.close(fd)
    try:
        async with asyncio.timeout(timeout):
            output, _ = await process.communicate()
    except TimeoutError:
        return f"check command did not end within {timeout:g} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    if process.returncode == 0:
        return None
    lines = output.decode(errors="replace").strip().splitlines()
    said = f": {quote_text(lines[-1])}" if lines else ""
    return f"check command ended with code {process.returncode}{said}"

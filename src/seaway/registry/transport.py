"""Requests to one registry: logged in, tried again where that is safe, and every failure in a sentence."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx2

from seaway.registry.auth import Authorizer, parse_challenge
from seaway.registry.credentials import CredentialsFile
from seaway.registry.errors import NotThere, RegistryError, Unauthorised, Unreachable, Unsupported

PAUSES = (0.2, 0.5, 1.0, 2.0)  # seconds before each further try
LONGEST_PAUSE = 10.0  # seconds, whatever Retry-After says
PASSING = frozenset({408, 429, 500, 502, 503, 504})
TIMEOUT = httpx2.Timeout(60.0, connect=5.0)  # of one read or write, not of the whole
AGENT = "seaway"

Content = Callable[[], bytes | AsyncIterable[bytes]]
"""Makes the body of a request, once for each try."""


@dataclass(frozen=True)
class Access:
    """How a registry is reached: plain HTTP or TLS, whose certificates count, and who we are there."""

    insecure: bool = False
    ca: Path | None = None  # a PEM file; None: what this machine trusts
    credentials: Path | None = None  # shaped like Docker's config.json


@dataclass(frozen=True)
class Call:
    """One request. `path` may be a whole address; `what` names the subject in errors.

    With `again` it is repeated when the answer did not come, or says that it is for later.
    """

    method: str
    path: str
    scope: str  # what a token has to allow: repository:PATH:pull,push
    what: str
    headers: Mapping[str, str] = field(default_factory=dict)
    content: Content | None = None
    again: bool = True


class Transport:
    """Sends requests to one registry."""

    def __init__(self, host: str, access: Access) -> None:
        self.host = host
        self._base = f"{'http' if access.insecure else 'https'}://{host}"
        self._http = httpx2.AsyncClient(
            timeout=TIMEOUT,
            verify=True if access.insecure else _trust(access.ca),
            headers={"User-Agent": AGENT},
        )
        self._auth = Authorizer(host, CredentialsFile(access.credentials), self._http, insecure=access.insecure)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def send(self, call: Call) -> httpx2.Response:
        """Send and read the whole answer; see `open`."""
        async with self.open(call) as answer:
            await answer.aread()
            return answer

    @asynccontextmanager
    async def open(self, call: Call) -> AsyncIterator[httpx2.Response]:
        """Send and give the answer with its body still to be read.

        Raises RegistryError for any status of 400 or more.
        """
        answer = await self._persist(call)
        try:
            if answer.status_code >= 400:
                await _read_quietly(answer)
                raise explain(answer, self.host, call.what)
            yield answer
        except httpx2.HTTPError as error:
            raise Unreachable(f"the registry {self.host} broke off in the middle of {call.what}: try again") from error
        finally:
            await answer.aclose()

    async def _persist(self, call: Call) -> httpx2.Response:
        for pause in (*PAUSES, None):
            last = pause is None or not call.again
            try:
                answer = await self._log_in_and_send(call)
            except httpx2.TransportError as error:
                if last or _is_about_tls(error):
                    raise Unreachable(explain_transport(error, self.host)) from None
                wait = pause
            else:
                if last or answer.status_code not in PASSING:
                    return answer
                wait = _read_pause(answer, pause)
                await answer.aclose()
            await asyncio.sleep((wait or 0.0) * random.uniform(0.8, 1.2))  # noqa: S311  # spreads load, hides nothing
        raise AssertionError("the last try returns or raises")

    async def _log_in_and_send(self, call: Call) -> httpx2.Response:
        own = urlsplit(self._address(call.path)).netloc == self.host
        known = self._auth.header(call.scope) if own else ""
        answer = await self._once(call, known)
        if answer.status_code != 401 or not own:
            return answer
        challenge = parse_challenge(answer.headers.get("WWW-Authenticate", ""))
        if challenge.scheme == "basic" and known.startswith("Basic"):
            return answer  # these credentials were just refused
        await answer.aclose()
        return await self._once(call, await self._auth.answer(challenge, call.scope))

    async def _once(self, call: Call, login: str) -> httpx2.Response:
        sent = {**call.headers, **({"Authorization": login} if login else {})}
        content = call.content() if call.content else None
        request = self._http.build_request(call.method, self._address(call.path), headers=sent, content=content)
        # Registries send blobs from elsewhere; httpx2 takes the login off where the host changes.
        return await self._http.send(request, stream=True, follow_redirects=call.method in {"GET", "HEAD"})

    def _address(self, path: str) -> str:
        url = urljoin(self._base + "/", path)
        parts = urlsplit(url)
        # A registry behind a TLS balancer may believe that it is spoken to in plain HTTP.
        return self._base + url.partition(parts.netloc)[2] if parts.netloc == self.host else url


def explain(answer: httpx2.Response, host: str, what: str) -> RegistryError:
    """Return the error that says what a status of 400 or more means."""
    status = answer.status_code
    said = _read_detail(answer)
    if status == 400 and "HTTPS server" in answer.text:
        return Unreachable(f"the registry {host} speaks TLS only: do not set it as insecure")
    if status == 404:
        return NotThere(f"there is no {what}: see its name, or push it first")
    if status == 401:
        return Unauthorised(
            f"the registry {host} refuses user and password for {what}: correct them in the credentials file"
        )
    if status == 403:
        return Unauthorised(f"the registry {host} does not allow this for {what}: give the user the right to it{said}")
    if status in {405, 415, 501}:
        return Unsupported(f"the registry {host} does not do this for {what} (status {status}{said})")
    if status in PASSING:
        return Unreachable(f"the registry {host} answers {status} for {what} again and again{said}: try later")
    return RegistryError(f"the registry {host} answers {status} for {what}{said}")


def explain_transport(error: httpx2.TransportError, host: str) -> str:
    """Return a sentence for an answer that never came."""
    words = str(error)
    if "WRONG_VERSION_NUMBER" in words or "wrong version number" in words:
        return f"the registry {host} does not speak TLS: if it is meant to be so, set it as insecure"
    if _is_about_tls(error):
        reason = words.partition("] ")[2].partition(" (")[0] or words
        return f"the certificate of the registry {host} is not trusted ({reason}): give the CA that signed it"
    if isinstance(error, httpx2.TimeoutException):
        return f"the registry {host} does not answer in time: see that it runs and can be reached from here"
    return f"the registry {host} cannot be reached ({words or type(error).__name__}): see its name and that it runs"


def _is_about_tls(error: httpx2.TransportError) -> bool:
    words = str(error).lower()
    return isinstance(error, httpx2.ConnectError) and ("ssl" in words or "certificate" in words)


def _read_detail(answer: httpx2.Response) -> str:
    """Return " (MESSAGE)" of the registry's own errors, or ""."""
    try:
        errors = answer.json()["errors"]
        return f" ({str(errors[0].get('message') or errors[0]['code'])[:200]})"
    except (ValueError, LookupError, TypeError, AttributeError):
        return ""


async def _read_quietly(answer: httpx2.Response) -> None:
    """Read an error's body, at most 64 KiB of it."""
    body = bytearray()
    async for part in answer.aiter_bytes():
        body += part
        if len(body) > 64 * 1024:
            break
    answer._content = bytes(body)  # makes .json() and .text work on what was read


def _read_pause(answer: httpx2.Response, pause: float | None) -> float:
    try:
        return min(float(answer.headers["Retry-After"]), LONGEST_PAUSE)
    except (KeyError, ValueError):
        return pause or 0.0


def _trust(ca: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context()
        if ca is not None:
            context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        raise RegistryError(f"{ca}: cannot be read as certificates of a CA ({error}): give a PEM file") from None
    return context

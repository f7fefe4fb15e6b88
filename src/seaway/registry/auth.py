"""Answering a registry's 401: basic authentication, or a bearer token from the place that the registry names."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx2

from seaway.registry.credentials import Credentials, CredentialsFile
from seaway.registry.errors import RegistryError, Unauthorised, Unreachable

DEFAULT_LIFE = 60.0  # seconds, where the token server says nothing
EARLY = 10.0  # seconds before its end a token is no longer used

_PARAMETER = re.compile(r'(\w+)=(?:"([^"]*)"|([^\s,]+))')


@dataclass(frozen=True)
class Challenge:
    """What a WWW-Authenticate header asks for."""

    scheme: str  # basic or bearer
    realm: str = ""
    service: str = ""
    scope: str = ""


def parse_challenge(header: str) -> Challenge:
    """Return the first challenge that can be answered; scheme "" if there is none."""
    for scheme in ("bearer", "basic"):
        match = re.search(rf"\b{scheme}\b(.*)", header, re.IGNORECASE)
        if match:
            found = {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(match[1])}
            return Challenge(scheme, found.get("realm", ""), found.get("service", ""), found.get("scope", ""))
    return Challenge("")


def join_scopes(*texts: str) -> str:
    """Return all scopes, with all actions wanted of the same thing in one."""
    wanted: dict[str, dict[str, None]] = {}
    for scope in " ".join(texts).split():
        thing, _, actions = scope.rpartition(":")
        wanted.setdefault(thing, {}).update(dict.fromkeys(actions.split(",")))
    return " ".join(f"{thing}:{','.join(actions)}" for thing, actions in wanted.items())


@dataclass
class _Token:
    value: str = field(repr=False)
    until: float  # time.monotonic()


class Authorizer:
    """Knows what to put into the Authorization header of requests to one registry."""

    def __init__(self, host: str, credentials: CredentialsFile, http: httpx2.AsyncClient, *, insecure: bool) -> None:
        self._host = host
        self._credentials = credentials
        self._http = http
        self._insecure = insecure
        self._tokens: dict[str, _Token] = {}
        self._basic = False  # the registry has asked for basic authentication

    def header(self, scope: str) -> str:
        """Return what is known to work for the scope already, or ""."""
        token = self._tokens.get(scope)
        if token is not None and token.until > time.monotonic():
            return f"Bearer {token.value}"
        return self._credentials.find(self._host).basic if self._basic else ""

    async def answer(self, challenge: Challenge, scope: str) -> str:
        """Return the header that answers the challenge. Raises Unauthorised if there is nothing to answer with."""
        credentials = self._credentials.find(self._host)
        if challenge.scheme == "basic":
            if not credentials.basic:
                raise Unauthorised(
                    f"the registry {self._host} wants a user and a password, and there are none: put them under auths "
                    "in the credentials file of registries"
                )
            self._basic = True
            return credentials.basic
        if challenge.scheme != "bearer":
            raise Unauthorised(f"the registry {self._host} asks for a kind of login that Seaway does not know")
        if credentials.registry_token:
            return f"Bearer {credentials.registry_token}"
        token = await self._fetch(challenge, join_scopes(scope, challenge.scope), credentials)
        self._tokens[scope] = token
        return f"Bearer {token.value}"

    async def _fetch(self, challenge: Challenge, scope: str, credentials: Credentials) -> _Token:
        where = urlsplit(challenge.realm)
        if where.scheme != "https" and not self._insecure:
            raise Unauthorised(
                f"the registry {self._host} sends logins to {where.scheme or 'no'}://{where.netloc}, which is not "
                "encrypted: no password goes there"
            )
        ask = {"service": challenge.service, "scope": scope}
        try:
            if credentials.identity_token:
                form = ask | {
                    "grant_type": "refresh_token",
                    "refresh_token": credentials.identity_token,
                    "client_id": "seaway",
                }
                answer = await self._http.post(challenge.realm, data=form)
            else:
                headers = {"Authorization": credentials.basic} if credentials.basic else {}
                answer = await self._http.get(challenge.realm, params=ask, headers=headers)
        except httpx2.HTTPError as error:
            raise Unreachable(
                f"{where.netloc}, where the registry {self._host} hands out tokens, does not answer "
                f"({type(error).__name__}): see that it can be reached from here"
            ) from None
        return self._read(answer, where.netloc)

    def _read(self, answer: httpx2.Response, server: str) -> _Token:
        if answer.status_code in {400, 401, 403}:
            raise Unauthorised(
                f"{server} gives no token for the registry {self._host}: user or password are wrong, or may not do "
                "this: see the credentials file of registries"
            )
        try:
            body = answer.raise_for_status().json()
            value = str(body.get("token") or body["access_token"])
            life = float(body.get("expires_in") or DEFAULT_LIFE)
        except (httpx2.HTTPStatusError, ValueError, KeyError, TypeError, AttributeError):
            raise RegistryError(
                f"{server} answered {answer.status_code} and no token when asked for one for {self._host}: try again"
            ) from None
        return _Token(value, time.monotonic() + max(life - EARLY, 1.0))

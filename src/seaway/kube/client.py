"""Ordinary calls to the API server: lightkube for Kubernetes' own kinds, `request` for everything else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import httpx2
import msgspec
from lightkube import AsyncClient, SingleConfig
from lightkube.codecs import resource_registry
from lightkube.config.client_adapter import ConnectionParams
from lightkube.core.exceptions import ConfigError, LoadResourceError
from lightkube.generic_resource import create_namespaced_resource
from lightkube.types import PatchType

from seaway.kube.config import load_config
from seaway.kube.errors import Invalid, KubeError, Misconfigured, error_of, parse_status, translated
from seaway.kube.sockets import close_cancelled

MANAGER = "seaway"
"""Field manager under which Seaway applies objects."""

TIMEOUT = httpx2.Timeout(10.0, connect=3.0)
"""Of ordinary calls, seconds: the API server waits for etcd up to 60 s, but a caller can retry sooner."""

CONNECTIONS = httpx2.Limits(max_connections=200, max_keepalive_connections=50, keepalive_expiry=30.0)

create_namespaced_resource("policy", "v1beta1", "PodDisruptionBudget", "poddisruptionbudgets")  # before 1.21

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Manifest = dict[str, Any]
T = TypeVar("T")


class KubeClient:
    """One cluster as one user. All methods raise KubeError and its kinds (seaway.kube.errors).

    `api` is lightkube's client, for typed calls on Kubernetes' own kinds: wrap them in `translated("what is done")`.
    `http` is the bare HTTP client (authenticated), which listing and watching use.
    """

    def __init__(self, config: SingleConfig, *, timeout: httpx2.Timeout = TIMEOUT) -> None:
        """Prepare connections; nothing is sent yet. Raise Misconfigured if certificates or user cannot be used."""
        params = ConnectionParams(timeout=timeout)
        try:
            self.api = AsyncClient(config, field_manager=MANAGER, timeout=timeout)
            self.http = httpx2.AsyncClient(**params.httpx_params(config), limits=CONNECTIONS)
            for http in (self.http, self.api._client._client):
                close_cancelled(http)
        except (OSError, ConfigError, AssertionError, ValueError) as error:  # ssl.SSLError is an OSError
            raise Misconfigured(f"the kubeconfig's certificates or user cannot be used ({error})") from error
        self.config = config

    @classmethod
    def open(cls, kubeconfig: Path | None = None, context: str | None = None) -> KubeClient:
        """Use the kubeconfig file, or what load_config finds without one."""
        return cls(load_config(kubeconfig, context))

    @property
    def namespace(self) -> str:
        """The namespace of the context, or of this pod."""
        return self.config.namespace

    async def close(self) -> None:
        """Close all connections; streams end."""
        await self.http.aclose()
        await self.api.close()

    async def request(
        self,
        method: Method,
        path: str,
        *,
        body: object = None,
        params: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> bytes:
        """Send one request and return the body; `path` starts with /api or /apis; `body` is anything msgspec encodes.

        A GET whose connection broke is sent once more: the server may have closed an idle connection just then.
        """
        headers = {"Content-Type": content_type, "Accept": "application/json"}
        content = None if body is None else msgspec.json.encode(body)
        doing = f"{method} {path}"
        with translated(doing):
            try:
                response = await self.http.request(method, path, content=content, params=params, headers=headers)
            except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError):
                if method != "GET":
                    raise
                response = await self.http.request(method, path, content=content, params=params, headers=headers)
        if response.is_error:
            raise error_of(parse_status(response.status_code, response.content), doing)
        return response.content

    async def fetch(self, kind: type[T], path: str, params: Mapping[str, str] | None = None) -> T:
        """GET `path` into a msgspec struct (or any type msgspec decodes)."""
        return msgspec.json.decode(await self.request("GET", path, params=params), type=kind)

    async def apply(self, manifest: Manifest, *, force: bool = True) -> Manifest:
        """Server-side apply of a manifest (a dict as in YAML) and return the object as stored.

        Fields that Seaway applied before and are not in the manifest any more go; other managers' fields stay.
        Without `force` a field that another manager set is a Conflict.
        """
        params = {"fieldManager": MANAGER, "force": "true" if force else "false"}
        path = self.path_of(manifest, named=True)
        answer = await self.request(
            "PATCH", path, body=manifest, params=params, content_type=PatchType.APPLY.value
        )  # JSON is YAML
        return cast(Manifest, msgspec.json.decode(answer))

    async def create(self, manifest: Manifest) -> Manifest:
        """Create the object and return it as stored; AlreadyExists if its name is taken."""
        answer = await self.request(
            "POST", self.path_of(manifest, named=False), body=manifest, params={"fieldManager": MANAGER}
        )
        return cast(Manifest, msgspec.json.decode(answer))

    async def delete(
        self,
        path: str,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        grace: int | None = None,
        propagation: Literal["Background", "Foreground", "Orphan"] = "Background",
    ) -> None:
        """Delete the object at `path`; with `uid` or `resource_version` only that one (else Conflict); NotFound."""
        conditions = {"uid": uid, "resourceVersion": resource_version}
        options: Manifest = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        if wanted := {key: value for key, value in conditions.items() if value is not None}:
            options["preconditions"] = wanted
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        await self.request("DELETE", path, body=options)

    @staticmethod
    def path_of(manifest: Manifest, *, named: bool = True) -> str:
        """Return the URL path of a manifest of one of Kubernetes' own kinds (or one registered with lightkube)."""
        try:
            resource = resource_registry.load(manifest["apiVersion"], manifest["kind"])
        except (LoadResourceError, KeyError) as error:
            raise Invalid(
                f"{manifest.get('apiVersion')} {manifest.get('kind')} is not a kind that is known here"
            ) from error
        info = resource._api_info  # lightkube has no public name for it
        group = info.resource.group
        parts = ["/apis", group, info.resource.version] if group else ["/api", info.resource.version]
        metadata = manifest.get("metadata", {})
        if namespace := metadata.get("namespace"):
            parts += ["namespaces", namespace]
        return "/".join([*parts, info.plural, *([metadata["name"]] if named else [])])

    @asynccontextmanager
    async def stream(
        self, path: str, params: Mapping[str, str] | None = None, *, silence: float | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """GET `path` as a stream of byte chunks; raise Unavailable after `silence` seconds without one (None: never).

        For logs with follow=true and for watches. Not compressed: parsing is cheaper than inflating.
        """
        timeout = httpx2.Timeout(self.http.timeout.connect, read=silence)
        headers = {"Accept": "application/json, */*", "Accept-Encoding": "identity"}
        with translated(f"GET {path}"):
            request = self.http.build_request("GET", path, params=params, timeout=timeout, headers=headers)
            response = await self.http.send(request, stream=True)
            try:
                if response.is_error:
                    raise error_of(parse_status(response.status_code, await response.aread()), f"GET {path}")
                yield response.aiter_raw()
            finally:
                await response.aclose()

    async def groups(self) -> frozenset[str]:
        """Return the API group versions the cluster serves, such as "policy/v1"."""
        found = await self.fetch(_Groups, "/apis")
        return frozenset(version.group_version for group in found.groups for version in group.versions)

    async def version(self) -> tuple[int, int]:
        """Return the API server's version, for example (1, 20)."""
        found = await self.fetch(_Version, "/version")
        return int(found.major.rstrip("+")), int(found.minor.rstrip("+"))

    async def ready(self, within: float = 3.0) -> bool:
        """Return whether the API server says it is ready, `within` seconds."""
        try:
            async with asyncio.timeout(within):
                await self.request("GET", "/readyz")
        except (KubeError, TimeoutError):
            return False
        return True


class _GroupVersion(msgspec.Struct, rename="camel"):
    group_version: str


class _Group(msgspec.Struct):
    versions: list[_GroupVersion] = []


class _Groups(msgspec.Struct):
    groups: list[_Group] = []


class _Version(msgspec.Struct):
    major: str
    minor: str

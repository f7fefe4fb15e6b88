"""Makes a team's namespace with its fences, once for each team and again when something of it is gone or edited."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from seaway.engine.base import EngineError, EngineUnavailable
from seaway.engine.kubernetes.manifests import Object
from seaway.engine.kubernetes.objects import Plain
from seaway.engine.kubernetes.reasons import parse_quantity
from seaway.engine.kubernetes.settings import KubernetesEngineSettings
from seaway.engine.kubernetes.teams import judge_place, make_fences, make_namespace, make_pull_secret
from seaway.kube.client import KubeClient
from seaway.kube.errors import NotFound


class Preparer:
    """Prepares namespaces; `ensure` costs nothing for a team that is prepared."""

    def __init__(self, client: KubeClient, settings: KubernetesEngineSettings) -> None:
        self._client, self._settings = client, settings
        self._made: set[str] = set()
        self._locks: dict[str, asyncio.Lock] = {}

    async def ensure(self, team: str) -> None:
        """Return once the team's namespace is whole; EngineError if another one has its name."""
        if team in self._made:
            return
        async with self._locks.setdefault(team, asyncio.Lock()):
            if team not in self._made:
                await self._make(team)
                self._made.add(team)

    async def judge(self, team: str) -> str:
        """Say in one sentence why the team cannot have its namespace; "" if it can."""
        found = await self._find(team)
        return judge_place(team, self._settings, None if found is None else found.metadata.labels)

    def forget(self, team: str) -> None:
        """Something of the team's is not as it was: look again at the next `ensure`."""
        self._made.discard(team)

    async def renew_pull_secrets(self) -> None:
        """Copy the image pull Secret to every team again: somebody may have changed it."""
        for team in tuple(self._made):
            await self._copy_pull_secret(team)

    async def _make(self, team: str) -> None:
        manifest = make_namespace(team, self._settings)
        found = await self._find(team)
        if why := judge_place(team, self._settings, None if found is None else found.metadata.labels):
            raise EngineError(why)
        if found is not None and found.metadata.deletion_timestamp is not None:
            name = found.metadata.name
            raise EngineUnavailable(f"namespace {name} is being deleted; it is made again once it is gone")
        if found is None or not contains(found.metadata.labels, manifest["metadata"]["labels"]):
            await self._client.apply(manifest)
        fences = make_fences(team, self._settings)
        await asyncio.gather(*(self._client.apply(fence) for fence in fences))
        await self._copy_pull_secret(team)

    async def _find(self, team: str) -> Plain | None:
        try:
            return await self._client.fetch(Plain, self._client.path_of(make_namespace(team, self._settings)))
        except NotFound:
            return None

    async def _copy_pull_secret(self, team: str) -> None:
        if not self._settings.pull_secret:
            return
        namespace, _, name = self._settings.pull_secret.partition("/")
        try:
            found = await self._client.fetch(Plain, f"/api/v1/namespaces/{namespace}/secrets/{name}")
        except NotFound:
            raise EngineError(
                f"the image pull Secret {self._settings.pull_secret} is not there: make it with "
                f"`kubectl -n {namespace} create secret docker-registry {name} ...`"
            ) from None
        await self._client.apply(make_pull_secret(team, self._settings, found.data, found.type))


def is_whole(live: Plain, wanted: Object) -> bool:
    """Whether a live object says all that the wanted one does."""
    found: dict[str, Any] = {
        "spec": msgspec.to_builtins(live.spec),
        "automountServiceAccountToken": live.automount_service_account_token,
        "type": live.type,
        "data": live.data,
    }
    content = {key: value for key, value in wanted.items() if key not in ("apiVersion", "kind", "metadata")}
    return contains(found, content) and contains(live.metadata.labels, wanted["metadata"]["labels"])


def contains(live: Any, wanted: Any) -> bool:
    """Whether everything wanted is there; what the API server adds by default is no difference."""
    if wanted in ({}, []):
        return not live
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(contains(live.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(live, list | tuple) and len(live) == len(wanted) and all(map(contains, live, wanted))
    if isinstance(wanted, str) and isinstance(live, str) and live != wanted:
        return parse_quantity(live) == parse_quantity(wanted) > 0  # 1000 comes back as 1k
    return bool(live == wanted)

"""The config of releases: a Secret each, owned by the release, never in the release itself.

The Secret is made first and cannot be changed, then the release that names it: a release never lacks its config.
One that no release came to name (the writer died in between) is removed by `sweep`.
"""

from __future__ import annotations

import base64
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from seaway.kube.client import KubeClient
from seaway.kube.errors import NotFound
from seaway.kube.kinds import API_VERSION, GROUP
from seaway.kube.listing import Resource as Listed
from seaway.kube.listing import list_objects
from seaway.kube.structs import Metadata, Object
from seaway.model import Release
from seaway.store.kubernetes.documents import CONFIG_SECRET, Resource, encode_metadata, encode_name

Config = dict[str, str]

KEY = "config.json"
ROLE, HOLDS = f"{GROUP}/holds", "release-config"  # label: what the Secret is for
REMEMBERED = 2000  # configs kept in memory; they never change
ORPHANED = timedelta(hours=1)  # a Secret without a release for so long belongs to none


class _Secret(Object, frozen=True, rename="camel"):
    metadata: Metadata
    data: dict[str, str] = {}


class Configs:
    """Reads and writes the config of releases in one namespace."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self._client = client
        self._path = f"/api/v1/namespaces/{namespace}/secrets"
        self._namespace = namespace
        self._known: OrderedDict[str, dict[str, str]] = OrderedDict()

    async def write(self, release: Release) -> str:
        """Make the Secret of a release, with the release's labels, and return its name."""
        name = f"{encode_name(release.name)}-config-{secrets.token_hex(4)}"
        labels = encode_metadata(release, {})["labels"]
        manifest = {
            "apiVersion": "v1", "kind": "Secret", "type": f"{GROUP}/release-config", "immutable": True,
            "metadata": {"name": name, "namespace": self._namespace, "labels": labels | {ROLE: HOLDS}},
            "data": {KEY: base64.b64encode(msgspec.json.encode(release.spec.config)).decode()},
        }  # fmt: skip
        await self._client.create(manifest)
        self._remember(name, release.spec.config)
        return name

    async def own(self, name: str, release: Resource) -> None:
        """Make the release the owner, so that the cluster removes the Secret with it."""
        owner = {"apiVersion": API_VERSION, "kind": "Release", "name": release.metadata.name,
                 "uid": release.metadata.uid, "controller": True}  # fmt: skip
        body = {"metadata": {"ownerReferences": [owner]}}
        await self._client.request(
            "PATCH", f"{self._path}/{name}", body=body, content_type="application/merge-patch+json"
        )

    async def remove(self, name: str) -> None:
        """Remove the Secret, if it is there."""
        self._known.pop(name, None)
        try:
            await self._client.delete(f"{self._path}/{name}")
        except NotFound:
            return

    async def read(self, release: Resource) -> Config:
        """Return the config of a release; raise NotFound if its Secret is gone."""
        name = release.spec.get(CONFIG_SECRET)
        if not name:
            return {}
        if name not in self._known:
            self._remember(name, _config(await self._client.fetch(_Secret, f"{self._path}/{name}")))
        return self._known[name]

    async def read_many(self, releases: Sequence[Resource], selector: str) -> dict[str, Config]:
        """Return configs by the Secret's name, of those that are there; `selector` chose the releases."""
        names = {release.spec[CONFIG_SECRET] for release in releases if release.spec.get(CONFIG_SECRET)}
        found = {name: self._known[name] for name in names if name in self._known}
        if len(names) > len(found):
            for secret in await self._list(selector):
                if secret.metadata.name in names:
                    found[secret.metadata.name] = _config(secret)
                    self._remember(secret.metadata.name, found[secret.metadata.name])
        return found

    async def sweep(self, releases: Sequence[Resource], now: datetime) -> int:
        """Remove Secrets that none of all the `releases` names and that were old `now`; return how many.

        A release whose writer died before it could own its Secret comes to own it.
        """
        named = {release.spec.get(CONFIG_SECRET): release for release in releases}
        before = now - ORPHANED
        removed = 0
        for secret in await self._list(""):
            name = secret.metadata.name
            if name not in named and datetime.fromisoformat(secret.metadata.creation_timestamp) < before:
                await self.remove(name)
                removed += 1
            elif name in named and not secret.metadata.owner_references:
                await self.own(name, named[name])
        return removed

    async def _list(self, selector: str) -> tuple[_Secret, ...]:
        selectors = {"labelSelector": ",".join(part for part in (selector, f"{ROLE}={HOLDS}") if part)}
        return (await list_objects(self._client, Listed(self._path, _Secret, selectors))).items

    def _remember(self, name: str, config: Config) -> None:
        self._known[name] = config
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)


def _config(secret: _Secret) -> Config:
    return msgspec.json.decode(base64.b64decode(secret.data.get(KEY, "e30=")), type=dict[str, str])

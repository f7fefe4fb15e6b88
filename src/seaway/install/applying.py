"""Objects into the cluster by server-side apply, and what became of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec
from lightkube.types import PatchType

from seaway.install.manifests import Object
from seaway.kube.client import MANAGER, KubeClient
from seaway.kube.errors import NotFound

Action = Literal["created", "changed", "unchanged", "removed", "kept"]

_SERVERS_OWN = frozenset({"managedFields", "resourceVersion", "generation", "selfLink"})


@dataclass(frozen=True)
class Change:
    """What was done to one object (or, in a dry run, would be)."""

    kind: str
    name: str
    action: Action
    why: str = ""
    namespace: str = ""  # "" for objects of the whole cluster

    def document(self) -> dict[str, str]:
        """Return the change for `-o json`."""
        more = {"why": self.why, "namespace": self.namespace}
        shown = {"kind": self.kind, "name": self.name, "action": self.action}
        return shown | {key: value for key, value in more.items() if value}


async def find(client: KubeClient, manifest: Object) -> Object | None:
    """Return the object as it is in the cluster, if it is there."""
    return await read(client, client.path_of(manifest))


async def read(client: KubeClient, path: str) -> Object | None:
    """Return the object at a path, if it is there."""
    try:
        found: Object = msgspec.json.decode(await client.request("GET", path))
    except NotFound:
        return None
    return found


async def apply(client: KubeClient, manifest: Object, *, dry_run: bool = False) -> Change:
    """Make the object as the manifest says; the same twice changes nothing. A dry run only asks what would be.

    What somebody else changed of it by hand is put back.
    """
    change = Change(
        manifest["kind"], manifest["metadata"]["name"], "created", namespace=manifest["metadata"].get("namespace", "")
    )
    before = await find(client, manifest)
    if dry_run and before is None:
        return change
    params = {"fieldManager": MANAGER, "force": "true"} | ({"dryRun": "All"} if dry_run else {})
    answer = await client.request(
        "PATCH", client.path_of(manifest), body=manifest, params=params, content_type=PatchType.APPLY.value
    )
    if before is None:
        return change
    same = strip(before) == strip(msgspec.json.decode(answer))
    return replace(change, action="unchanged" if same else "changed")


def strip(stored: Mapping[str, Any]) -> Object:
    """Return an object without its status and what the API server writes into it by itself."""
    kept = {key: value for key, value in stored.items() if key != "status"}
    return kept | {"metadata": {key: value for key, value in stored["metadata"].items() if key not in _SERVERS_OWN}}

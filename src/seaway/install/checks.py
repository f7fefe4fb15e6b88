"""Whether a cluster can take Seaway: asked before anything is changed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from seaway.install.errors import NOT_ALLOWED, InstallError
from seaway.install.manifests import Object
from seaway.install.rights import CONTROL_RULES, OWN_RULES
from seaway.kube.client import KubeClient

OLDEST = (1, 20)
NEEDED = ("apiextensions.k8s.io/v1", "apps/v1", "batch/v1", "coordination.k8s.io/v1", "networking.k8s.io/v1",
          "rbac.authorization.k8s.io/v1")  # fmt: skip
BUDGETS = ("policy/v1", "policy/v1beta1")
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
AT_ONCE = 10  # reviews asked at the same time


@dataclass(frozen=True)
class Access:
    """Something that a user may or may not do; `namespace` "": in all of them."""

    verb: str
    group: str
    resource: str
    namespace: str = ""

    def __str__(self) -> str:
        where = f" in namespace {self.namespace}" if self.namespace else ""
        return f"{self.verb} {self.resource}{f'.{self.group}' if self.group else ''}{where}"


@dataclass(frozen=True)
class ClusterFacts:
    """What a cluster is: version such as (1, 29), API versions such as "policy/v1"."""

    version: tuple[int, int]
    groups: frozenset[str]

    @property
    def budgets(self) -> str:
        """Return the API version of PodDisruptionBudget, "" if there is none."""
        return next((version for version in BUDGETS if version in self.groups), "")


async def look_at_cluster(client: KubeClient) -> ClusterFacts:
    """Return what the cluster is; InstallError if Seaway cannot be put into it."""
    facts = ClusterFacts(await client.version(), await client.groups())
    if facts.version < OLDEST:
        is_now, oldest = ".".join(map(str, facts.version)), ".".join(map(str, OLDEST))
        raise InstallError(f"the cluster is Kubernetes {is_now}: Seaway needs {oldest} or newer")
    if missing := [version for version in NEEDED if version not in facts.groups]:
        hint = "`kubectl api-versions` shows what the cluster serves"
        raise InstallError(f"the cluster does not serve {', '.join(missing)}", hint=hint)
    return facts


def list_needed(objects: Iterable[Object], verbs: Sequence[str]) -> tuple[Access, ...]:
    """Return the rights that `verbs` on these objects take."""
    found: dict[Access, None] = {}
    for manifest in objects:
        group = manifest["apiVersion"].rpartition("/")[0]
        resource = KubeClient.path_of(manifest, named=False).rpartition("/")[2]
        for verb in verbs:
            found[Access(verb, group, resource, manifest["metadata"].get("namespace", ""))] = None
    return tuple(found)


def list_granted() -> tuple[Access, ...]:
    """Return every right that the control plane is given: nobody may give what he has not, unless he may escalate."""
    return tuple(
        Access(verb, group, resource)
        for group, resources, verbs in (*CONTROL_RULES, *OWN_RULES)
        for resource in resources
        for verb in verbs
    )


async def check_rights(client: KubeClient, needed: Sequence[Access]) -> None:
    """Raise InstallError naming what this user may not do."""
    escalate = Access("escalate", "rbac.authorization.k8s.io", "clusterroles")
    missing = await _find_missing(client, needed)
    if not missing and await _find_missing(client, [escalate]):
        missing = await _find_missing(client, list_granted())
    if missing:
        shown = ", ".join(map(str, missing[:4])) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
        hint = "use the kubeconfig of an administrator of the cluster (--kubeconfig, --context)"
        raise InstallError(f"this user of the cluster may not {shown}", hint=hint, exit_code=NOT_ALLOWED)


async def _find_missing(client: KubeClient, asked: Sequence[Access]) -> list[Access]:
    turn = asyncio.Semaphore(AT_ONCE)

    async def ask(access: Access) -> bool:
        name, _, subresource = access.resource.partition("/")
        attributes = {"verb": access.verb, "group": access.group, "resource": name, "subresource": subresource,
                      "namespace": access.namespace}  # fmt: skip
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": attributes}}  # fmt: skip
        async with turn:
            answer: Any = msgspec.json.decode(await client.request("POST", REVIEWS, body=body))
        return bool(answer["status"].get("allowed"))

    allowed = await asyncio.gather(*map(ask, asked))
    return [access for access, may in zip(asked, allowed, strict=True) if not may]

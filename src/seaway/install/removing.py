"""`seaway uninstall`: Seaway's own parts go; apps are kept as they run, or go first.

With `remove` the control plane takes its apps down while it lives. If it is dead or gets nowhere, they are taken down
without it: the finalizers that wait for it are lifted, so that nothing hangs for ever. What runs out of time is told,
and running it again goes on from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from seaway.install.applying import Change, read
from seaway.install.checks import check_rights, list_needed
from seaway.install.errors import NOT_FOUND, TIMED_OUT, InstallError, explained
from seaway.install.installing import Teller
from seaway.install.manifests import FOUND, ROUTER, Object, make_manifests
from seaway.install.secrets import CA, OPAQUE, list_parts, make_secret_manifest
from seaway.install.settings import PULL_SECRET, InstallSettings
from seaway.install.waiting import LOOK_EVERY, list_pods
from seaway.kube.client import KubeClient
from seaway.kube.crds import make_crds
from seaway.kube.errors import NotFound, Unavailable
from seaway.kube.kinds import API_VERSION, FINALIZER, KUBE_KINDS
from seaway.kube.names import ADMIN_TOKEN, CONTROL, TEAM_LABEL, TEAM_PREFIX
from seaway.model import App, Token

Apps = Literal["keep", "remove"]

ORDER = ("Deployment", "PodDisruptionBudget", "Service", "NetworkPolicy", "RoleBinding", "Role",
         "ClusterRoleBinding", "ClusterRole", "ServiceAccount", "ConfigMap")  # fmt: skip
KEPT = frozenset({"Namespace", "ConfigMap"})
"""What stays with the apps: the next installation goes on with it."""


@dataclass(frozen=True)
class Removal:
    """What was asked for. `within` are seconds for each of the steps."""

    namespace: str
    apps: Apps
    kubeconfig: Path | None = None
    context: str | None = None
    within: float = 300.0


async def uninstall(removal: Removal, teller: Teller) -> tuple[Change, ...]:
    """Take Seaway out of the cluster; raise InstallError. Returns what went and what stays."""
    with explained():
        client = KubeClient.open(removal.kubeconfig, removal.context)
        try:
            return await _Uninstallation(client, removal, teller).run()
        finally:
            await client.close()


class _Uninstallation:
    def __init__(self, client: KubeClient, removal: Removal, teller: Teller) -> None:
        self._client = client
        self._removal = removal
        self._namespace = removal.namespace
        self._teller = teller
        self._changes: list[Change] = []
        settings = InstallSettings(namespace=self._namespace, image="none", pull_secret=True)
        self._objects = make_manifests(settings, disruption_budgets="policy/v1")

    async def run(self) -> tuple[Change, ...]:
        groups = await self._client.groups()
        if "policy/v1" not in groups:
            settings = InstallSettings(namespace=self._namespace, image="none")
            self._objects = make_manifests(settings, disruption_budgets="policy/v1beta1")
        namespace = await read(self._client, f"/api/v1/namespaces/{self._namespace}")
        if namespace is None or (not await self._is_here() and not await self._list_apps()):
            hint = "name the namespace that it was put into with --namespace"
            raise InstallError(f"Seaway is not in namespace {self._namespace}", hint=hint, exit_code=NOT_FOUND)
        await check_rights(self._client, list_needed((*make_crds(), *self._objects), ("delete",)))
        if self._removal.apps == "keep":
            await self._remove_parts()
            await self._tell_kept()
        else:
            await self._take_apps_down()
            await self._remove_parts()
            await self._lift_finalizers()
            await self._remove_teams()
            await self._remove_kinds()
            await self._remove_rest(namespace)
        return tuple(self._changes)

    async def _is_here(self) -> bool:
        paths = (self._client.path_of(manifest) for manifest in self._objects if manifest["kind"] in ORDER)
        return any([await read(self._client, path) for path in paths])

    async def _list_apps(self) -> list[Object]:
        return await self._list(KUBE_KINDS[App].path(self._namespace))

    async def _list(self, path: str, **params: str) -> list[Object]:
        try:
            found: Any = msgspec.json.decode(await self._client.request("GET", path, params=params))
        except NotFound:  # the kind is not there any more
            return []
        items: list[Object] = found["items"]
        return items

    async def _take_apps_down(self) -> None:
        """Delete every app and wait while the control plane, if it lives, takes down what it has.

        The time begins anew with each app that goes: some take long to stop.
        """
        for app in await self._list_apps():
            await self._delete(f"{KUBE_KINDS[App].path(self._namespace)}/{app['metadata']['name']}")
        loop = asyncio.get_running_loop()
        left, since = await self._list_apps(), loop.time()
        while left and await self._control_lives() and loop.time() < since + self._removal.within:
            self._teller.phase("apps", f"{len(left)} left: {_name_some(left)}")
            await asyncio.sleep(LOOK_EVERY)
            before, left = left, await self._list_apps()
            if len(left) < len(before):
                since = loop.time()
        if left:
            self._teller.say(f"the control plane takes no app down: {_name_some(left)} go without it")

    async def _control_lives(self) -> bool:
        deployment = await read(self._client, f"/apis/apps/v1/namespaces/{self._namespace}/deployments/{CONTROL}")
        return bool((deployment or {}).get("status", {}).get("availableReplicas"))

    async def _remove_parts(self) -> None:
        """Delete what is Seaway's own, the control plane first: it would put back what goes."""
        kept = KEPT if self._removal.apps == "keep" else {"Namespace"}
        for kind in ORDER:
            for manifest in self._objects:
                if manifest["kind"] == kind and kind not in kept:
                    await self._remove(manifest)
            if kind == "Deployment":
                for part in (CONTROL, ROUTER):
                    await self._wait(f"pods of {part}", lambda part=part: self._find_pods(part))  # type: ignore[misc]

    async def _find_pods(self, part: str) -> str:
        return _name_some(await list_pods(self._client, self._namespace, part))

    async def _tell_kept(self) -> None:
        apps = await self._list_apps()
        for crd in make_crds():
            self._changes.append(Change(crd["kind"], crd["metadata"]["name"], "kept"))
        self._note(Change("Namespace", self._namespace, "kept", "it holds the apps' documents and Seaway's Secrets"))
        for app in apps:
            self._note(Change("App", app["metadata"]["name"], "kept", "it runs on; no router leads to it"))

    async def _lift_finalizers(self) -> None:
        """Let go of apps whose control plane is gone."""
        for app in await self._list_apps():
            path = f"{KUBE_KINDS[App].path(self._namespace)}/{app['metadata']['name']}"
            others = [name for name in app["metadata"].get("finalizers", ()) if name != FINALIZER]
            body = {"metadata": {"finalizers": others or None}}
            try:
                await self._client.request("PATCH", path, body=body, content_type="application/merge-patch+json")
            except NotFound:
                continue
            self._note(Change("App", app["metadata"]["name"], "removed", "without its control plane"))

    async def _remove_teams(self) -> None:
        """Delete the namespaces that Seaway made for teams, with all that is in them."""
        teams = [team["metadata"]["name"] for team in await self._list("/api/v1/namespaces", labelSelector=TEAM_LABEL)]
        teams = [name for name in teams if name.startswith(TEAM_PREFIX) and name != self._namespace]
        for name in teams:
            if await self._delete(f"/api/v1/namespaces/{name}"):
                self._note(Change("Namespace", name, "removed"))
        for name in teams:
            await self._wait(f"namespace {name}", lambda name=name: self._find_namespace(name))  # type: ignore[misc]

    async def _remove_kinds(self) -> None:
        crds = make_crds()
        if others := await self._find_others():
            self._note(Change("CustomResourceDefinition", "*.seaway.dev", "kept", f"there are documents in {others}"))
            return
        for crd in crds:
            await self._remove(crd)
        paths = [self._client.path_of(crd) for crd in crds]

        async def find_left() -> str:
            return ", ".join([path.rpartition("/")[2] for path in paths if await read(self._client, path)])

        await self._wait("kinds", find_left)

    async def _find_others(self) -> str:
        """Return the other namespaces that hold documents: deleting a kind would delete them too."""
        found = [
            item for kind in (App, Token) for item in await self._list(f"/apis/{API_VERSION}/{KUBE_KINDS[kind].plural}")
        ]
        return ", ".join(sorted({item["metadata"]["namespace"] for item in found} - {self._namespace}))

    async def _remove_rest(self, namespace: Object) -> None:
        """Delete Seaway's Secrets, and its namespace unless it was there before."""
        names = (CA, *(part.secret for part in list_parts(self._namespace)), ADMIN_TOKEN, PULL_SECRET)
        for name in names:
            await self._remove(make_secret_manifest(self._namespace, name, OPAQUE, {}))
        if FOUND in namespace["metadata"].get("annotations", {}):
            self._note(Change("Namespace", self._namespace, "kept", "it was there before Seaway"))
            return
        if await self._delete(f"/api/v1/namespaces/{self._namespace}"):
            self._note(Change("Namespace", self._namespace, "removed"))
        await self._wait(f"namespace {self._namespace}", lambda: self._find_namespace(self._namespace))

    async def _find_namespace(self, name: str) -> str:
        found = await read(self._client, f"/api/v1/namespaces/{name}")
        if found is None:
            return ""
        messages = [c["message"] for c in found["status"].get("conditions", ()) if c["status"] == "True"]
        return "; ".join(messages) or "what is in it goes"

    async def _remove(self, manifest: Object) -> None:
        if await self._delete(self._client.path_of(manifest)):
            self._note(Change(manifest["kind"], manifest["metadata"]["name"], "removed"))

    async def _delete(self, path: str) -> bool:
        """Delete an object; return whether it was there."""
        try:
            await self._client.delete(path)
        except NotFound:
            return False
        return True

    async def _wait(self, what: str, find_left: Callable[[], Awaitable[str]]) -> None:
        """Wait until nothing is left; InstallError with what is."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._removal.within
        while True:
            try:
                left = await find_left()
            except Unavailable as error:
                left = str(error)
            if not left:
                return
            self._teller.phase(what, left)
            if loop.time() >= deadline:
                message = f"{what}: not gone after {self._removal.within:.0f} s: {left}"
                raise InstallError(message, hint="run it again: it goes on from here", exit_code=TIMED_OUT)
            await asyncio.sleep(LOOK_EVERY)

    def _note(self, change: Change) -> None:
        self._changes.append(change)
        self._teller.say(f"{change.kind} {change.name}: {change.action}{f', {change.why}' if change.why else ''}")


def _name_some(objects: Iterable[Object], most: int = 5) -> str:
    """Return the names of objects, the first few of many."""
    names = sorted(found["metadata"]["name"] for found in objects)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

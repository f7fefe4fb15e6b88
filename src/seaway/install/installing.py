"""`seaway install`: looks first, then makes the cluster hold Seaway; the same twice changes nothing.

The order of an upgrade: kinds, access, Secrets and Services, then the control plane; when all of it is new, the
routers, one after the other. Nothing that serves is taken away before its successor is ready.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from seaway import __version__
from seaway.builder.own import OWN_NAME
from seaway.install.applying import Change, apply, find, read
from seaway.install.checks import ClusterFacts, check_rights, list_needed, look_at_cluster
from seaway.install.errors import USAGE, InstallError, explained
from seaway.install.manifests import FOUND, ROUTER, SETTINGS, SETTINGS_FILE, Object, make_manifests
from seaway.install.secrets import (
    OPAQUE,
    ensure_admin_token,
    make_secret_manifest,
    mask,
    plan_certificates,
    read_admin_token,
    read_registry_login,
    utc_now,
)
from seaway.install.settings import InstallSettings
from seaway.install.waiting import wait_rolled_out
from seaway.kube.client import KubeClient
from seaway.kube.crds import make_crds
from seaway.kube.installing import install_crds
from seaway.kube.names import ADMIN_TOKEN, CONTROL, NAMESPACE, TEAM_LABEL
from seaway.model.problems import say_problem

VERSION_LABEL = "app.kubernetes.io/version"
MANAGED, INSTALLER = "app.kubernetes.io/managed-by", "seaway-install"


class Teller(Protocol):
    """Hears what is done."""

    def say(self, text: str) -> None:
        """Hear one sentence."""
        ...

    def phase(self, name: str, reason: str) -> None:
        """Hear what is waited for, and why it is not there yet."""
        ...


@dataclass(frozen=True)
class Request:
    """What was asked for. `given` are fields of InstallSettings; those left out are as in the last installation."""

    given: Mapping[str, Any]
    kubeconfig: Path | None = None
    context: str | None = None
    registry_login: Path | None = None  # a file as `docker login` writes it
    build: bool = False  # build Seaway's own image even if one is known
    dry_run: bool = False
    within: float = 300.0  # seconds for each of the parts to be ready


@dataclass(frozen=True)
class Installed:
    """What there is now. `token` is the admin's, "" if its Secret is gone; `manifests` are as they may be shown."""

    settings: InstallSettings
    changes: tuple[Change, ...]
    manifests: tuple[Object, ...] = ()
    token: str = field(default="", repr=False)

    def document(self, *, dry_run: bool) -> dict[str, Any]:
        """Return it for `-o json`."""
        return {
            "namespace": self.settings.namespace,
            "version": __version__,
            "dry_run": dry_run,
            "settings": self.settings.model_dump(),
            "objects": [change.document() for change in self.changes],
        }


class Images(Protocol):
    """Where Seaway's own image comes from; `login` is a file with the registry's credentials. InstallError."""

    async def build(self, settings: InstallSettings, login: Path | None, teller: Teller) -> str:
        """Build it, push it to the registry of the settings, return it by digest."""
        ...

    async def resolve(self, settings: InstallSettings, login: Path | None) -> str:
        """Return the image of the settings by digest."""
        ...


async def install(request: Request, teller: Teller, images: Images) -> Installed:
    """Put Seaway into the cluster, or bring what is there up to date; raise InstallError."""
    with explained():
        client = KubeClient.open(request.kubeconfig, request.context)
        try:
            return await Installation(client, request, teller, images).run()
        finally:
            await client.close()


class Installation:
    """One run of `seaway install` against one cluster."""

    def __init__(self, client: KubeClient, request: Request, teller: Teller, images: Images) -> None:
        self._client = client
        self._request = request
        self._teller = teller
        self._images = images
        self._namespace = str(request.given.get("namespace") or NAMESPACE)
        self._changes: list[Change] = []

    async def run(self) -> Installed:
        """Check, then apply."""
        any_settings = _validate({"namespace": self._namespace, "image": "none"})
        facts = await look_at_cluster(self._client)
        await self._check_rights(any_settings, facts)
        await self._check_alone()
        login = self._request.registry_login
        secrets = [read_registry_login(login, self._namespace)] if login else []
        settings, known = self._merge(*await self._read_last())
        if known and "@sha256:" not in settings.image:
            settings = _with(settings, image=await self._images.resolve(settings, login))
        found = await self._find_namespace()
        if self._request.dry_run:
            secrets += await plan_certificates(self._client, self._namespace, utc_now())
            objects = make_manifests(settings, disruption_budgets=facts.budgets, found=found)
            return await self._try_out(settings, objects, secrets)
        if not known:
            settings = _with(settings, image=await self._images.build(settings, login, self._teller))
        settings = await self._settle_port(settings, found)
        await self._apply_all(make_manifests(settings, disruption_budgets=facts.budgets, found=found), secrets)
        token = await read_admin_token(self._client, self._namespace)
        return Installed(settings, tuple(self._changes), token=token)

    async def _check_rights(self, settings: InstallSettings, facts: ClusterFacts) -> None:
        objects = make_manifests(settings, disruption_budgets=facts.budgets)
        secret = make_secret_manifest(self._namespace, ADMIN_TOKEN, OPAQUE, {})
        await check_rights(self._client, list_needed((*make_crds(), *objects, secret), ("get", "create", "patch")))

    async def _find_namespace(self) -> bool:
        """Return whether the namespace was there before Seaway."""
        namespace = await read(self._client, f"/api/v1/namespaces/{self._namespace}")
        meta = namespace["metadata"] if namespace else {}
        if meta.get("deletionTimestamp"):
            hint = "wait until it is gone, or choose another with --namespace"
            raise InstallError(f"the namespace {self._namespace} is being deleted", hint=hint)
        if team := meta.get("labels", {}).get(TEAM_LABEL):
            message = f"the namespace {self._namespace} is the place of the team {team}'s apps"
            raise InstallError(message, hint="choose another with --namespace", field="--namespace")
        ours = meta.get("labels", {}).get(MANAGED) == INSTALLER
        return namespace is not None and (not ours or FOUND in meta.get("annotations", {}))

    async def _settle_port(self, settings: InstallSettings, found: bool) -> InstallSettings:
        """Return the settings with the node port that the cluster chooses, if that is how routers are reached.

        It is kept among the settings, and stays the same from then on.
        """
        if settings.service_type != "NodePort" or settings.node_port is not None:
            return settings
        namespace, *others = make_manifests(settings, found=found)
        (service,) = (made for made in others if (made["kind"], made["metadata"]["name"]) == ("Service", ROUTER))
        for manifest in (namespace, service):
            await self._apply(manifest)
        made = await find(self._client, service)
        return _with(settings, node_port=made["spec"]["ports"][0]["nodePort"] if made else None)

    async def _read_last(self) -> tuple[InstallSettings | None, str]:
        """Return the settings of the last installation, and its version; None and "" if there was none."""
        path = f"/api/v1/namespaces/{self._namespace}/configmaps/{SETTINGS}"
        if not (found := await read(self._client, path)):
            return None, ""
        version = str(found["metadata"].get("labels", {}).get(VERSION_LABEL, ""))
        if _number(version) > _number(__version__):
            raise InstallError(
                f"the cluster has Seaway {version}, and this is {__version__}: there is no way back to an older one",
                hint=f"use the `seaway` command of version {version} or newer",
            )
        try:
            return InstallSettings.model_validate_json(found.get("data", {}).get(SETTINGS_FILE, "")), version
        except ValidationError:
            self._teller.say(f"the ConfigMap {SETTINGS} cannot be read: what is not given gets its default")
            return None, version

    def _merge(self, last: InstallSettings | None, version: str) -> tuple[InstallSettings, bool]:
        """Return the settings, and whether their image is there; it is to be built if none is given or known."""
        given = {key: value for key, value in self._request.given.items() if value is not None}
        values = (last.model_dump() if last else {}) | given | {"namespace": self._namespace}
        if self._request.registry_login:
            values["pull_secret"] = True
        known = "image" in given or (version == __version__ and last is not None and not self._request.build)
        if not values.get("registry"):
            raise InstallError(
                "where are images of apps to be kept?",
                hint="name a registry that this machine and the nodes reach: --registry HOST/PATH",
                exit_code=USAGE,
                field="--registry",
            )
        if not known:
            values["image"] = f"{values['registry']}/{OWN_NAME}:{__version__}"
        return _validate(values), known

    async def _check_alone(self) -> None:
        """Kinds and cluster roles are the whole cluster's: one installation in each cluster."""
        path = f"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/{CONTROL}"
        binding = await read(self._client, path)
        others = {subject.get("namespace") for subject in (binding or {}).get("subjects", ())} - {self._namespace}
        if others:
            where = others.pop()
            hint = f"work on that one with --namespace {where}, or remove it with `seaway uninstall`"
            raise InstallError(f"Seaway is in this cluster already, in namespace {where}", hint=hint)

    async def _try_out(
        self, settings: InstallSettings, objects: tuple[Object, ...], secrets: list[Object]
    ) -> Installed:
        there = await read_admin_token(self._client, self._namespace)
        token = make_secret_manifest(self._namespace, ADMIN_TOKEN, OPAQUE, {"token": there.encode()})
        every = (*make_crds(), objects[0], *secrets, token, *objects[1:])
        changes = [await apply(self._client, manifest, dry_run=True) for manifest in every]
        shown = tuple(mask(manifest) if manifest["kind"] == "Secret" else manifest for manifest in every)
        return Installed(settings, tuple(changes), shown)

    async def _apply_all(self, objects: tuple[Object, ...], secrets: list[Object]) -> None:
        for crd in make_crds():
            await self._apply(crd)
        await install_crds(self._client)  # waits until they are served
        parts = {manifest["metadata"]["name"]: manifest for manifest in objects if manifest["kind"] == "Deployment"}
        namespace, *others = (manifest for manifest in objects if manifest["kind"] != "Deployment")
        await self._apply(namespace)
        for secret in (*secrets, *await plan_certificates(self._client, self._namespace, utc_now())):
            await self._apply(secret)
        self._note(await ensure_admin_token(self._client, self._namespace, utc_now()))
        for manifest in others:
            await self._apply(manifest)
        for name in (CONTROL, ROUTER):
            await self._apply(parts[name])
            await wait_rolled_out(self._client, self._namespace, name, self._request.within, self._teller.phase)

    async def _apply(self, manifest: Object) -> None:
        self._note(await apply(self._client, manifest))

    def _note(self, change: Change) -> None:
        told = {(done.kind, done.namespace, done.name) for done in self._changes}
        if change.action == "unchanged" and (change.kind, change.namespace, change.name) in told:
            return
        self._changes.append(change)
        said = "nothing to change" if change.action == "unchanged" else change.action
        self._teller.say(f"{change.kind} {change.name}: {said}{f', {change.why}' if change.why else ''}")


def _with(settings: InstallSettings, **changes: Any) -> InstallSettings:
    return _validate(settings.model_dump() | changes)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


def _validate(values: Mapping[str, Any]) -> InstallSettings:
    """Return the settings, or raise InstallError naming the option."""
    try:
        return InstallSettings.model_validate(values)
    except ValidationError as error:
        problems = [_explain_option(problem, values) for problem in error.errors()]
        field = problems[0][0] if len(problems) == 1 else ""
        message = "\n".join(f"{option}: {told}" for option, told in problems)
        raise InstallError(message, exit_code=USAGE, field=field) from error


def _explain_option(problem: ErrorDetails, values: Mapping[str, Any]) -> tuple[str, str]:
    """Return the option that is wrong, and what is wrong with it."""
    name = str(problem["loc"][0])
    typed = values.get(name) if len(problem["loc"]) == 1 else problem["input"]  # one of several
    message = say_problem(problem, typed)
    return "--" + name.replace("_", "-"), message if str(typed) in message else f"{typed!r}: {message}"

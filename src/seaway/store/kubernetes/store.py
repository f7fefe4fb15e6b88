"""Documents in a Kubernetes cluster; the contract is seaway.store.base.Store.

Every read is of etcd's present, every write a compare-and-swap on resourceVersion. A change of `spec` or labels
goes to the resource, a change of `status` to its status subresource: what users may write and what the control loop
may write can be told apart by RBAC. A change of both is two writes, the spec's first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
import structlog

from seaway.kube import errors
from seaway.kube.client import KubeClient, Manifest
from seaway.kube.kinds import FINALIZER, KUBE_KINDS
from seaway.kube.listing import Resource as Collection
from seaway.kube.listing import list_objects
from seaway.model import App, Document, Release
from seaway.store.base import (
    AlreadyExists,
    Change,
    Choose,
    Conflict,
    Expired,
    Listing,
    NotFound,
    StoreError,
    Unavailable,
    Unreadable,
    Written,
)
from seaway.store.kubernetes.configs import Configs
from seaway.store.kubernetes.documents import (
    CONDITIONS,
    CONFIG_SECRET,
    Resource,
    Unfit,
    decode,
    decode_labels,
    decode_name,
    encode,
    encode_metadata,
    encode_name,
    encode_selector,
    encode_spec,
    encode_status,
    is_accepted,
    split_routes,
)
from seaway.store.kubernetes.following import Follower

D = TypeVar("D", bound=Document)

SLICE = 200  # documents validated at once, at most 5 ms; then others run
DELETIONS = 10  # attempts of an unconditional deletion while others write

log = structlog.get_logger(__name__)

_resource = msgspec.json.Decoder(Resource)


class LostConfig(StoreError):
    """Somebody deleted the Secret of a release."""


class KubernetesStore:
    """Versioned documents as custom resources in one namespace; the CRDs must be there (seaway.kube.crds)."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        """Use a client, which stays its owner's; nothing is sent yet."""
        self.client = client
        self.namespace = namespace
        self.configs = Configs(client, namespace)
        self._followers: set[Follower] = set()
        self._closed = False

    async def get(self, kind: type[D], name: str) -> D:
        """Return the document or raise NotFound."""
        with self._translated(kind, name):
            return await self._decode(kind, (await self._read(kind, name))[1])

    async def list(self, kind: type[D], labels: Mapping[str, str] | None = None) -> Listing[D]:
        """Return all documents of the kind that carry the labels, by name, and the store's revision.

        What somebody wrote into the cluster that does not fit the model is left out, and logged.
        """
        selector = encode_selector(dict(labels or {}))
        with self._translated(kind):
            listed = await list_objects(self.client, self.collection(kind, selector))
            configs = await self.configs.read_many(listed.items, selector) if kind is Release else {}
            documents: list[D] = []
            unreadable: list[Unreadable] = []
            for number, resource in enumerate(listed.items):
                if number % SLICE == SLICE - 1:
                    await asyncio.sleep(0)
                if not is_accepted(kind, resource):
                    continue
                try:
                    documents.append(await self._decode(kind, resource, configs))
                except Unfit as error:
                    log.warning("left out of a list", error=str(error))
                    unreadable.append(Unreadable(kind.kind, decode_name(resource.metadata), str(error)))
                except LostConfig as error:  # a release deleted since it was listed takes its Secret with it
                    if await self._is_there(kind, resource):
                        if selector:
                            raise
                        log.error("left out of a list", error=str(error))  # one app's loss stops no other
        documents.sort(key=lambda document: document.name)
        return Listing(int(listed.revision), tuple(documents), tuple(unreadable))

    async def create(self, document: D) -> D:
        """Store a new document; set uid, revision and times; or raise AlreadyExists."""
        kind = KUBE_KINDS[type(document)]
        with self._translated(type(document), document.name):
            body = encode(document, self.namespace)
            secret = ""
            if isinstance(document, Release) and document.spec.config:
                secret = body["spec"][CONFIG_SECRET] = await self.configs.write(document)
            try:
                answer = await self.client.request("POST", kind.path(self.namespace), body=body)
            except (errors.AlreadyExists, errors.Invalid, errors.Denied, errors.NotFound) as error:
                if secret:
                    await self.configs.remove(secret)
                if isinstance(error, errors.NotFound):
                    raise _missing(kind.plural, self.namespace, error) from error
                raise
            stored = _resource.decode(answer)
            if secret:
                await self.configs.own(secret, stored)
            status = encode_status(document)
            if kind.has_status and status != encode_status(decode(type(document), stored)):
                stored = await self._write_status(type(document), msgspec.json.decode(answer), status)
            return await self._decode(type(document), stored)

    async def update(self, document: D) -> D:
        """Replace the document if it still has the revision of `document.meta`; else Conflict (or NotFound)."""
        kind = type(document)
        with self._translated(kind, document.name):
            raw, resource = await self._read(kind, document.name)
            stored = await self._decode(kind, resource)
            if stored.meta.revision != document.meta.revision:
                raise _conflict(stored, document.meta.revision)
            metadata, spec = encode_metadata(document, raw["metadata"]), encode_spec(document)
            old_secret = await self._carry_config(document, stored, resource, spec)
            if document.meta.labels != stored.meta.labels or spec != encode_spec(stored) | _config_of(resource):
                if kind is App:
                    spec["routes"] = spec["routes"] + split_routes(resource)[1]  # what was not accepted stays written
                raw = raw | {"metadata": metadata} | ({"spec": spec} if "spec" in kind.model_fields else {})
                resource = await self._replace(kind, raw)
                raw["metadata"] = raw["metadata"] | {"resourceVersion": resource.metadata.resource_version}
            if old_secret:
                await self.configs.own(spec[CONFIG_SECRET], resource)
                await self.configs.remove(old_secret)
            status = encode_status(document)
            if status != encode_status(stored):
                resource = await self._write_status(kind, raw, status)
            return await self._decode(kind, resource)

    async def delete(self, kind: type[Document], name: str, revision: int | None = None) -> None:
        """Delete; with `revision` only if unchanged since (Conflict otherwise); NotFound if it is not there."""
        with self._translated(kind, name):
            for _ in range(DELETIONS):
                try:
                    return await self._delete(kind, name, revision)
                except errors.Conflict:
                    if revision is not None:
                        raise
            return await self._delete(kind, name, revision)

    async def trim(self, kind: type[Document], choose: Choose) -> int:
        """Delete those of all documents of the kind that `choose` returns; return how many went."""
        with self._translated(kind):
            listed = await list_objects(self.client, self.collection(kind))
            metas = {decode_name(resource.metadata): resource.metadata for resource in listed.items}
            gone = 0
            for written in choose([
                Written(name, int(meta.resource_version), decode_labels(meta)) for name, meta in metas.items()
            ]):  # fmt: skip
                meta = metas[written.name]
                path = f"{KUBE_KINDS[kind].path(self.namespace)}/{meta.name}"
                try:
                    await self.client.delete(path, uid=meta.uid, resource_version=meta.resource_version)
                except (errors.NotFound, errors.Conflict):
                    continue  # another replica was quicker
                gone += 1
            return gone

    async def watch(self, kinds: tuple[type[Document], ...], since: int) -> AsyncGenerator[Change, None]:
        """Yield every change after revision `since` until the store is closed; raise Expired if it is too old.

        Changes of one kind come in order. Kubernetes has no order between kinds: what arrives within some
        milliseconds is put in order. Outages of the API server are waited out. A put of which only Kubernetes'
        own metadata changed is left out. Of a deleted document, `revision` is that of the deletion.
        """
        self._check_open()
        with self._translated(kinds[0]):
            await self._check_since(kinds[0], since)
        follower = Follower(self, kinds, since)
        self._followers.add(follower)
        try:
            async for change in follower.run():
                yield change
        except errors.Gone as error:
            raise Expired(f"changes after revision {since} are not all there any more: list again ({error})") from error
        except errors.KubeError as error:
            raise _translate(error) from error
        finally:
            self._followers.discard(follower)
            await follower.stop()

    async def sweep(self) -> int:
        """Remove Secrets of releases that were never finished; return how many. For the leader, now and then."""
        with self._translated(Release):
            before = datetime.now(UTC)
            releases = await list_objects(self.client, self.collection(Release))
            return await self.configs.sweep(releases.items, before)

    async def close(self) -> None:
        """End the watches and refuse further work; the client is its owner's to close."""
        self._closed = True
        for follower in tuple(self._followers):
            follower.end()

    def collection(self, kind: type[Document], selector: str = "") -> Collection[Resource]:
        """Return where the resources of a kind are."""
        selectors = {"labelSelector": selector} if selector else {}
        return Collection(KUBE_KINDS[kind].path(self.namespace), Resource, selectors)

    @staticmethod
    def decode_resource(answer: bytes) -> Resource:
        """Return the resource in an answer of the API server."""
        return _resource.decode(answer)

    async def decode_change(self, kind: type[Document], resource: Resource, *, deleted: bool) -> Document | None:
        """Return the document of a resource that a watch has seen; None if there is none to tell of."""
        if not deleted and not is_accepted(kind, resource):
            return None
        try:
            return await self._decode(kind, resource)
        except Unfit as error:
            log.warning("left out of a watch", error=str(error))
            return None
        except LostConfig as error:
            if deleted:  # its Secret went with it: its config is not known any more
                return decode(kind, resource)
            if await self._is_there(kind, resource):
                log.error("left out of a watch", error=str(error))
            return None

    async def _decode(
        self, kind: type[D], resource: Resource, configs: Mapping[str, dict[str, str]] | None = None
    ) -> D:
        if kind is not Release:
            return decode(kind, resource)
        config = (configs or {}).get(resource.spec.get(CONFIG_SECRET, ""))
        try:
            return decode(kind, resource, await self.configs.read(resource) if config is None else config)
        except errors.NotFound as error:
            name = decode_name(resource.metadata)
            raise LostConfig(
                f"the config of release {name} is gone: its Secret {resource.spec.get(CONFIG_SECRET)} was deleted; "
                f"put the Secret back from a backup, or set the app's config again and delete the release"
            ) from error

    async def _delete(self, kind: type[Document], name: str, revision: int | None) -> None:
        raw, resource = await self._read(kind, name)
        version = resource.metadata.resource_version
        if revision is not None and int(version) != revision:
            raise _conflict(decode(kind, resource), revision)
        held = FINALIZER in resource.metadata.finalizers
        if held:
            raw["metadata"]["finalizers"] = [f for f in resource.metadata.finalizers if f != FINALIZER]
            version = (await self._replace(kind, raw)).metadata.resource_version
        if not (held and resource.metadata.deletion_timestamp):  # else kubectl delete came first: it went by that
            conditional = version if held or revision is not None else None
            await self.client.delete(self._path(kind, name), uid=resource.metadata.uid, resource_version=conditional)
        if secret := resource.spec.get(CONFIG_SECRET):
            await self.configs.remove(secret)

    async def _read(self, kind: type[Document], name: str) -> tuple[Manifest, Resource]:
        answer = await self.client.request("GET", self._path(kind, name))
        resource = _resource.decode(answer)
        if not is_accepted(kind, resource):
            raise errors.NotFound("it was applied to the cluster and is not accepted yet; see its conditions")
        return msgspec.json.decode(answer), resource

    async def _replace(self, kind: type[Document], raw: Manifest, subresource: str = "") -> Resource:
        path = f"{KUBE_KINDS[kind].path(self.namespace)}/{raw['metadata']['name']}{subresource}"
        return _resource.decode(await self.client.request("PUT", path, body=raw))

    async def _write_status(self, kind: type[Document], raw: Manifest, status: dict[str, Any]) -> Resource:
        """Replace the status; conditions, which are no part of documents, stay."""
        conditions = raw.get("status", {}).get(CONDITIONS)
        raw = raw | {"status": status | ({CONDITIONS: conditions} if conditions else {})}
        return await self._replace(kind, raw, "/status" if KUBE_KINDS[kind].has_status else "")

    async def _carry_config(self, document: Document, stored: Document, resource: Resource, spec: Manifest) -> str:
        """Put the name of the Secret into a release's `spec`; return that of one which is to go."""
        if not isinstance(document, Release) or not isinstance(stored, Release):
            return ""
        old = str(resource.spec.get(CONFIG_SECRET, ""))
        if document.spec.config == stored.spec.config:
            spec |= {CONFIG_SECRET: old} if old else {}
            return ""
        spec[CONFIG_SECRET] = await self.configs.write(document)
        return old

    async def _is_there(self, kind: type[Document], resource: Resource) -> bool:
        path = f"{KUBE_KINDS[kind].path(self.namespace)}/{resource.metadata.name}"
        try:
            found = await self.client.fetch(Resource, path)
        except errors.NotFound:
            return False
        return found.metadata.uid == resource.metadata.uid

    async def _check_since(self, kind: type[Document], since: int) -> None:
        """Raise Expired for a revision of no known history: 0, or one that is still to come."""
        page = await self.client.fetch(_Page, KUBE_KINDS[kind].path(self.namespace), {"limit": "1"})
        now = int(page.metadata.resource_version)
        if since <= 0 or since > now:
            raise Expired(f"revision {since} is not one of this cluster, which is at {now}: list again")

    def _path(self, kind: type[Document], name: str) -> str:
        return f"{KUBE_KINDS[kind].path(self.namespace)}/{encode_name(name)}"

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the store is closed")

    @contextmanager
    def _translated(self, kind: type[Document], name: str = "") -> Iterator[None]:
        """Turn the API server's refusals into those of the store contract."""
        self._check_open()
        try:
            yield
        except errors.NotFound as error:
            if name:
                raise NotFound(f"there is no {kind.kind} {name!r} ({error})") from error
            raise _missing(KUBE_KINDS[kind].plural, self.namespace, error) from error
        except errors.KubeError as error:
            raise _translate(error, f"{kind.kind} {name!r}" if name else kind.kind) from error


class _PageMeta(msgspec.Struct, rename="camel"):
    resource_version: str


class _Page(msgspec.Struct):
    metadata: _PageMeta


def _missing(plural: str, namespace: str, error: errors.KubeError) -> Unavailable:
    return Unavailable(
        f"the cluster has no {plural} or no namespace {namespace!r}: install Seaway's kinds there first ({error})"
    )


def _translate(error: errors.KubeError, what: str = "") -> StoreError:
    if isinstance(error, errors.NotFound):
        return NotFound(f"there is no {what} ({error})")
    if isinstance(error, errors.AlreadyExists):
        return AlreadyExists(f"{what} exists")
    if isinstance(error, errors.Conflict):
        return Conflict(f"{what} was changed by another writer: read it again and decide again")
    if isinstance(error, errors.Gone):
        return Expired(str(error))
    if isinstance(error, errors.Unavailable):
        return Unavailable(str(error))
    return StoreError(str(error))


def _config_of(resource: Resource) -> dict[str, str]:
    return {key: value for key, value in resource.spec.items() if key == CONFIG_SECRET}


def _conflict(stored: Document, revision: int) -> Conflict:
    return Conflict(
        f"{stored.kind} {stored.name!r} was changed by another writer (it is at revision "
        f"{stored.meta.revision}, not {revision}): read it again and decide again"
    )

"""Documents as custom resources and back: names, labels, times, revisions. Pure.

A document's `spec` and `status` are the resource's own; None is left out. The document's labels are the resource's
labels below `seaway.dev/`, so that labels of other tools do not become Seaway's. `created_at` is creationTimestamp,
`updated_at` the latest time of metadata.managedFields (both in whole seconds; the API server keeps them, whoever
writes). `revision` is resourceVersion: the number of the last change to it in the cluster's one history.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from pydantic import ValidationError

from seaway.kube.kinds import API_VERSION, FINALIZER, GROUP, KUBE_KINDS
from seaway.kube.structs import Metadata, Object
from seaway.model import SCHEMA_VERSION, App, Document, Meta, Release, Route
from seaway.store.base import StoreError

D = TypeVar("D", bound=Document)
Manifest = dict[str, Any]

NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
CODED = "x--"  # begins what Kubernetes would not take as it is
NAME_ANNOTATION = f"{GROUP}/name"
LABELS_ANNOTATION = f"{GROUP}/labels"
ROUTES_ANNOTATION = f"{GROUP}/routes"
"""The routes of an App that are its own by Seaway's word; others in its spec do not count (see adoption)."""

MINE = frozenset({NAME_ANNOTATION, LABELS_ANNOTATION, ROUTES_ANNOTATION})
PREFIX = f"{GROUP}/"
CONFIG_SECRET = "config_secret"  # noqa: S105 - the name of a field
CONDITIONS = "conditions"


class Managed(msgspec.Struct, frozen=True):
    """One entry of managedFields: who wrote, and when last."""

    manager: str = ""
    time: str = ""
    operation: str = ""


class ResourceMeta(Metadata, frozen=True, rename="camel"):
    """metadata with the times of its writers."""

    managed_fields: tuple[Managed, ...] = ()


class Resource(Object, frozen=True, rename="camel"):
    """A custom resource that holds a document."""

    metadata: ResourceMeta
    spec: dict[str, Any] = {}
    status: dict[str, Any] = {}


class Unfit(StoreError):
    """A resource that somebody wrote into the cluster does not fit the model; the message names the fields."""


def encode_name(name: str) -> str:
    """Return the resource's name: the document's own where Kubernetes takes it, else its letters coded in base 32."""
    if len(name) <= 253 and NAME.fullmatch(name) and not name.startswith(CODED):
        return name
    return CODED + base64.b32hexencode(name.encode()).decode().rstrip("=").lower()


def encode_label(value: str) -> str:
    """Return the label's value: the document's own where Kubernetes takes it, else its hash."""
    if LABEL.fullmatch(value) and not value.startswith(CODED):
        return value
    return CODED + hashlib.sha256(value.encode()).hexdigest()[:40]


def encode_selector(labels: dict[str, str]) -> str:
    """Return the label selector for resources whose documents carry all labels."""
    return ",".join(f"{PREFIX}{key}={encode_label(value)}" for key, value in sorted(labels.items()))


def encode_spec(document: Document) -> Manifest:
    """Return the spec as it is stored: without a release's config, which goes into a Secret."""
    spec = getattr(document, "spec", None)
    if spec is None:
        return {}
    hidden = {"config"} if isinstance(document, Release) else None
    return dict(spec.model_dump(mode="json", exclude_none=True, exclude=hidden))


def encode_routes(routes: Iterable[Route]) -> str:
    """Return the value of ROUTES_ANNOTATION."""
    return json.dumps(sorted(map(str, routes)))


def encode_status(document: Document) -> Manifest:
    """Return the status as it is stored."""
    status = getattr(document, "status", None)
    return {} if status is None else dict(status.model_dump(mode="json", exclude_none=True))


def encode_metadata(document: Document, metadata: Manifest) -> Manifest:
    """Return `metadata` (of the stored resource, or nothing) with the document's name and labels."""
    mine = {PREFIX + key: encode_label(value) for key, value in document.meta.labels.items()}
    others = {key: value for key, value in metadata.get("labels", {}).items() if not key.startswith(PREFIX)}
    notes = {k: v for k, v in metadata.get("annotations", {}).items() if k not in MINE}
    name = encode_name(document.name)
    if name != document.name:
        notes[NAME_ANNOTATION] = document.name
    if mine != {PREFIX + key: value for key, value in document.meta.labels.items()}:
        notes[LABELS_ANNOTATION] = json.dumps(document.meta.labels, sort_keys=True)
    if isinstance(document, App) and document.spec.routes:
        notes[ROUTES_ANNOTATION] = encode_routes(document.spec.routes)
    return metadata | {"name": name, "labels": others | mine, "annotations": notes}


def encode(document: Document, namespace: str) -> Manifest:
    """Return the manifest of a new document."""
    kind = KUBE_KINDS[type(document)]
    metadata: Manifest = {"namespace": namespace} | ({"finalizers": [FINALIZER]} if isinstance(document, App) else {})
    manifest: Manifest = {
        "apiVersion": API_VERSION, "kind": kind.kind, "metadata": encode_metadata(document, metadata),
    }  # fmt: skip
    for part, value in (("spec", encode_spec(document)), ("status", encode_status(document))):
        if part in type(document).model_fields:
            manifest[part] = value
    return manifest


def decode_name(metadata: Metadata) -> str:
    """Return the document's name."""
    return metadata.annotations.get(NAME_ANNOTATION, metadata.name)


def decode_labels(metadata: Metadata) -> dict[str, str]:
    """Return the document's labels."""
    labels = {
        key.removeprefix(PREFIX): value for key, value in metadata.labels.items() if key.startswith(PREFIX)
    }  # fmt: skip
    if any(value.startswith(CODED) for value in labels.values()):
        written = json.loads(metadata.annotations.get(LABELS_ANNOTATION, "{}"))
        labels = {k: written[k] if v.startswith(CODED) and k in written else v for k, v in labels.items()}
    return labels


def is_accepted(kind: type[Document], resource: Resource) -> bool:
    """Whether a resource is a document: an App that nobody has accepted yet is not."""
    return kind is not App or FINALIZER in resource.metadata.finalizers


def decode_routes(metadata: Metadata) -> frozenset[str]:
    """Return the routes that were accepted, as text."""
    return frozenset(json.loads(metadata.annotations.get(ROUTES_ANNOTATION, "[]")))


def split_routes(resource: Resource) -> tuple[list[Manifest], list[Manifest]]:
    """Return the routes in an App's spec, accepted and not."""
    accepted = decode_routes(resource.metadata)
    sides: tuple[list[Manifest], list[Manifest]] = ([], [])
    for route in resource.spec.get("routes", []):
        try:
            sides[str(Route.model_validate(route)) not in accepted].append(route)
        except ValidationError:
            sides[1].append(route)
    return sides


def decode(kind: type[D], resource: Resource, config: dict[str, str] | None = None) -> D:
    """Return the document; an App that is being deleted is one whose destruction is wanted. Raises Unfit."""
    metadata = resource.metadata
    created = _time(metadata.creation_timestamp)
    times = [_time(managed.time) for managed in metadata.managed_fields if managed.time]
    values: dict[str, Any] = {
        "meta": Meta(
            name=decode_name(metadata), uid=metadata.uid, revision=int(metadata.resource_version), created_at=created,
            updated_at=max([created, *times]), labels=decode_labels(metadata), schema_version=SCHEMA_VERSION,
        )
    }  # fmt: skip
    if "spec" in kind.model_fields:
        values["spec"] = {key: value for key, value in resource.spec.items() if key != CONFIG_SECRET}
        if kind is App:
            values["spec"]["routes"] = split_routes(resource)[0]
            values["spec"]["destroy"] = bool(metadata.deletion_timestamp) or resource.spec.get("destroy", False)
        if kind is Release:
            values["spec"]["config"] = dict(config or {})
    if "status" in kind.model_fields:
        values["status"] = {key: value for key, value in resource.status.items() if key != CONDITIONS}
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise Unfit(explain(kind, decode_name(metadata), error)) from error


def explain(kind: type[Document], name: str, error: ValidationError) -> str:
    """Return one sentence with each field that does not fit, and why."""
    fields = [
        ".".join(map(str, found["loc"])) + ": " + found["msg"].removeprefix("Value error, ")
        for found in error.errors(include_input=False, include_url=False, include_context=False)
    ]
    return f"the {kind.kind} {name!r} in the cluster does not fit: {'; '.join(fields)}"


def fingerprint(resource: Resource) -> int:
    """Return a hash of what the document holds: the same if only Kubernetes' own metadata changed."""
    status = {key: value for key, value in resource.status.items() if key != CONDITIONS}
    gone = resource.metadata.deletion_timestamp is not None
    routes = resource.metadata.annotations.get(ROUTES_ANNOTATION, "")
    content = (resource.metadata.uid, decode_labels(resource.metadata), resource.spec, status, gone, routes)
    return hash(msgspec.json.encode(content, order="deterministic"))


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text) if text else datetime(1970, 1, 1, tzinfo=UTC)

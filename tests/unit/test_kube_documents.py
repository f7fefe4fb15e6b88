"""Documents as custom resources and back, and the schemas that the API server is given."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes_validate.utils import all_versions

from seaway.kube.crds import make_crd, make_crds, make_schema
from seaway.kube.kinds import FINALIZER, KUBE_KINDS
from seaway.model import KINDS, App, AppSpec, Document, Event, EventSpec, Meta, Release, ReleaseSpec, Route
from seaway.store.kubernetes.documents import (
    CODED,
    LABEL,
    NAME,
    Resource,
    Unfit,
    decode,
    encode,
    encode_label,
    encode_name,
    fingerprint,
    split_routes,
)
from tests.strict_schemas import validate

TEXT = st.text(min_size=1, max_size=60)


def stored(document: Document, **metadata: Any) -> Resource:
    """Return what the API server would hand back for a document's manifest."""
    manifest = encode(document, "seaway")
    manifest["metadata"] |= {"uid": "u", "resourceVersion": "7", "creationTimestamp": "2026-01-02T03:04:05Z"} | metadata
    return msgspec.json.decode(msgspec.json.encode(manifest), type=Resource)


def test_every_kind_has_its_place_in_the_cluster() -> None:
    """A new kind of document cannot be forgotten here."""
    assert set(KUBE_KINDS) == set(KINDS.values())
    plurals = [kind.plural for kind in KUBE_KINDS.values()]
    assert len(set(plurals)) == len(plurals)


@given(first=TEXT, second=TEXT)
def test_names_are_taken_and_told_apart(first: str, second: str) -> None:
    """Whatever a document's name is, its resource's name is one of Kubernetes, and no two share one."""
    for name in (first, second):
        assert NAME.fullmatch(encode_name(name))
        assert len(encode_name(name)) <= 253 + 100
        assert LABEL.fullmatch(encode_label(name))
    assert (encode_name(first) == encode_name(second)) == (first == second)


@given(name=TEXT, labels=st.dictionaries(st.sampled_from(["app", "team", "hash"]), TEXT))
def test_name_and_labels_come_back(name: str, labels: dict[str, str]) -> None:
    """Also those that Kubernetes does not take as they are."""
    document = App(meta=Meta(name=name, labels=labels))
    meta = decode(App, stored(document)).meta
    assert (meta.name, meta.labels) == (name, labels)


def test_other_tools_labels_are_not_ours() -> None:
    """What a GitOps tool puts on a resource does not become part of the document."""
    found = stored(
        App(meta=Meta(name="shop", labels={"team": "red"})), labels={"argocd/instance": "x", "seaway.dev/a": "b"}
    )
    assert decode(App, found).meta.labels == {"a": "b"}


def test_times_are_the_clusters() -> None:
    """Created when Kubernetes says so, updated when anybody wrote last."""
    fields = [
        {"manager": "kubectl", "time": "2026-01-02T03:04:04Z"},
        {"manager": "seaway", "time": "2026-02-01T00:00:00Z"},
    ]
    meta = decode(App, stored(App(meta=Meta(name="shop")), managedFields=fields)).meta
    assert meta.created_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert meta.updated_at == datetime(2026, 2, 1, tzinfo=UTC)
    assert (meta.uid, meta.revision) == ("u", 7)


def test_config_is_not_in_the_release() -> None:
    """It is in the Secret that the release names, and in the document."""
    spec = ReleaseSpec(app="shop", number=1, config={"PASSWORD": "hunter2"})
    release = Release(meta=Meta(name="shop.v1"), spec=spec)
    assert "hunter2" not in str(encode(release, "seaway"))
    assert decode(Release, stored(release), {"PASSWORD": "hunter2"}).spec == spec
    fields = make_schema(KUBE_KINDS[Release])["properties"]["spec"]["properties"]
    assert "config" not in fields
    assert "config_secret" in fields


def test_routes_count_when_they_are_accepted() -> None:
    """Routes that somebody wrote into the cluster are without effect until the annotation names them."""
    mine, theirs = Route(host="a.example.com"), {"host": "B.example.com.", "path": "/x/"}
    found = stored(App(meta=Meta(name="shop"), spec=AppSpec(routes=(mine,))))
    found.spec["routes"].append(theirs)
    assert decode(App, found).spec.routes == (mine,)
    assert split_routes(found)[1] == [theirs]


def test_deletion_is_a_wish_to_destroy() -> None:
    """`kubectl delete app` sets deletionTimestamp; the finalizer keeps the app until it is taken down."""
    assert encode(App(meta=Meta(name="shop")), "seaway")["metadata"]["finalizers"] == [FINALIZER]
    found = stored(App(meta=Meta(name="shop")), deletionTimestamp="2026-01-02T03:04:05Z")
    assert decode(App, found).spec.destroy


def test_unfit_resource_names_the_field() -> None:
    """Not a traceback of pydantic."""
    found = stored(App(meta=Meta(name="shop")))
    found.spec["scale"] = {"web": "many"}
    with pytest.raises(Unfit, match=r"the App 'shop' in the cluster does not fit: spec\.scale\.web: .*integer"):
        decode(App, found)


def test_fingerprint_is_of_the_content() -> None:
    """Kubernetes' own bookkeeping does not wake anybody; spec, status, labels and deletion do."""
    shop = App(meta=Meta(name="shop"))
    same = stored(shop, resourceVersion="8", managedFields=[{"manager": "x"}], annotations={"other": "tool"})
    assert fingerprint(same) == fingerprint(stored(shop))
    for other in (
        stored(App(meta=Meta(name="shop"), spec=AppSpec(scale={"web": 2}))),
        stored(App(meta=Meta(name="shop", labels={"team": "red"}))),
        stored(shop, deletionTimestamp="2026-01-02T03:04:05Z"),
        stored(shop, uid="another"),
    ):
        assert fingerprint(other) != fingerprint(stored(shop))


@pytest.mark.parametrize("version", sorted({f"{v.split('.')[0]}.{v.split('.')[1]}" for v in all_versions()}))
def test_crds_are_valid(version: str) -> None:
    """Strictly, for every version that the validator knows; 1.20 is asked itself, in tests/kube."""
    for crd in make_crds():
        validate(crd, version)


def test_schemas_are_structural() -> None:
    """Nothing that the API server would refuse: every node has a type, no references, no closed objects."""

    def check(schema: dict[str, Any], path: str) -> None:
        assert "type" in schema, path
        assert not {"$ref", "anyOf", "oneOf", "allOf", "title", "const", "gt", "ge"} & set(schema), path
        assert not ({"properties", "additionalProperties"} <= set(schema)), path
        assert schema.get("additionalProperties") is not False, path
        for name, field in schema.get("properties", {}).items():
            check(field, f"{path}.{name}")
        for key in ("items", "additionalProperties"):
            if key in schema:
                check(schema[key], f"{path}[{key}]")

    for kind in KUBE_KINDS.values():
        check(make_crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"], kind.kind)


def test_every_field_of_the_model_is_in_the_schema() -> None:
    """A field that is missing there would be dropped by the API server without a word."""
    for kind in KUBE_KINDS.values():
        properties = make_schema(kind)["properties"]
        for part in ("spec", "status"):
            if part in kind.document.model_fields:
                model = kind.document.model_fields[part].annotation
                assert model is not None
                wanted = set(model.model_fields) - ({"config"} if kind.kind == "Release" else set())
                assert wanted <= set(properties[part]["properties"])


def test_event_round_trip() -> None:
    """Names of events begin with digits and stay as they are, so that they sort."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    event = Event(meta=Meta(name="0001-ab"), spec=EventSpec(at=at, about="app shop", reason="Tick", message=""))
    assert encode(event, "seaway")["metadata"]["name"] == "0001-ab"
    assert decode(Event, stored(event)).spec == event.spec
    assert not encode_name("shop.v3").startswith(CODED)

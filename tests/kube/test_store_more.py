"""What the Kubernetes store adds to the contract: several kinds at once, secrets, kinds that are not there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from seaway.kube.client import KubeClient
from seaway.kube.errors import Denied, Invalid, NotFound
from seaway.model import (
    App,
    AppSpec,
    Build,
    BuildSpec,
    Event,
    Meta,
    Release,
    ReleaseSpec,
    Rollout,
    RolloutSpec,
    RolloutStatus,
    RouterRecord,
    Source,
    Token,
    TokenSpec,
)
from seaway.model.platform import Role, RouterStatus
from seaway.model.release import Phase
from seaway.store.base import StoreError, Unavailable
from seaway.store.kubernetes import KubernetesStore, configs
from seaway.store.kubernetes.store import LostConfig
from tests.contract.test_store import take


@pytest.fixture
async def store(kube: KubeClient, namespace: str) -> AsyncIterator[KubernetesStore]:
    opened = KubernetesStore(kube, namespace)
    yield opened
    await opened.close()


def release(number: int, **config: str) -> Release:
    spec = ReleaseSpec(app="shop", number=number, config=config)
    return Release(meta=Meta(name=f"shop.v{number}", labels={"app": "shop"}), spec=spec)


async def secrets_of(store: KubernetesStore) -> list[dict[str, Any]]:
    answer = await store.client.request("GET", f"/api/v1/namespaces/{store.namespace}/secrets")
    items: list[dict[str, Any]] = msgspec.json.decode(answer)["items"]
    return items


async def test_several_kinds_in_one_watch(store: KubernetesStore) -> None:
    """Changes of four kinds come in the order in which they were made, each whole."""
    since = (await store.list(App)).revision
    made = [
        await store.create(App(meta=Meta(name="shop"))),
        await store.create(Build(meta=Meta(name="shop.b1"), spec=BuildSpec(app="shop", number=1, source=Source()))),
        await store.create(release(1, KEY="secret")),
        await store.create(Rollout(meta=Meta(name="shop.v1"), spec=RolloutSpec(app="shop", target=1))),
    ]
    seen = await take(4, store.watch((App, Build, Release, Rollout), since))
    assert [change.document for change in seen] == made


async def test_every_kind_with_everything_in_it(store: KubernetesStore) -> None:
    """A status given at creation is stored; names and labels that Kubernetes does not take come back as they were."""
    phase = RolloutStatus(phase=Phase.KEEPING, base=1, reason="")
    token = Token(
        meta=Meta(name="Ops & more: éa/b", labels={"hash": "x" * 40, "odd": "two words, ü"}),
        spec=TokenSpec(hash="0" * 64, role=Role.ADMIN),
    )
    for document in (
        Rollout(meta=Meta(name="shop.v2"), spec=RolloutSpec(app="shop", target=2), status=phase),
        RouterRecord(meta=Meta(name="router-0"), status=RouterStatus()),
        token,
    ):
        created = await store.create(document)
        assert created == document.model_copy(update={"meta": created.meta})
        assert created.meta.labels == document.meta.labels
        assert await store.get(type(document), document.name) == created
    assert (await store.list(Token, {"odd": "two words, ü"})).documents[0].name == "Ops & more: éa/b"
    assert (await store.list(Token, {"odd": "two words"})).documents == ()


async def test_changed_config_is_another_secret(store: KubernetesStore) -> None:
    """Secrets never change; the old one goes with the update, the rest of the release stays."""
    first = await store.create(release(1, KEY="old"))
    (before,) = await secrets_of(store)
    spec = first.spec.model_copy(update={"config": {"KEY": "new"}})
    second = await store.update(first.model_copy(update={"spec": spec}))
    (after,) = await secrets_of(store)
    assert before["metadata"]["name"] != after["metadata"]["name"]
    assert second.spec.config == {"KEY": "new"}
    assert await KubernetesStore(store.client, store.namespace).get(Release, "shop.v1") == second


async def test_refused_release_leaves_no_secret(store: KubernetesStore) -> None:
    """A second writer of one release takes its Secret away again."""
    await store.create(release(1, KEY="one"))
    with pytest.raises(StoreError, match="exists"):
        await store.create(release(1, KEY="two"))
    assert len(await secrets_of(store)) == 1


async def test_sweep_takes_orphans_and_mends_owners(store: KubernetesStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that died after the Secret, or before it was owned, is cleaned up after; nothing in use goes."""
    kept = await store.create(release(1, KEY="kept"))
    orphan = await store.configs.write(release(2, KEY="orphan"))
    path = f"/api/v1/namespaces/{store.namespace}/secrets"
    (owned,) = [s["metadata"]["name"] for s in await secrets_of(store) if s["metadata"]["name"] != orphan]
    body = {"metadata": {"ownerReferences": None}}
    await store.client.request("PATCH", f"{path}/{owned}", body=body, content_type="application/merge-patch+json")
    assert await store.sweep() == 0  # it is young: its writer may be at work
    monkeypatch.setattr(configs, "ORPHANED", timedelta(seconds=-5))
    assert await store.sweep() == 1
    (left,) = await secrets_of(store)
    assert left["metadata"]["ownerReferences"][0]["uid"] == kept.meta.uid


async def test_lost_secret_is_told(store: KubernetesStore) -> None:
    """A release without its config is not one with empty config; other apps' releases are read as ever."""
    await store.create(release(1, KEY="gone"))
    other = ReleaseSpec(app="blog", number=1, config={"A": "b"})
    blog = await store.create(Release(meta=Meta(name="blog.v1", labels={"app": "blog"}), spec=other))
    for secret in await secrets_of(store):
        if secret["metadata"]["name"].startswith("shop"):
            await store.configs.remove(secret["metadata"]["name"])
    fresh = KubernetesStore(store.client, store.namespace)
    with pytest.raises(LostConfig, match=r"its Secret .* was deleted"):
        await fresh.get(Release, "shop.v1")
    with pytest.raises(LostConfig):
        await fresh.list(Release, {"app": "shop"})
    assert (await fresh.list(Release)).documents == (blog,)
    assert (await fresh.list(Release, {"app": "blog"})).documents == (blog,)


async def test_missing_namespace_says_what_to_do(kube: KubeClient) -> None:
    """Nothing is "not found" one by one where nothing can be."""
    store = KubernetesStore(kube, "not-there")
    with pytest.raises(Unavailable, match="install"):
        await store.create(App(meta=Meta(name="shop"), spec=AppSpec()))


async def test_closing_one_store_leaves_the_client(store: KubernetesStore, kube: KubeClient) -> None:
    """The client is its owner's."""
    other = KubernetesStore(kube, store.namespace)
    await other.close()
    assert (await store.list(Event)).documents == ()
    async with aclosing(other.watch((App,), 1)) as changes:
        with pytest.raises(Unavailable):
            await anext(changes)


async def test_client_says_what_is_wrong(kube: KubeClient, namespace: str) -> None:
    """Errors come by kind, with a sentence; discovery, version and readiness work."""
    assert await kube.ready()
    assert await kube.version() >= (1, 20)
    assert {"apps/v1", "seaway.dev/v1"} <= await kube.groups()
    with pytest.raises(NotFound, match="GET /api/v1/namespaces/nowhere"):
        await kube.request("GET", "/api/v1/namespaces/nowhere")
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "A_b", "namespace": namespace}}
    with pytest.raises(Invalid, match=r"metadata\.name"):
        await kube.create(secret)
    with pytest.raises(Invalid, match="is not a kind that is known here"):
        await kube.apply({"apiVersion": "nowhere/v1", "kind": "Thing"})
    applied = await kube.apply({**secret, "metadata": {"name": "a", "namespace": namespace}, "stringData": {"x": "y"}})
    assert applied["data"] == {"x": "eQ=="}
    kube.http.headers["Impersonate-User"] = "nobody"
    with pytest.raises(Denied, match="cannot get"):
        await kube.request("GET", f"/api/v1/namespaces/{namespace}/secrets/a")
    del kube.http.headers["Impersonate-User"]

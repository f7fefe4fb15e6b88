"""kubectl apply as a way in: what is applied becomes an app like any other, or says why not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from seaway.api.claims import judge_app
from seaway.engine.kubernetes import KubernetesEngine, KubernetesEngineSettings
from seaway.kube.client import KubeClient
from seaway.model import App, AppSpec, AppStatus, Event, Meta, Release, ReleaseSpec, Route
from seaway.store.base import NotFound
from seaway.store.kubernetes import KubernetesStore
from seaway.store.kubernetes.adoption import Adopter, Verdict
from tests.kube.api_server import ApiServer

DOMAIN = "apps.example.com"


class Cluster:
    """kubectl in one namespace, beside the store and the adopter."""

    def __init__(self, server: ApiServer, store: KubernetesStore) -> None:
        self._server = server
        self.store = store

    def apply(self, name: str, spec: str = "", *, kind: str = "App") -> tuple[int, str]:
        text = f"apiVersion: seaway.dev/v1\nkind: {kind}\nmetadata: {{name: {name}}}\n"
        text += f"spec: {spec}\n" if spec else ""
        done = self._server.kubectl("-n", self.store.namespace, "apply", "-f", "-", text=text)
        return done.returncode, done.stdout + done.stderr

    def run(self, *args: str) -> str:
        done = self._server.kubectl("-n", self.store.namespace, *args)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def condition(self, name: str) -> dict[str, Any]:
        found = json.loads(self.run("get", f"apps.seaway.dev/{name}", "-o", "json"))
        return next((c for c in found.get("status", {}).get("conditions", []) if c["type"] == "Accepted"), {})

    async def accepted(self, name: str, reason: str = "Accepted") -> dict[str, Any]:
        """Wait until the condition of the app as it is now has the reason."""
        async with asyncio.timeout(10):
            while (condition := await asyncio.to_thread(self.condition, name)).get("reason") != reason:
                await asyncio.sleep(0.05)
        return condition


@pytest.fixture
async def cluster(api_server: ApiServer, kube: KubeClient, namespace: str) -> AsyncIterator[Cluster]:
    store = KubernetesStore(kube, namespace)
    settings = KubernetesEngineSettings(namespace_prefix=f"{namespace}-", own_namespace=f"{namespace}-system")
    engine = KubernetesEngine(kube, settings)

    async def judge(app: App, routes: tuple[Route, ...]) -> Verdict:
        return Verdict(*await judge_app(store, DOMAIN, app, routes, engine))

    adopting = asyncio.create_task(Adopter(store, judge, again=0.5).run())
    yield Cluster(api_server, store)
    assert not adopting.done()
    adopting.cancel()
    await asyncio.gather(adopting, return_exceptions=True)
    await store.close()


async def test_applied_app_is_like_one_of_the_api(cluster: Cluster) -> None:
    """Defaults, the team's label, an event, the status and `kubectl get apps` are there; both ways can change it."""
    assert cluster.apply("shop", "{scale: {web: 2}, routes: [{host: Shop.example.com}]}")[0] == 0
    await cluster.accepted("shop")
    app = await cluster.store.get(App, "shop")
    assert app.spec == AppSpec(team="default", scale={"web": 2}, routes=(Route(host="shop.example.com"),))
    assert app.meta.labels == {"team": "default"}
    events = (await cluster.store.list(Event, {"app": "shop"})).documents
    assert [(event.spec.reason, event.spec.by) for event in events] == [("AppCreated", "kubectl-client-side-apply")]
    changed = app.model_copy(update={"spec": app.spec.model_copy(update={"scale": {"web": 3}})})
    await cluster.store.update(changed)
    assert cluster.apply("shop", "{scale: {web: 4}, routes: [{host: shop.example.com}], team: red}")[0] == 0
    async with asyncio.timeout(10):
        while (await cluster.store.get(App, "shop")).meta.labels != {"team": "red"}:
            await asyncio.sleep(0.05)
    assert (await cluster.store.get(App, "shop")).spec.scale == {"web": 4}
    header, row = cluster.run("get", "apps").splitlines()
    assert header.split() == ["NAME", "TEAM", "STATE", "RELEASE", "REASON", "AGE"]
    assert row.split()[:3] == ["shop", "red", "empty"]
    assert "no release yet" in row


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("Shop", "{}", "metadata.name"),
        ("shop--x", "{}", "metadata.name"),
        ("shop", "{team: Red}", "spec.team"),
        ("shop", "{scale: {web: -1}}", "spec.scale.web"),
        ("shop", "{scale: {web: 1001}}", "spec.scale.web"),
        ("shop", "{scale: {web: many}}", "spec.scale.web"),
        ("shop", "{routes: [{path: /x}]}", "spec.routes"),
        ("shop", "{routes: [{host: 'http://x.example.com'}]}", "spec.routes"),
        ("shop", "{routes: [{host: x.example.com, path: 'x*'}]}", "spec.routes"),
    ],
)
async def test_schema_refuses_with_the_field(cluster: Cluster, name: str, spec: str, message: str) -> None:
    """What cannot be is refused at once and names the field; nothing is stored."""
    code, output = cluster.apply(name, spec)
    assert code != 0
    assert message in output or ("Shop" in output and name == "Shop")
    assert (await cluster.store.list(App)).documents == ()


async def test_taken_route_has_no_effect_until_it_is_free(cluster: Cluster) -> None:
    """The app is there without the route, the condition says whose it is; it gets it when that one lets go."""
    route = Route(host="www.example.com")
    shop = await cluster.store.create(App(meta=Meta(name="shop"), spec=AppSpec(routes=(route,))))
    assert cluster.apply("aaa", "{routes: [{host: www.example.com}, {host: other.example.com}]}")[0] == 0
    condition = await cluster.accepted("aaa", "RoutesRefused")
    assert condition["status"] == "False"
    assert "www.example.com belongs to shop" in condition["message"]
    aaa = await cluster.store.get(App, "aaa")
    assert [str(one) for one in aaa.spec.routes] == ["other.example.com"]
    scaled = await cluster.store.update(
        aaa.model_copy(update={"spec": aaa.spec.model_copy(update={"scale": {"w": 2}})})
    )
    assert scaled.spec.routes == aaa.spec.routes
    assert "www.example.com" in cluster.run("get", "apps", "aaa", "-o", "yaml")  # what was written stays written
    shop = await cluster.store.get(App, "shop")
    await cluster.store.update(shop.model_copy(update={"spec": AppSpec()}))
    await cluster.accepted("aaa")
    assert route in (await cluster.store.get(App, "aaa")).spec.routes


async def test_a_team_without_a_place_is_refused(cluster: Cluster) -> None:
    """The control plane's own namespace is nobody's, nor is one that somebody else made; the condition says so."""
    assert cluster.apply("aaa", "{team: system}")[0] == 0
    condition = await cluster.accepted("aaa", "Refused")
    assert condition["message"].endswith("-system, which is the control plane's own: choose another team.")
    with pytest.raises(NotFound):
        await cluster.store.get(App, "aaa")
    assert cluster.apply("aaa", "{team: red}")[0] == 0
    await cluster.accepted("aaa")
    cluster.run("create", "namespace", f"{cluster.store.namespace}-blue")
    assert cluster.apply("aaa", "{team: blue}")[0] == 0
    condition = await cluster.accepted("aaa", "Refused")
    assert "exists and is not Seaway's for team blue: choose another team" in condition["message"]


async def test_taken_address_is_refused(cluster: Cluster) -> None:
    """An app whose own address another app routes is no app until it can have it."""
    taken = Route(host=f"aaa.{DOMAIN}")
    await cluster.store.create(App(meta=Meta(name="shop"), spec=AppSpec(routes=(taken,))))
    assert cluster.apply("aaa")[0] == 0
    condition = await cluster.accepted("aaa", "Refused")
    assert f"aaa.{DOMAIN} belongs to shop" in condition["message"]
    with pytest.raises(NotFound):
        await cluster.store.get(App, "aaa")
    assert [app.name for app in (await cluster.store.list(App)).documents] == ["shop"]
    cluster.run("delete", "app", "aaa", "--timeout=5s")


async def test_kubectl_delete_waits_for_the_control_loop(cluster: Cluster) -> None:
    """It is a wish to destroy the app, which is gone when the loop has taken everything down."""
    cluster.apply("shop")
    await cluster.accepted("shop")
    cluster.run("delete", "app", "shop", "--wait=false")
    app = await cluster.store.get(App, "shop")
    assert app.spec.destroy
    await cluster.store.update(app.model_copy(update={"status": AppStatus(state="destroying", reason="as wished")}))
    assert "destroying" in cluster.run("get", "apps")
    await cluster.store.delete(App, "shop")
    with pytest.raises(NotFound):
        await cluster.store.get(App, "shop")
    assert cluster.run("get", "apps") == ""


async def test_config_of_releases_is_only_in_secrets(cluster: Cluster, kube: KubeClient) -> None:
    """The document is whole, the resource does not show a value, the Secret belongs to the release and goes with it."""
    config = {"PASSWORD": "hunter2-swordfish", "EMPTY": "", "LINES": "a\nb\u00e9"}
    release = await cluster.store.create(
        Release(
            meta=Meta(name="shop.v1", labels={"app": "shop"}), spec=ReleaseSpec(app="shop", number=1, config=config)
        )
    )
    assert release.spec.config == config
    fresh = KubernetesStore(kube, cluster.store.namespace)
    assert (await fresh.get(Release, "shop.v1")) == release
    assert (await fresh.list(Release, {"app": "shop"})).documents == (release,)
    assert "swordfish" not in cluster.run("get", "releases", "-o", "json")
    (secret,) = json.loads(cluster.run("get", "secrets", "-o", "json"))["items"]
    assert secret["immutable"] is True
    (owner,) = secret["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("Release", release.meta.uid)
    await cluster.store.delete(Release, "shop.v1")
    assert json.loads(cluster.run("get", "secrets", "-o", "json"))["items"] == []


async def test_status_and_spec_take_their_own_roads(cluster: Cluster) -> None:
    """A status moves no generation, a spec does; conditions outlive both."""
    cluster.apply("shop")
    await cluster.accepted("shop")
    before = json.loads(cluster.run("get", "app", "shop", "-o", "json"))
    app = await cluster.store.get(App, "shop")
    app = await cluster.store.update(app.model_copy(update={"status": AppStatus(state="serving", traffic={3: 100})}))
    assert app.status.traffic == {3: 100}
    between = json.loads(cluster.run("get", "app", "shop", "-o", "json"))
    assert between["metadata"]["generation"] == before["metadata"]["generation"]
    assert between["status"]["conditions"] == before["status"]["conditions"]
    app = await cluster.store.update(
        app.model_copy(update={"spec": AppSpec(scale={"web": 2}), "status": AppStatus(state="degraded")})
    )
    assert (app.spec.scale, app.status.state) == ({"web": 2}, "degraded")
    after = json.loads(cluster.run("get", "app", "shop", "-o", "json"))
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 1
    assert await cluster.store.get(App, "shop") == app

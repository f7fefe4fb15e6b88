"""`seaway install` and `uninstall` against a real API server: what is made, changed, left alone, refused."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from seaway.install import renewing
from seaway.install import secrets as own_secrets
from seaway.install.errors import InstallError
from seaway.install.installing import Installed, Request, install
from seaway.install.pki import CA_LIFE, PART_LIFE
from seaway.install.removing import Removal, uninstall
from seaway.install.settings import InstallSettings
from seaway.kube.client import KubeClient, Method
from seaway.kube.config import load_config
from seaway.kube.errors import NotFound
from seaway.model import App, Meta, Token
from seaway.store.kubernetes import KubernetesStore
from tests.kube.api_server import ApiServer, run_api_server
from tests.strict_schemas import validate

IMAGE = "registry.example:5000/seaway@sha256:" + "0" * 64


class Log:
    """A Teller that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def phase(self, name: str, reason: str) -> None:
        self.lines.append(f"{name}: {reason}")


class NoImages:
    """Nothing is to be built or looked up."""

    async def build(self, settings: InstallSettings, login: Path | None, teller: Any) -> str:
        raise AssertionError(settings.image)

    async def resolve(self, settings: InstallSettings, login: Path | None) -> str:
        raise AssertionError(settings.image)


class Place:
    """An API server, a namespace in it, and a hand that reports Deployments ready, as their controllers would."""

    def __init__(self, server: ApiServer, kube: KubeClient) -> None:
        self.server = server
        self.kube = kube
        self.namespace = f"s{secrets.token_hex(4)}"
        self.log = Log()

    async def install(self, *, kubeconfig: Path | None = None, **given: Any) -> Installed:
        keys = ("dry_run", "registry_login", "build", "within")
        how = {key: given.pop(key) for key in keys if key in given}
        settings = {"namespace": self.namespace, "image": IMAGE, "registry": "registry.example:5000/apps"} | given
        request = Request(settings, kubeconfig or self.server.kubeconfig, **({"within": 20} | how))
        return await install(request, self.log, NoImages())

    async def uninstall(self, apps: Any) -> dict[tuple[str, str], str]:
        removal = Removal(self.namespace, apps, self.server.kubeconfig, within=10)
        return {(c.kind, c.name): c.action for c in await uninstall(removal, self.log)}

    async def act_as_controllers(self) -> None:
        """Say of each Deployment that its pods run."""
        path = f"/apis/apps/v1/namespaces/{self.namespace}/deployments"
        while True:
            for item in json.loads(await self.kube.request("GET", path))["items"]:
                count, generation = item["spec"]["replicas"], item["metadata"]["generation"]
                status = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), count)
                body = {"status": status | {"observedGeneration": generation}}
                if item["status"].get("observedGeneration") != generation:
                    url = f"{path}/{item['metadata']['name']}/status"
                    await self.kube.request("PATCH", url, body=body, content_type="application/merge-patch+json")
            await asyncio.sleep(0.05)

    async def get(self, path: str) -> Any:
        return json.loads(await self.kube.request("GET", path))

    async def secret(self, name: str) -> dict[str, bytes]:
        found = await self.get(f"/api/v1/namespaces/{self.namespace}/secrets/{name}")
        return {key: base64.b64decode(value) for key, value in found["data"].items()}

    async def forget_others(self) -> None:
        """Delete the tokens that other tests here left in their namespaces."""
        for token in (await self.get("/apis/seaway.dev/v1/tokens"))["items"]:
            meta = token["metadata"]
            if meta["namespace"] != self.namespace:
                path = f"/apis/seaway.dev/v1/namespaces/{meta['namespace']}/tokens/{meta['name']}"
                await self.kube.delete(path)

    async def names(self, plural: str, group: str = "") -> set[str]:
        start = f"/apis/{group}/v1" if group else "/api/v1"
        listed = await self.get(f"{start}/namespaces/{self.namespace}/{plural}")
        return {item["metadata"]["name"] for item in listed["items"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server of this module alone: kinds and cluster roles come and go."""
    with run_api_server(tmp_path_factory.mktemp("install")) as server:
        yield server


@pytest.fixture
async def place(server: ApiServer) -> AsyncIterator[Place]:
    kube = KubeClient(load_config(server.kubeconfig))
    place = Place(server, kube)
    await kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": place.namespace}})
    controllers = asyncio.create_task(place.act_as_controllers())
    try:
        yield place
    finally:
        controllers.cancel()
        await asyncio.gather(controllers, return_exceptions=True)
        with suppress(InstallError):  # it is not there
            await place.uninstall("keep")
        await kube.close()


async def test_a_second_run_changes_nothing(place: Place) -> None:
    """Every object is made once; then there is nothing to change, whatever was left out on the command line."""
    first = await place.install(routers=3, domain="apps.example.com", service_type="NodePort")
    assert {c.kind: c.action for c in first.changes if c.action != "created"} == {"Namespace": "changed"}
    assert await place.names("deployments", "apps") == {"seaway-control", "seaway-router"}
    assert (await place.get(f"/apis/apps/v1/namespaces/{place.namespace}/deployments/seaway-router"))["spec"][
        "replicas"
    ] == 3
    second = await place.install(image=None)
    assert {change.action for change in second.changes} == {"unchanged"}
    assert second.settings == first.settings
    assert second.token == first.token
    assert "Deployment seaway-router: nothing to change" in place.log.lines


async def test_the_port_that_the_cluster_chooses_stays(place: Place) -> None:
    """Parts tell it to people, so it is kept among the settings."""
    first = await place.install(service_type="NodePort")
    service = await place.get(f"/api/v1/namespaces/{place.namespace}/services/seaway-router")
    assert first.settings.node_port == service["spec"]["ports"][0]["nodePort"]
    assert len({(change.kind, change.namespace, change.name) for change in first.changes}) == len(first.changes)
    again = await place.install()
    assert {change.action for change in again.changes} == {"unchanged"}
    control = await place.get(f"/apis/apps/v1/namespaces/{place.namespace}/deployments/seaway-control")
    given = {e["name"]: e.get("value") for e in control["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert given["SEAWAY_PUBLIC_PORT"] == str(first.settings.node_port)


async def test_what_was_changed_by_hand_is_put_back(place: Place) -> None:
    """And a new choice changes what depends on it, the control plane before the routers."""
    await place.install()
    path = f"/apis/apps/v1/namespaces/{place.namespace}/deployments/seaway-router"
    body = {"spec": {"replicas": 0}}
    await place.kube.request("PATCH", path, body=body, content_type="application/merge-patch+json")
    done = await place.install(domain="other.example.com")
    changed = [(change.kind, change.name) for change in done.changes if change.action == "changed"]
    assert changed == [
        ("ConfigMap", "seaway-install"), ("Deployment", "seaway-control"), ("Deployment", "seaway-router"),
    ]  # fmt: skip
    assert (await place.get(path))["spec"]["replicas"] == 2


async def test_a_dry_run_changes_nothing_and_shows_everything(place: Place) -> None:
    """All objects, valid, and not one secret in them."""
    before = await place.get(f"/api/v1/namespaces/{place.namespace}")
    done = await place.install(dry_run=True)
    assert await place.get(f"/api/v1/namespaces/{place.namespace}") == before
    assert await place.names("secrets") == set()
    assert await place.names("configmaps") <= {"kube-root-ca.crt"}
    assert "PRIVATE" not in json.dumps(done.manifests)
    assert done.token == ""
    kinds = [manifest["kind"] for manifest in done.manifests]
    assert {"CustomResourceDefinition", "Secret", "ClusterRole", "Deployment", "Service", "NetworkPolicy"} <= set(kinds)
    for manifest in done.manifests:
        if manifest["apiVersion"] == "policy/v1beta1":
            continue  # this old API server's; what newer ones get is looked at in the unit tests
        for version in ("1.25", "1.37"):
            validate(manifest, version)


async def test_certificates_are_renewed_in_time_and_not_before(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The authority stays; a part's certificate that ends soon is replaced, and one that somebody damaged."""
    await place.install()
    authority, control = await place.secret("seaway-ca"), await place.secret("seaway-control-tls")
    later = datetime.now(UTC) + PART_LIFE - timedelta(days=30)
    monkeypatch.setattr(own_secrets, "utc_now", lambda: later)
    changes = await own_secrets.renew_certificates(place.kube, place.namespace, later)
    assert [change.action for change in changes] == ["unchanged", "changed", "changed"]
    assert await place.secret("seaway-ca") == authority
    renewed = await place.secret("seaway-control-tls")
    assert renewed["tls.crt"] != control["tls.crt"]
    path = f"/api/v1/namespaces/{place.namespace}/secrets/seaway-router-tls"
    body = {"data": {"tls.crt": base64.b64encode(control["tls.crt"]).decode()}}
    await place.kube.request("PATCH", path, body=body, content_type="application/merge-patch+json")
    changes = await own_secrets.renew_certificates(place.kube, place.namespace, later)
    assert [change.action for change in changes] == ["unchanged", "unchanged", "changed"]


async def test_the_leader_renews_certificates_and_makes_no_authority(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to run an installation every year; but without an authority there is nothing to renew by."""
    await place.install()
    before = await place.secret("seaway-router-tls")
    later = datetime.now(UTC) + PART_LIFE - timedelta(days=30)
    monkeypatch.setattr(renewing, "utc_now", lambda: later)
    monkeypatch.setattr(renewing, "LOOK_EVERY", 0.05)
    keeping = asyncio.create_task(renewing.keep_certificates(place.kube, place.namespace))
    try:
        async with asyncio.timeout(20):
            while await place.secret("seaway-router-tls") == before:
                await asyncio.sleep(0.05)
        await place.kube.delete(f"/api/v1/namespaces/{place.namespace}/secrets/seaway-ca")
        await asyncio.sleep(0.5)  # several looks: nothing is to happen
        assert "seaway-ca" not in await place.names("secrets")
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_an_authority_that_is_deleted_while_it_is_renewed_stays_so(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also between the look at it and the write."""
    await place.install()
    authority = f"/api/v1/namespaces/{place.namespace}/secrets/seaway-ca"
    send = place.kube.request

    async def request(method: Method, path: str, **more: Any) -> bytes:
        if (method, path) == ("PATCH", authority):
            await send("DELETE", path)
        return await send(method, path, **more)

    monkeypatch.setattr(place.kube, "request", request)
    with pytest.raises(NotFound):
        await own_secrets.renew_certificates(place.kube, place.namespace, datetime.now(UTC) + CA_LIFE)
    assert "seaway-ca" not in await place.names("secrets")


async def test_a_revoked_admin_token_stays_revoked(place: Place) -> None:
    """As long as somebody else may administer; when nobody can, there is a new one."""
    done = await place.install()
    store = KubernetesStore(place.kube, place.namespace)
    (admin,) = (await store.list(Token)).documents
    other = admin.model_copy(
        update={"meta": Meta(name="ann"), "spec": admin.spec.model_copy(update={"hash": "f" * 64})}
    )
    await store.create(other)
    await store.delete(Token, admin.name)
    await place.install()
    assert [token.name for token in (await store.list(Token)).documents] == ["ann"]
    await store.delete(Token, "ann")
    again = await place.install()
    assert [token.name for token in (await store.list(Token)).documents] == ["admin"]
    assert again.token == done.token


async def test_uninstall_keeps_apps_and_install_takes_them_up_again(place: Place) -> None:
    """Documents, authority and settings stay; parts and rights go."""
    await place.install(routers=5)
    authority = await place.secret("seaway-ca")
    store = KubernetesStore(place.kube, place.namespace)
    await store.create(App(meta=Meta(name="shop")))
    actions = await place.uninstall("keep")
    assert actions["App", "shop"] == "kept"
    assert actions["ClusterRole", "seaway-control"] == "removed"
    assert await place.names("deployments", "apps") == await place.names("services") == set()
    again = await place.install(image=None)
    assert (again.settings.routers, await place.secret("seaway-ca")) == (5, authority)
    assert [app.name for app in (await store.list(App)).documents] == ["shop"]
    await store.delete(App, "shop")


async def test_uninstall_removes_everything_though_the_control_plane_is_dead(place: Place) -> None:
    """Finalizers hang nobody; the namespace that was there before stays, empty."""
    await place.install()
    store = KubernetesStore(place.kube, place.namespace)
    await store.create(App(meta=Meta(name="shop")))
    assert (await place.get(f"/apis/seaway.dev/v1/namespaces/{place.namespace}/apps/shop"))["metadata"]["finalizers"]
    path = f"/apis/apps/v1/namespaces/{place.namespace}/deployments/seaway-control/status"
    body = {"status": {"availableReplicas": 0, "readyReplicas": 0}}
    await place.kube.request("PATCH", path, body=body, content_type="application/merge-patch+json")
    await place.forget_others()
    actions = await place.uninstall("remove")
    assert actions["App", "shop"] == "removed"
    assert actions["Namespace", place.namespace] == "kept"
    rbac = "rbac.authorization.k8s.io"
    for plural, group in (("deployments", "apps"), ("secrets", ""), ("services", ""), ("roles", rbac)):
        assert await place.names(plural, group) == set()
    listed = await place.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")
    assert not [crd for crd in listed["items"] if crd["spec"]["group"] == "seaway.dev"]
    with pytest.raises(InstallError, match="is not in namespace"):
        await place.uninstall("remove")


async def test_kinds_stay_while_somebody_else_has_documents(place: Place) -> None:
    """Deleting a kind deletes every document of it, and namespaces that another Seaway made are not ours either."""
    await place.install()
    team = {"name": f"t-{place.namespace}", "labels": {"seaway.dev/team": "red"}}
    for meta in ({"name": f"o-{place.namespace}"}, team):
        await place.kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
    store = KubernetesStore(place.kube, f"o-{place.namespace}")
    await store.create(App(meta=Meta(name="theirs")))
    actions = await place.uninstall("remove")
    assert actions["CustomResourceDefinition", "*.seaway.dev"] == "kept"
    assert [app.name for app in (await store.list(App)).documents] == ["theirs"]
    assert "deletionTimestamp" not in (await place.get(f"/api/v1/namespaces/{team['name']}"))["metadata"]
    await store.delete(App, "theirs")


async def test_what_never_gets_ready_is_told_with_the_reason(place: Place) -> None:
    """Exit code 5, and why: here no node can be found."""
    place.namespace, ready = f"s{secrets.token_hex(4)}", place.namespace  # nobody acts as controller there
    await place.kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": place.namespace}})
    with pytest.raises(InstallError, match="seaway-control is not there after 1 s, 0 of 2 ready: ") as caught:
        await place.install(within=1)
    assert caught.value.exit_code == 5
    assert ready


@pytest.mark.parametrize(
    ("given", "said", "code"),
    [
        ({"image": "UPPER"}, "--image", 2),
        ({"registry": None}, "where are images", 2),
        ({"namespace": "Not_One"}, "--namespace", 2),
        ({"domain": "http://x"}, "--domain", 2),
        ({"routers": 0}, "--routers", 2),
        ({"registry": "http://host/x"}, "--registry", 2),
        ({"node_port": 70000}, "--node-port", 2),
        ({"registry_login": Path("/nowhere")}, "cannot be read", 2),
    ],
)
async def test_wrong_input_changes_nothing(place: Place, given: dict[str, Any], said: str, code: int) -> None:
    """The option is named, and nothing is made."""
    with pytest.raises(InstallError, match=said) as caught:
        await place.install(**given)
    assert caught.value.exit_code == code
    assert await place.names("secrets") == set()


async def test_one_installation_in_each_cluster(place: Place) -> None:
    """Kinds and cluster roles would be shared."""
    await place.install()
    with pytest.raises(InstallError, match=f"already, in namespace {place.namespace}"):
        await place.install(namespace="another")


async def test_a_teams_namespace_is_not_for_the_control_plane(place: Place) -> None:
    """A team that has apps keeps its namespace to them."""
    team = f"t-{place.namespace}"
    meta = {"name": team, "labels": {"seaway.dev/team": "red"}}
    await place.kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
    with pytest.raises(InstallError, match=f"{team} is the place of the team red's apps"):
        await place.install(namespace=team)


async def test_an_older_command_does_not_go_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    await place.install()
    monkeypatch.setattr("seaway.install.installing.__version__", "0.0.9")
    with pytest.raises(InstallError, match="no way back"):
        await place.install()


async def test_a_user_without_rights_is_told_which(place: Place, tmp_path: Path) -> None:
    """Before anything is changed."""
    config = yaml.safe_load(place.server.kubeconfig.read_text())
    weak = tmp_path / "weak"
    body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "weak", "namespace": place.namespace}}
    await place.kube.create(body)
    path = f"/api/v1/namespaces/{place.namespace}/serviceaccounts/weak/token"
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = json.loads(await place.kube.request("POST", path, body=request))["status"]["token"]
    config["users"][0]["user"] = {"token": token}
    weak.write_text(json.dumps(config))
    weak.chmod(0o600)
    with pytest.raises(InstallError, match="may not") as caught:
        await place.install(kubeconfig=weak)
    assert caught.value.exit_code == 4
    assert token not in str(caught.value)


async def test_an_unreachable_cluster_is_told(place: Place, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text(place.server.kubeconfig.read_text().replace(str(place.server.port), "1"))
    with pytest.raises(InstallError, match="cannot be reached"):
        await place.install(kubeconfig=wrong)
    with pytest.raises(InstallError, match="no file") as caught:
        await place.install(kubeconfig=tmp_path / "none")
    assert caught.value.exit_code == 2

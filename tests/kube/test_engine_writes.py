"""What the engine writes, keeps and puts back, on a real API server without nodes: pods are what the test says."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from seaway.engine.base import EngineError, EngineUnavailable
from seaway.engine.kubernetes import KubernetesEngineSettings, guarding
from seaway.kube.errors import Denied, NotFound
from seaway.model import InstanceState, Task
from tests.contract.engine_kit import eventually
from tests.kube.api_server import ApiServer
from tests.kube.engine_desk import KEY, Desk, find_trouble, grant, make_node, make_node_as_admin, web
from tests.kube.engine_kit import Told
from tests.unit.test_kubernetes_manifests import ALL


@pytest.fixture
async def desk(api_server: ApiServer) -> AsyncIterator[Desk]:
    made = Desk(api_server)
    await make_node(made, "node1")
    await made.start()
    yield made
    await made.close()


async def test_the_oldest_api_server_takes_every_manifest(desk: Desk) -> None:
    """What strict schemas of newer versions allow, 1.20 does as well, and it drops nothing silently."""
    await desk.engine.apply(web())
    for objects in ALL.values():
        for manifest in objects:
            if manifest["kind"] == "PodDisruptionBudget":
                continue  # of another version there: made by the engine itself
            own = dict(manifest)
            if "namespace" in own["metadata"]:
                own["metadata"] = own["metadata"] | {"namespace": desk.namespace}
            await desk.client.request(
                "PATCH", desk.client.path_of(own), body=own, content_type="application/apply-patch+yaml",
                params={"fieldManager": "test", "dryRun": "All", "force": "true"},
            )  # fmt: skip


async def test_a_workload_is_written_once(desk: Desk) -> None:
    """ReplicaSet, Secret and disruption budget; the same again writes nothing; a new engine reads the same back."""
    await desk.engine.apply(web())
    assert (await desk.engine.observe()).workloads == (web(),)
    before = await desk.get_set()
    secret = await desk.get(f"/api/v1/NS/secrets/{before['metadata']['annotations']['seaway.dev/config']}")
    assert secret["immutable"] is True
    assert secret["metadata"]["ownerReferences"][0]["uid"] == before["metadata"]["uid"]
    budget = await desk.get("/apis/policy/v1beta1/NS/poddisruptionbudgets/shop-v1-web")
    assert budget["spec"]["maxUnavailable"] == 1
    await desk.engine.apply(web())
    await desk.restart()
    assert (await desk.engine.observe()).workloads == (web(),)
    await desk.engine.apply(web())
    assert (await desk.get_set())["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    assert desk.told == []


async def test_a_team_is_fenced_in(desk: Desk) -> None:
    await desk.engine.apply(web())
    await desk.get("/api/v1/NS/serviceaccounts/seaway-app")
    assert (await desk.get("/api/v1/NS/resourcequotas/seaway"))["spec"]["hard"]["pods"] == "1k"
    policies = (await desk.get("/apis/networking.k8s.io/v1/NS/networkpolicies"))["items"]
    assert {p["metadata"]["name"] for p in policies} == {"seaway-default", "seaway-routers", "seaway-outside"}


async def test_the_pull_secret_is_copied(api_server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has to be there; the team's copy follows what becomes of it."""
    name = f"pull-{secrets.token_hex(3)}"
    desk = Desk(api_server, KubernetesEngineSettings(pull_secret=f"default/{name}"))
    monkeypatch.setattr(guarding, "PULL_INTERVAL", 0.5)
    await desk.start()
    with pytest.raises(EngineError, match=f"image pull Secret default/{name} is not there"):
        await desk.engine.apply(web())
    manifest = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "default"}}
    await desk.client.create(manifest | {"type": "kubernetes.io/dockercfg", "data": {".dockercfg": "e30="}})
    await desk.engine.apply(web())
    pod = (await desk.get_set())["spec"]["template"]["spec"]
    assert pod["imagePullSecrets"] == [{"name": "seaway-pull"}]
    changed = {"data": {".dockercfg": "eyJhIjp7fX0="}}
    await desk.client.request(
        "PATCH", f"/api/v1/namespaces/default/secrets/{name}", body=changed, content_type="application/merge-patch+json"
    )

    async def look() -> bool:
        return bool((await desk.get("/api/v1/NS/secrets/seaway-pull"))["data"] == changed["data"])

    await eventually(look, 20)
    await desk.close()


async def test_a_namespace_of_somebody_else_is_left_alone(desk: Desk) -> None:
    """Nothing is made there, and the API can know before anything of the team is made."""
    assert await desk.engine.judge_team("red") == ""
    await desk.client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": desk.namespace}})
    assert await desk.engine.judge_team("red") != ""
    with pytest.raises(EngineError, match="exists and is not Seaway's for team red"):
        await desk.engine.apply(web())


async def test_the_retired_pod_is_the_one_that_goes(desk: Desk) -> None:
    """It is deleted by its uid, and the count falls by one; the other is not touched."""
    await desk.engine.apply(web())
    await desk.make_pod("shop-v1-web-aaaaa")
    await desk.make_pod("shop-v1-web-bbbbb")
    await _await_instances(desk, lambda states: list(states.values()) == [InstanceState.RUNNING] * 2)
    await desk.engine.apply(web(1, retire=("shop-v1-web-bbbbb",)))
    await _await_instances(desk, lambda states: states.get("shop-v1-web-bbbbb") in (None, InstanceState.STOPPING))
    assert (await desk.get_set())["spec"]["replicas"] == 1
    assert "deletionTimestamp" not in (await desk.get("/api/v1/NS/pods/shop-v1-web-aaaaa"))["metadata"]
    assert (await desk.engine.observe()).workloads == (web(1, retire=("shop-v1-web-bbbbb",)),)


async def _await_instances(desk: Desk, good: Callable[[dict[str, InstanceState]], bool]) -> None:
    async def look() -> bool:
        return good({i.id: i.state for i in (await desk.engine.observe()).instances})

    await eventually(look, 20)


async def scale(desk: Desk) -> None:
    await desk.kubectl("scale", "rs/shop-v1-web", "--replicas=0")


async def edit_template(desk: Desk) -> None:
    change = '{"spec":{"template":{"spec":{"containers":[{"name":"app","image":"evil:1"}]}}}}'
    await desk.kubectl("patch", "rs/shop-v1-web", "-p", change)


async def spoil_annotation(desk: Desk) -> None:
    await desk.kubectl("annotate", "--overwrite", "rs/shop-v1-web", "seaway.dev/workload={}")


async def remove_label(desk: Desk) -> None:
    await desk.kubectl("label", "rs/shop-v1-web", "app.kubernetes.io/managed-by-")


async def delete_set(desk: Desk) -> None:
    await desk.kubectl("delete", "rs/shop-v1-web")


async def delete_secret(desk: Desk) -> None:
    await desk.kubectl("delete", "secrets", "-l", "seaway.dev/app=shop")


@pytest.mark.parametrize(
    ("meddle", "reason"),
    [
        (scale, "EditedByHand"),
        (edit_template, "EditedByHand"),
        (spoil_annotation, "EditedByHand"),
        (remove_label, "EditedByHand"),
        (delete_set, "DeletedByHand"),
        (delete_secret, "DeletedByHand"),
    ],
)
async def test_meddling_is_put_back_and_told(
    desk: Desk, meddle: Callable[[Desk], Awaitable[None]], reason: str
) -> None:
    """The workload is left out of the observation until it is applied again; then all is as it was."""
    await desk.engine.apply(web())
    before = await desk.get_set()
    await meddle(desk)
    await desk.await_workloads()
    await desk.engine.apply(web())
    assert (await desk.engine.observe()).workloads == (web(),)
    after = await desk.get_set()
    assert after["spec"] == before["spec"]
    assert after["metadata"]["labels"] == before["metadata"]["labels"]
    await desk.get(f"/api/v1/NS/secrets/{before['metadata']['annotations']['seaway.dev/config']}")
    told = await desk.await_told(reason)
    assert (told.app, told.about) == ("shop", "workload shop.v1.web")
    await desk.restart()
    assert (await desk.engine.observe()).workloads == (web(),)


async def test_what_seaway_removes_is_not_told(desk: Desk) -> None:
    await desk.engine.apply(web())
    await desk.engine.remove(KEY)
    await desk.engine.apply(web())
    assert desk.told == []


class Fence:
    """A fence of the team's, and how somebody takes it away or edits it."""

    def __init__(self, desk: Desk, *words: str) -> None:
        kind, _, self.name = words[1].partition("/")
        group = "/apis/networking.k8s.io/v1" if kind == "networkpolicy" else "/api/v1"
        self._path = f"{group}/NS/{kind.replace('policy', 'policie')}s/{self.name}"
        self._desk, self._words, self._spec = desk, words, None

    async def meddle(self) -> None:
        await self._desk.kubectl(*self._words)

    async def is_whole(self) -> bool:
        try:
            found = await self._desk.get(self._path)
        except NotFound:
            return False
        self._spec = self._spec or found.get("spec")
        return bool(found.get("spec") == self._spec)

    async def meddle_until_told(self) -> Told:
        """It is put back each time, and told once the engine had seen it whole before."""

        async def try_once() -> Told | None:
            await eventually(self.is_whole, 20)
            await self.meddle()
            await eventually(self.is_whole, 20)
            return self._desk.told[0] if self._desk.told else None

        return await eventually(try_once, 60, every=guarding.LOOK_INTERVAL)


@pytest.mark.parametrize(
    "words",
    [
        ("delete", "networkpolicy/seaway-default"),
        ("patch", "networkpolicy/seaway-default", "-p", '{"spec":{"ingress":[{}]}}'),
        ("patch", "resourcequota/seaway", "-p", '{"spec":{"hard":{"pods":"9999"}}}'),
        ("delete", "serviceaccount/seaway-app"),
    ],
)
async def test_fences_are_put_back_and_told(desk: Desk, words: tuple[str, ...]) -> None:
    await desk.engine.apply(web())
    fence = Fence(desk, *words)
    told = await fence.meddle_until_told()
    assert told.reason == "PutBack"
    assert fence.name in told.message


async def test_what_is_taken_while_something_is_put_back_is_put_back_too(desk: Desk) -> None:
    """The second time comes before the engine is done with the first."""
    words = ("delete", "networkpolicy/seaway-default", "--ignore-not-found")  # the two takers may meet
    fence, taken = Fence(desk, *words), asyncio.Event()

    async def take_again() -> None:
        desk.while_told = None
        await fence.meddle()
        await asyncio.sleep(0.5)  # for the engine's watch: less would show nothing, and break nothing
        taken.set()

    desk.while_told = take_again
    await desk.engine.apply(web())
    await fence.meddle_until_told()
    await taken.wait()
    await eventually(fence.is_whole, 20)


async def test_a_disruption_budget_is_put_back(desk: Desk) -> None:
    await desk.engine.apply(web())
    path = "/apis/policy/v1beta1/NS/poddisruptionbudgets/shop-v1-web"
    before = await desk.get(path)
    await desk.kubectl("delete", "pdb/shop-v1-web")

    async def look() -> bool:
        try:
            return bool((await desk.get(path))["metadata"]["uid"] != before["metadata"]["uid"])
        except NotFound:
            return False

    await eventually(look, 10)


async def test_a_pod_deleted_by_hand_is_told(desk: Desk) -> None:
    """One that Seaway retires is not."""
    await desk.engine.apply(web())
    for name in ("shop-v1-web-aaaaa", "shop-v1-web-bbbbb"):
        await desk.make_pod(name)
    await _await_instances(desk, lambda states: list(states.values()) == [InstanceState.RUNNING] * 2)
    await desk.engine.apply(web(2, retire=("shop-v1-web-bbbbb",)))
    await desk.kubectl("delete", "pod/shop-v1-web-aaaaa", "--wait=false")
    told = await desk.await_told("InstanceDeleted")
    assert told.about == "instance shop-v1-web-aaaaa"
    assert [t.about for t in desk.told] == ["instance shop-v1-web-aaaaa"]


async def test_an_evicted_pod_is_shown_told_and_cleared_away(api_server: ApiServer) -> None:
    desk = Desk(api_server, KubernetesEngineSettings(keep_failed=2.0))
    await desk.start()
    await desk.engine.apply(web())
    message = "The node was low on resource: ephemeral-storage."
    await desk.make_pod("shop-v1-web-aaaaa", phase="Failed", reason="Evicted", message=message)
    await _await_instances(desk, lambda states: states == {"shop-v1-web-aaaaa": InstanceState.STOPPED})
    told = await desk.await_told("InstanceEvicted")
    assert told.message == "evicted by its node: The node was low on resource: ephemeral-storage"
    await _await_instances(desk, lambda states: states in ({}, {"shop-v1-web-aaaaa": InstanceState.STOPPING}))
    await desk.close()


async def test_a_node_is_held_and_released(desk: Desk) -> None:
    """Both twice; the observation shows it at once, with what a prober needs; other taints stay."""
    other = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
    await desk.client.request(
        "PATCH", "/api/v1/nodes/node1", body={"spec": {"taints": [other]}}, content_type="application/merge-patch+json"
    )
    for _ in range(2):
        await desk.engine.hold_node("node1", "it flaps")
    (node,) = [n for n in (await desk.engine.observe()).nodes if n.name == "node1"]
    assert (node.held, node.ready, node.address, node.agent_port) == ("it flaps", True, "10.1.1.1", 10250)
    assert (node.cores, node.memory) == (1.9, 2**30)
    taints = (await desk.get("/api/v1/nodes/node1"))["spec"]["taints"]
    assert [(t["key"], t["effect"]) for t in taints] == [("gpu", "NoSchedule"), ("seaway.dev/held", "NoSchedule")]
    for _ in range(2):
        await desk.engine.release_node("node1")
    (node,) = [n for n in (await desk.engine.observe()).nodes if n.name == "node1"]
    assert node.held == ""
    assert (await desk.get("/api/v1/nodes/node1"))["spec"]["taints"] == [other]
    await desk.engine.release_node("no-such-node")


async def test_a_lost_node(desk: Desk) -> None:
    """Its instances are lost when it is gone, not when it is silent; one that is to stop there is not living."""
    await make_node(desk, "node1")
    await desk.engine.apply(web())
    for name in ("shop-v1-web-aaaaa", "shop-v1-web-bbbbb"):
        await desk.make_pod(name)
    await desk.kubectl("delete", "pod/shop-v1-web-bbbbb", "--wait=false")
    ready = {"type": "Ready", "status": "Unknown", "lastTransitionTime": "2026-01-01T00:00:09Z"}
    await desk.client.request(
        "PATCH", "/api/v1/nodes/node1/status", body={"status": {"conditions": [ready]}},
        content_type="application/strategic-merge-patch+json",
    )  # fmt: skip
    stopping = {"shop-v1-web-bbbbb": InstanceState.STOPPING}
    await _await_instances(desk, lambda states: stopping.items() <= states.items())
    assert InstanceState.LOST not in {i.state for i in (await desk.engine.observe()).instances}
    await desk.kubectl("delete", "node/node1", "--wait=false")
    wanted = stopping | {"shop-v1-web-aaaaa": InstanceState.LOST}
    await _await_instances(desk, lambda states: states == wanted)
    reasons = {i.id: i.reason for i in (await desk.engine.observe()).instances}
    assert reasons["shop-v1-web-aaaaa"] == "its node node1 is not part of the cluster any more"
    await make_node(desk, "node1")


async def test_a_task_is_a_job_with_its_config(desk: Desk) -> None:
    task = Task(id="shop-run-1", app="shop", team="red", release=1, image="r/x@sha256:1", command="ls", env={"A": "1"})
    await desk.engine.start_task(task)
    await desk.engine.start_task(task)
    (state,) = (await desk.engine.observe()).tasks
    assert (state.id, state.done) == ("shop-run-1", False)
    job = await desk.get("/apis/batch/v1/NS/jobs/shop-run-1")
    secrets_of = (await desk.get("/api/v1/NS/secrets"))["items"]
    (secret,) = [s for s in secrets_of if s["type"] == "seaway.dev/config"]
    assert secret["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
    await desk.engine.remove_task("shop-run-1")
    assert (await desk.engine.observe()).tasks == ()


async def test_it_needs_no_more_rights_than_it_says(api_server: ApiServer) -> None:
    """As a user with the rights of access.py alone everything works."""
    desk = Desk(api_server)
    user = f"engine-{secrets.token_hex(3)}"
    await grant(desk.client, user)
    desk.client.http.headers["Impersonate-User"] = user
    await make_node_as_admin(desk)
    await desk.start()
    await desk.engine.apply(web())
    await desk.engine.apply(web(3))
    await desk.engine.hold_node("node1", "it flaps")
    await desk.engine.release_node("node1")
    task = Task(id="shop-run-1", app="shop", team="red", release=1, image="r/x@sha256:1", command="ls", env={"A": "1"})
    await desk.engine.start_task(task.model_copy(update={"stdin": "aGk="}))
    await desk.engine.remove_task("shop-run-1")
    await desk.kubectl("scale", "rs/shop-v1-web", "--replicas=9")
    await desk.await_workloads()
    await desk.engine.apply(web())
    await desk.engine.remove(KEY)
    assert (await desk.engine.observe()).workloads == ()
    with pytest.raises(Denied):
        await desk.client.request("GET", "/api/v1/services")
    await desk.close()


async def test_input_that_is_missing_is_given_when_asked_again(desk: Desk) -> None:
    """The control plane died between Job and Secret: the pod waits for it, by the name that its Job knows."""
    task = Task(id="shop-run-1", app="shop", team="red", release=1, image="r/x@sha256:1", command="ls", stdin="aGk=")
    await desk.engine.start_task(task)
    (made,) = (await desk.get("/api/v1/NS/secrets?labelSelector=seaway.dev/kind=input"))["items"]
    job = await desk.get("/apis/batch/v1/NS/jobs/shop-run-1")
    assert [owner["uid"] for owner in made["metadata"]["ownerReferences"]] == [job["metadata"]["uid"]]
    await desk.kubectl("delete", "secret", made["metadata"]["name"])
    await desk.restart()
    await desk.engine.start_task(task)
    await desk.engine.start_task(task.model_copy(update={"stdin": "b3RoZXI="}))  # it has its input by now
    (again,) = (await desk.get("/api/v1/NS/secrets?labelSelector=seaway.dev/kind=input"))["items"]
    assert (again["data"], again["metadata"]["name"]) == ({"stdin": "aGk="}, made["metadata"]["name"])
    assert again["metadata"]["ownerReferences"] == made["metadata"]["ownerReferences"]


async def test_before_the_cluster_is_known_nothing_is_said(api_server: ApiServer) -> None:
    desk = Desk(api_server)
    with pytest.raises(EngineUnavailable, match="not known yet"):
        await desk.engine.observe()
    await desk.close()


async def test_a_stalled_api_server_loses_no_instance(fragile_server: ApiServer) -> None:
    """The last picture is served on for a while; then the engine says that it does not know; then all is well again."""
    desk = Desk(fragile_server, KubernetesEngineSettings(stale_after=25.0))
    await make_node(desk, "node1")
    await desk.start()
    await desk.engine.apply(web())
    await desk.make_pod("shop-v1-web-aaaaa")
    await _await_instances(desk, lambda states: states == {"shop-v1-web-aaaaa": InstanceState.RUNNING})
    fragile_server.pause()
    try:
        for _ in range(15):
            assert [i.id for i in (await desk.engine.observe()).instances] == ["shop-v1-web-aaaaa"]
            await asyncio.sleep(1)
        assert "what runs goes on" in await eventually(lambda: find_trouble(desk), 30)
    finally:
        fragile_server.go_on()

    async def look() -> bool:
        return not await find_trouble(desk)

    await eventually(look, 30)
    assert [i.id for i in (await desk.engine.observe()).instances] == ["shop-v1-web-aaaaa"]
    await desk.close()

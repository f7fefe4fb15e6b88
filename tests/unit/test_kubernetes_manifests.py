"""What the Kubernetes engine writes: golden files, strict schemas, and the rules that hold for every pod."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from seaway.engine.kubernetes import manifests
from seaway.engine.kubernetes.settings import KubernetesEngineSettings
from seaway.engine.kubernetes.teams import judge_place, make_fences, make_namespace, make_pull_secret
from seaway.model import Check, Health, Process, Streams, Task, Terminal, Workload, WorkloadKey
from tests.golden import compare
from tests.strict_schemas import validate

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = ("1.25", "1.37")  # the oldest and the newest that kubernetes-validate carries
SETTINGS = KubernetesEngineSettings(registry="registry:5000/apps", pull_secret="seaway-system/pull")
DIGEST = "sha256:" + "0" * 64

WEB = Workload(
    key=WorkloadKey(app="shop", release=3, process="web"), team="red", count=2, image=DIGEST, routed=True,
    env={"DATABASE_URL": "mysql://db", "HOME": "/app"}, process=Process(command="python app.py"),
)  # fmt: skip
CHECKED = Workload(
    key=WorkloadKey(app="shop", release=3, process="api"), team="red", count=1, image="elsewhere/api@" + DIGEST,
    host="shop.apps.example.com",
    process=Process(
        command="cd /srv && exec ./api", stop_grace=90,
        health=Health(
            startup=Check(http="/started", timeout=5, interval=3), start_timeout=45.5,
            readiness=Check(command="test -e /tmp/ready", healthy_after=2, unhealthy_after=4),
            liveness=Check(tcp=True, interval=10, unhealthy_after=6),
        ),
    ),
)  # fmt: skip
WORKER = Workload(
    key=WorkloadKey(app="shop", release=3, process="worker"), team="red", count=1, image=DIGEST,
    process=Process(command="python worker.py", stop_grace=0.5, memory=256 << 20, cpu=0.0625, pids=64, disk=32 << 20),
)  # fmt: skip
TASK = Task(
    id="shop-v3-release", app="shop", team="red", release=3, image=DIGEST, command="./migrate", process="release",
    env={"DATABASE_URL": "mysql://db"}, timeout=59.5,
)  # fmt: skip
READER = TASK.model_copy(
    update={"id": "shop-run-1", "process": "run", "env": {}, "stdin": "aGVsbG8=", "attached": True}
)

PIPED = READER.model_copy(update={"id": "shop-run-2", "stdin": None, "streams": Streams(reads=True)})
TYPED = PIPED.model_copy(
    update={"id": "shop-run-3", "streams": Streams(reads=True, terminal=Terminal(rows=50, columns=132, kind="vt220"))}
)


def whole(workload: Workload) -> list[dict[str, Any]]:
    config = manifests.make_config(workload, SETTINGS)
    made = [manifests.make_replica_set(workload, SETTINGS, workload.count, 1)]
    return [*([config] if config else []), *made, manifests.make_budget(workload, SETTINGS, "policy/v1")]


def task() -> list[dict[str, Any]]:
    config = manifests.make_task_config(TASK, SETTINGS)
    assert config is not None
    return [config, manifests.make_job(TASK, SETTINGS, "333d6b3a")]


def reader() -> list[dict[str, Any]]:
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": READER.id, "uid": "1", "controller": True}
    job = manifests.make_job(READER, SETTINGS, "333d6b3a")
    name = job["metadata"]["annotations"]["seaway.dev/input"]
    return [job, manifests.make_task_input(READER, name, SETTINGS, owner)]


def team() -> list[dict[str, Any]]:
    secret = make_pull_secret("red", SETTINGS, {".dockerconfigjson": "e30="}, "kubernetes.io/dockerconfigjson")
    return [make_namespace("red", SETTINGS), *make_fences("red", SETTINGS), secret]


ALL = {
    "web": whole(WEB),
    "checked": whole(CHECKED),
    "worker": whole(WORKER),
    "task": task(),
    "reader": reader(),
    "piped": [manifests.make_job(PIPED, SETTINGS, "333d6b3a")],
    "typed": [manifests.make_job(TYPED, SETTINGS, "333d6b3a")],
    "team": team(),
}
PODS = [
    o["spec"]["template"]["spec"] for objects in ALL.values() for o in objects if o["kind"] in ("ReplicaSet", "Job")
]


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


@pytest.mark.parametrize("name", ALL)
def test_manifests_are_as_before(name: str) -> None:
    """A change has to be meant: SEAWAY_UPDATE_GOLDEN=1 writes the files anew."""
    compare(GOLDEN / f"kubernetes-{name}.yaml", yaml.dump_all(ALL[name], Dumper=_Plain, sort_keys=False, width=120))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ALL)
def test_each_object_is_valid_under_the_strict_schema(name: str, version: str) -> None:
    for manifest in ALL[name]:
        validate(manifest, version)


@pytest.mark.parametrize("pod", PODS)
def test_pods_have_no_rights(pod: dict[str, Any]) -> None:
    """No root, no capabilities, no token, a read-only image, requests and limits."""
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {"requests", "limits"} <= container["resources"].keys()


def test_config_is_in_the_secret_alone() -> None:
    """No value of the config stands in a pod, an annotation or a name."""
    objects = [o for name in ("web", "task") for o in ALL[name] if o["kind"] != "Secret"]
    assert "mysql" not in str(objects)
    assert [o["immutable"] for name in ("web", "task") for o in ALL[name] if o["kind"] == "Secret"] == [True, True]


def test_input_is_in_its_secret_alone() -> None:
    """Not in argv, env, an annotation or a name; the pod names the Secret, which goes with the Job."""
    job, secret = ALL["reader"]
    assert READER.stdin is not None
    assert "hello" not in str(job)
    assert READER.stdin not in str(job)
    assert secret["data"] == {"stdin": READER.stdin}
    mounted = next(v for v in job["spec"]["template"]["spec"]["volumes"] if v["name"] == "input")["secret"]
    assert mounted["secretName"] == secret["metadata"]["name"] == job["metadata"]["annotations"]["seaway.dev/input"]
    other = READER.model_copy(update={"stdin": "aGk="})
    assert manifests.make_job(other, SETTINGS, "333d6b3a") == job, "not even a hash of it"


def test_only_the_platform_says_what_is_its_own() -> None:
    """Config overrides HOME, but neither PORT nor SEAWAY_APP."""
    workload = WEB.model_copy(update={"env": {"HOME": "/app", "PORT": "1", "SEAWAY_APP": "other"}})
    pod = manifests.make_replica_set(workload, SETTINGS, 1, 1)["spec"]["template"]["spec"]
    said = {e["name"]: e.get("value") for e in pod["containers"][0]["env"]}
    assert "HOME" not in said
    assert (said["PORT"], said["SEAWAY_APP"]) == ("8080", "shop")


@pytest.mark.parametrize(("port", "said"), [(None, "8080"), (5555, "5555")])
def test_every_process_is_told_a_port(port: int | None, said: str) -> None:
    """Its image's own if seaway.toml names it, or the same for all; a check of a worker that listens there finds it."""
    process = WORKER.process.model_copy(update={"port": port, "health": Health(readiness=Check(http="/"))})
    workload = WORKER.model_copy(update={"process": process})
    (container,) = manifests.make_replica_set(workload, SETTINGS, 1, 1)["spec"]["template"]["spec"]["containers"]
    assert {"name": "PORT", "value": said} in container["env"]
    assert [(p["name"], p["containerPort"]) for p in container["ports"]] == [("http", int(said))]
    assert container["readinessProbe"]["httpGet"]["port"] == "http"


def test_which_teams_have_a_place() -> None:
    """Neither in the control plane's namespace, whatever its labels, nor in one that is somebody else's."""
    settings = KubernetesEngineSettings(own_namespace="seaway-system")
    assert judge_place("system", settings, None).endswith("the control plane's own: choose another team")
    assert judge_place("system", settings, {"seaway.dev/team": "system"}) != ""
    assert judge_place("red", settings, None) == judge_place("red", settings, {"seaway.dev/team": "red"}) == ""
    for labels in ({}, {"seaway.dev/team": "blue"}):
        assert judge_place("red", settings, labels).endswith("or label it seaway.dev/team=red")


def test_images() -> None:
    """A digest is one in Seaway's registry, a full reference stays."""
    assert manifests.image_reference(DIGEST, SETTINGS) == f"registry:5000/apps@{DIGEST}"
    assert manifests.image_reference("h/p@sha256:1", SETTINGS) == "h/p@sha256:1"

"""Seaway's own objects in a cluster: valid for the oldest and the newest schemas there are, and locked down."""

from __future__ import annotations

from typing import Any

import pytest

from seaway.engine.kubernetes.access import RULES
from seaway.install import installing
from seaway.install.errors import USAGE, InstallError
from seaway.install.manifests import ROUTER, make_manifests
from seaway.install.rights import NODE_LEASES
from seaway.install.settings import DRAIN_LIMIT, PULL_SECRET, ClusterSettings, InstallSettings
from seaway.kube.names import API_SCHEME
from tests.strict_schemas import validate

SETTINGS = InstallSettings(
    image="registry:5000/seaway@sha256:" + "0" * 64, registry="registry:5000/apps", app_instances=50, team_memory="8GiB"
)
VERSIONS = ("1.25", "1.37")  # the oldest and the newest that kubernetes-validate carries
OBJECTS = make_manifests(SETTINGS, disruption_budgets="policy/v1")


def pods() -> list[dict[str, Any]]:
    return [o["spec"]["template"]["spec"] for o in OBJECTS if o["kind"] == "Deployment"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", OBJECTS, ids=lambda o: f"{o['kind']}-{o['metadata']['name']}")
def test_each_object_is_valid_under_the_strict_schema(manifest: dict[str, Any], version: str) -> None:
    validate(manifest, version)


@pytest.mark.parametrize(("image", "standard"), [("", "restricted"), ("registry:5000/buildah:1", "privileged")])
def test_the_namespace_admits_what_runs_there(image: str, standard: str) -> None:
    """What builds Dockerfiles is root and without seccomp; a namespace that was there before keeps its own label."""
    settings = SETTINGS.model_copy(update={"build_image": image})
    label = "pod-security.kubernetes.io/enforce"
    assert make_manifests(settings)[0]["metadata"]["labels"][label] == standard
    assert label not in make_manifests(settings, found=True)[0]["metadata"]["labels"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"app_instances": -3}, "--app-instances: -3 is out of range: it must be at least 0"),
        ({"team_memory": "9999T"}, "--team-memory: 9999T is out of range: it must be at most 1125899906842624"),
        ({"domain": "http://x"}, "--domain: 'http://x' is not a host name"),
        ({"trusted_proxies": "::1,lb"}, "--trusted-proxies: 'lb' is no address and no network"),
        ({"registry": "HTTP://x"}, "--registry: 'HTTP://x': "),
    ],
)
def test_a_wrong_setting_is_named_by_its_option(given: dict[str, Any], said: str) -> None:
    """With what was given, once."""
    with pytest.raises(InstallError) as caught:
        installing._validate({"image": "registry:5000/seaway:1", **given})
    assert str(caught.value).startswith(said)
    assert caught.value.exit_code == USAGE


def test_routers_are_told_whom_to_trust() -> None:
    """Their pods' environment has it, and is read back as it was given; nobody by default."""
    given = SETTINGS.model_copy(update={"trusted_proxies": ("10.0.0.0/8", "2001:db8::/32")})
    for settings in (SETTINGS, given):
        (router,) = [
            o for o in make_manifests(settings) if (o["kind"], o["metadata"]["name"]) == ("Deployment", ROUTER)
        ]
        env = {
            e["name"]: e["value"] for e in router["spec"]["template"]["spec"]["containers"][0]["env"] if "value" in e
        }
        read = ClusterSettings.read({**env, "SEAWAY_POD": "r-1", "SEAWAY_ADDRESS": "10.0.0.1"})
        assert read.trusted_proxies == settings.trusted_proxies


def test_no_part_is_taken_out_for_being_slow() -> None:
    """Kubernetes would wait for one second; on a busy machine that took both replicas of the control plane out."""
    for pod in pods():
        for name in ("readinessProbe", "livenessProbe"):
            assert pod["containers"][0][name]["timeoutSeconds"] == 5


def test_pods_have_no_rights_that_they_do_not_need() -> None:
    """No root, no capabilities, nothing writable but their own folders."""
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert {"requests", "limits"} <= container["resources"].keys()


def test_routers_may_read_one_object_and_users_reach_one_service() -> None:
    """Routers face the world: what they hold opens nothing but the addresses of the control plane."""
    roles = {o["metadata"]["name"]: o["rules"] for o in OBJECTS if o["kind"] == "Role"}
    (router,), (user,) = roles["seaway-router"], roles["seaway-user"]
    assert (router["resources"], router["resourceNames"], router["verbs"]) == (["endpoints"], ["seaway-xds"], ["get"])
    assert (user["resources"], user["resourceNames"]) == (["services/proxy"], [f"{API_SCHEME}:seaway-control:api"])
    (cluster,) = [o for o in OBJECTS if o["kind"] == "ClusterRoleBinding"]
    assert [subject["name"] for subject in cluster["subjects"]] == ["seaway-control"]


def test_a_router_has_the_time_that_it_needs_to_stop() -> None:
    """The balancer's time, the longest draining, and a little more; else the kubelet cuts requests off."""
    made = make_manifests(SETTINGS.model_copy(update={"balancer_wait": 33.5}))
    (router,) = [o for o in made if (o["kind"], o["metadata"]["name"]) == ("Deployment", "seaway-router")]
    pod = router["spec"]["template"]["spec"]
    given = {e["name"]: e.get("value", "x") for e in pod["containers"][0]["env"]}
    assert ClusterSettings.read(given).balancer_wait == 33.5
    assert pod["terminationGracePeriodSeconds"] > 33.5 + DRAIN_LIMIT


def test_images_are_pulled_with_the_registry_login() -> None:
    made = make_manifests(SETTINGS.model_copy(update={"pull_secret": True}))
    for deployment in (o for o in made if o["kind"] == "Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        assert pod["imagePullSecrets"] == [{"name": PULL_SECRET}]
        given = {e["name"]: e.get("value", "x") for e in pod["containers"][0]["env"]}
        assert ClusterSettings.read(given).pull_secret == PULL_SECRET


def test_the_parts_find_out_where_they_are() -> None:
    """What a pod's environment says is what ClusterSettings reads."""
    for pod in pods():
        given = {e["name"]: e.get("value", f"of {e['name']}") for e in pod["containers"][0]["env"]}
        settings = ClusterSettings.read(given)
        assert settings.namespace == SETTINGS.namespace
        assert settings.registry == SETTINGS.registry
        assert settings.pod == "of SEAWAY_POD"
        assert settings.quotas() == SETTINGS.quotas()


def test_disruption_budgets_are_made_where_the_cluster_has_them() -> None:
    kinds = [o["kind"] for o in make_manifests(SETTINGS)]
    assert "PodDisruptionBudget" not in kinds
    assert [o["kind"] for o in OBJECTS].count("PodDisruptionBudget") == 2


def test_the_control_plane_may_do_what_the_engine_does() -> None:
    """Every right that the Kubernetes engine needs is in the control plane's roles, and leases only for nodes."""
    roles = [
        o
        for o in OBJECTS
        if (o["kind"] == "ClusterRole" and o["metadata"]["name"] == "seaway-control")
        or (o["kind"] == "Role" and o["metadata"]["namespace"] == NODE_LEASES)
    ]
    given = {
        (g, r, v)
        for role in roles
        for rule in role["rules"]
        for g in rule["apiGroups"]
        for r in rule["resources"]
        for v in rule["verbs"]
    }
    needed = {(group, resource, verb) for group, resources, verbs in RULES for resource in resources for verb in verbs}
    assert needed <= given

"""Seaway's own objects in a cluster: valid for the oldest and the newest schemas there are, and locked down."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest

from seaway.install.manifests import make_manifests
from seaway.install.settings import ClusterSettings, InstallSettings

SETTINGS = InstallSettings(image="registry:5000/seaway@sha256:" + "0" * 64, registry="registry:5000/apps")
VERSIONS = ("1.25", "1.37")  # the oldest and the newest that kubernetes-validate carries
OBJECTS = make_manifests(SETTINGS, disruption_budgets="policy/v1")


def pods() -> list[dict[str, Any]]:
    return [o["spec"]["template"]["spec"] for o in OBJECTS if o["kind"] == "Deployment"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", OBJECTS, ids=lambda o: f"{o['kind']}-{o['metadata']['name']}")
def test_each_object_is_valid_under_the_strict_schema(manifest: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_pods_have_no_rights_that_they_do_not_need() -> None:
    """No root, no capabilities, nothing writable but their own folders; only the control plane speaks to the API."""
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert {"requests", "limits"} <= container["resources"].keys()
    assert [pod["serviceAccountName"] for pod in pods() if pod["automountServiceAccountToken"]] == ["seaway-control"]


def test_the_parts_find_out_where_they_are() -> None:
    """What a pod's environment says is what ClusterSettings reads."""
    for pod in pods():
        given = {e["name"]: e.get("value", f"of {e['name']}") for e in pod["containers"][0]["env"]}
        settings = ClusterSettings.read(given)
        assert settings.namespace == SETTINGS.namespace
        assert settings.registry == SETTINGS.registry
        assert settings.pod == "of SEAWAY_POD"


def test_disruption_budgets_are_made_where_the_cluster_has_them() -> None:
    kinds = [o["kind"] for o in make_manifests(SETTINGS)]
    assert "PodDisruptionBudget" not in kinds
    assert [o["kind"] for o in OBJECTS].count("PodDisruptionBudget") == 2

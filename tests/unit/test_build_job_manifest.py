"""The Job that builds a Dockerfile: valid for every Kubernetes, no right more than it needs, nothing secret in it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from seaway.builder.base import BuildError
from seaway.builder.dockerfile import choose_dockerfile, explain_buildah, make_registries_conf
from seaway.builder.job_manifest import JobOrder, JobSettings, make_job
from seaway.builder.schema import BuildTable
from tests.strict_schemas import validate

SETTINGS = JobSettings("seaway-system", "h.example/buildah:1", "h.example/seaway@sha256:" + "a" * 64, "h.example/apps")
ORDER = JobOrder("build-shop-1", "shop", "h.example/apps/shop", "h.example", "ab" * 32, "docker/it's", 900.0)
LOGIN = replace(SETTINGS, secret="seaway-registry", ca_config="ca")


def containers(job: dict[str, Any]) -> list[dict[str, Any]]:
    pod = job["spec"]["template"]["spec"]
    return [*pod["initContainers"], *pod["containers"]]


@pytest.mark.parametrize("version", ["1.25", "1.37"])
@pytest.mark.parametrize("settings", [SETTINGS, LOGIN])
def test_the_job_is_valid(version: str, settings: JobSettings) -> None:
    """Under the oldest and the newest strict schemas that there are, with and without a login."""
    validate(make_job(settings, ORDER), version)


def test_the_job_ends_and_is_not_tried_again() -> None:
    """The build's limit is the Job's; one failure is the build's failure."""
    spec = make_job(SETTINGS, ORDER)["spec"]
    assert (spec["activeDeadlineSeconds"], spec["backoffLimit"]) == (900, 0)
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_rights() -> None:
    """No token of the cluster, no privileged container, no host's anything; what fetches has no capability at all."""
    job = make_job(LOGIN, ORDER)
    assert job["spec"]["template"]["spec"]["automountServiceAccountToken"] is False
    assert not {"privileged", "hostPath", "hostNetwork", "hostPID"} & set(json.dumps(job).replace('"', " ").split())
    fetcher, builder = containers(job)
    assert fetcher["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert builder["securityContext"]["capabilities"]["drop"] == ["ALL"]


def test_login_by_reference() -> None:
    """Credentials and CA are mounted, and the tools told where; without any there is no such option."""
    with_login, without = json.dumps(make_job(LOGIN, ORDER)), json.dumps(make_job(SETTINGS, ORDER))
    for word in ("--authfile", "--cert-dir", "imagePullSecrets"):
        assert word in with_login
        assert word not in without


def test_odd_names_are_quoted() -> None:
    """The Dockerfile's path is one word for the shell."""
    script = containers(make_job(SETTINGS, ORDER))[1]["command"][-1]
    assert """'/work/source/docker/it'"'"'s'""" in script


def test_registries_conf() -> None:
    """FROM without a host means the platform's own registry."""
    text = make_registries_conf("h.example:5000", insecure=True)
    assert 'unqualified-search-registries = ["h.example:5000"]' in text
    assert 'location = "h.example:5000"\ninsecure = true' in text


@pytest.mark.parametrize(
    ("names", "named", "chosen"),
    [
        ({"Dockerfile"}, None, "Dockerfile"),
        ({"Containerfile", "app.py"}, None, "Containerfile"),
        ({"Dockerfile", "Procfile"}, None, None),
        ({"Dockerfile", "Procfile", "b/D"}, "b/D", "b/D"),
        ({"app.py"}, None, None),
    ],
)
def test_which_dockerfile(names: set[str], named: str | None, chosen: str | None) -> None:
    """The one that seaway.toml names, or one without a Procfile."""
    assert choose_dockerfile(names, BuildTable(dockerfile=named)) == chosen


def test_a_dockerfile_that_is_not_there() -> None:
    """The key is named."""
    with pytest.raises(BuildError, match=r"build\.dockerfile: there is no file D in the source"):
        choose_dockerfile({"Dockerfile"}, BuildTable(dockerfile="D"))
    with pytest.raises(BuildError, match=r"build\.command: is not run where Dockerfile is: write it there, after RUN"):
        choose_dockerfile({"Dockerfile"}, BuildTable(command="make"))
    assert choose_dockerfile({"Dockerfile", "Procfile"}, BuildTable(command="make")) is None


def test_buildahs_reason() -> None:
    """Its last error, else its last line."""
    lines = ["STEP 1", "Error: building at STEP: exit status 1", "level=error something"]
    assert "level=error something" in explain_buildah(lines)
    assert "STEP 1" in explain_buildah(["STEP 1", ""])
    assert "it said nothing" in explain_buildah([])

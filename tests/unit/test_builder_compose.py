"""Putting layers on a base image: environment, user, labels; and which base images are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from seaway.builder.base import BuildError
from seaway.builder.base_image import BaseFacts, check_base, choose_platform
from seaway.builder.compose import LABEL_APP, Below, Part, Recipe, choose_user, compose, make_env
from seaway.builder.plan import BuildPlan
from seaway.builder.plan import Recipe as Dependencies
from seaway.model import BuildManifest, Process
from seaway.registry.images import Descriptor

BASE_LAYER = Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", "sha256:" + "1" * 64, 10)
CONFIG: dict[str, Any] = {
    "architecture": "amd64",
    "os": "linux",
    "config": {
        "Env": ["PATH=/usr/bin", "LANG=C.UTF-8", "HOME=/root"],
        "User": "root",
        "Entrypoint": ["/start"],
        "ExposedPorts": {"80/tcp": {}},
        "Volumes": {"/data": {}},
    },
    "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "2" * 64]},
}
BELOW = Below("h.example/base:1", "sha256:" + "3" * 64, CONFIG, (BASE_LAYER,))
RECIPE = Recipe((Part("sha256:" + "4" * 64, 20, "app"),), "3.11", "x86_64-manylinux_2_28")
MANIFEST = BuildManifest(processes={"worker": Process(command="work"), "web": Process(command="serve $PORT")})
FACTS = BaseFacts("h.example/base:1", BELOW.digest, {"3.11": "/usr/bin/python3.11"}, "3.11", "glibc", (2, 36))
PLAN = BuildPlan(Dependencies.LOCK, "3.11", "key", False, "x86_64-manylinux_2_31", None)


def test_composed_image() -> None:
    """Base layers first, ours after; a shell runs the web command in /app as a number that is not root's."""
    composed = compose(BELOW, RECIPE, MANIFEST)
    manifest, config = json.loads(composed.manifest), json.loads(composed.config)
    assert [layer["digest"] for layer in manifest["layers"]] == [BASE_LAYER.digest, RECIPE.parts[0].digest]
    assert config["rootfs"]["diff_ids"] == ["sha256:" + "2" * 64, RECIPE.parts[0].digest]
    settings = config["config"]
    assert settings["Cmd"] == ["/bin/sh", "-c", "serve $PORT"]
    assert (settings["User"], settings["WorkingDir"]) == ("10001:10001", "/app")
    assert not {"Entrypoint", "ExposedPorts", "Volumes"} & set(settings)
    assert settings["Labels"]["org.opencontainers.image.base.name"] == BELOW.name
    assert settings["Labels"]["org.opencontainers.image.base.digest"] == BELOW.digest
    assert BuildManifest.model_validate_json(settings["Labels"][LABEL_APP]) == MANIFEST
    assert len([entry for entry in config["history"] if not entry.get("empty_layer")]) == len(manifest["layers"])


def test_composing_is_reproducible() -> None:
    """The same in, the same digest; another base, another digest."""
    digest = compose(BELOW, RECIPE, MANIFEST).digest
    assert compose(BELOW, RECIPE, MANIFEST).digest == digest
    assert compose(replace(BELOW, digest="sha256:" + "5" * 64), RECIPE, MANIFEST).digest != digest


def test_environment() -> None:
    """Our folders come before the base's, the base's own variables stay, HOME is where one may write."""
    env = dict(entry.split("=", 1) for entry in make_env(["PATH=/usr/bin", "A=b=c", "HOME=/root"], RECIPE))
    assert env == {
        "A": "b=c",
        "PATH": "/opt/seaway/venv/bin:/opt/seaway/python/bin:/usr/bin",
        "VIRTUAL_ENV": "/opt/seaway/venv",
        "PYTHONPATH": "/app",
        "PYTHONUNBUFFERED": "1",
        "HOME": "/tmp",
    }
    plain = dict(entry.split("=", 1) for entry in make_env([], replace(RECIPE, python=None)))
    assert plain["PATH"].endswith(":/opt/seaway/python/bin")
    assert "PYTHONPATH" not in plain


OWN = "10001:10001"


@pytest.mark.parametrize(
    ("user", "chosen"),
    [("", OWN), ("root", OWN), ("0:0", OWN), ("www", OWN), ("5:www", OWN), ("33", "33"), ("5:6", "5:6")],
)
def test_user(user: str, chosen: str) -> None:
    """Kubernetes believes only numbers to be not root."""
    assert choose_user(user) == chosen


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"has_shell": False}, "has no /bin/sh"),
        ({"pythons": {}}, "has no Python, which the app needs"),
        ({"libc": "musl", "glibc": ()}, "is built on musl"),
        ({"glibc": (2, 17)}, "has glibc 2.17, dependencies need 2.28"),
    ],
)
def test_base_images_that_do_not_fit(changes: dict[str, Any], sentence: str) -> None:
    """Each is refused with its name, what it lacks, and what to do."""
    with pytest.raises(BuildError) as caught:
        check_base(replace(FACTS, **changes), PLAN)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("the base image h.example/base:1 ")


def test_base_images_that_fit() -> None:
    """An app without Python runs on any with a shell; one without dependencies on any libc."""
    check_base(FACTS, PLAN)
    check_base(replace(FACTS, pythons={}), replace(PLAN, python=None))
    check_base(replace(FACTS, libc="musl", glibc=()), replace(PLAN, dependency_key=None))


@pytest.mark.parametrize(
    ("glibc", "here", "platform"),
    [
        ((2, 36), "x86_64-manylinux_2_28", "x86_64-manylinux_2_31"),
        ((2, 28), "aarch64-manylinux_2_28", "aarch64-manylinux_2_28"),
        ((), "x86_64-manylinux_2_28", "x86_64-manylinux_2_28"),
        ((2, 36), "riscv64-glibc2.39", "riscv64-glibc2.39"),
    ],
)
def test_platform_of_wheels(glibc: tuple[int, ...], here: str, platform: str) -> None:
    """The newest kind of wheel that the base image's libc can load."""
    assert choose_platform(replace(FACTS, glibc=glibc), here) == platform

"""A base image's configuration and layers, and ours, to the image that runs. Pure: the same in, the same out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seaway.builder.image import (
    APP_FOLDER,
    EPOCH,
    LABEL_BASE,
    LABEL_PLATFORM,
    LABEL_RUNTIME,
    PYTHON_ENV,
    PYTHON_FOLDER,
    SYSTEM_PATH,
    VENV,
)
from seaway.builder.layout import CONFIG_TYPE, LAYER_TYPE, MANIFEST_TYPE
from seaway.model import WEB, BuildManifest
from seaway.registry.images import Descriptor

LABEL_BASE_DIGEST = "org.opencontainers.image.base.digest"
LABEL_APP = "io.seaway.app"  # the BuildManifest as JSON: what the app's own files say
USER = "10001:10001"
HOME = "/tmp"  # noqa: S108  # the one place where a container may write
SHELL = ("/bin/sh", "-c")


@dataclass(frozen=True)
class Part:
    """One of our layers: plain tar, so its digest is its diff_id; `holds` is one word for the history."""

    digest: str
    size: int
    holds: str


@dataclass(frozen=True)
class Recipe:
    """What our layers are, and what they need to run: `python` None means the app has none of its own."""

    parts: tuple[Part, ...]
    python: str | None
    platform: str


@dataclass(frozen=True)
class Below:
    """The base image: its name (with tag, as people know it), digest, whole configuration and layers."""

    name: str
    digest: str
    config: Mapping[str, Any]
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True)
class Composed:
    """The bytes of configuration and manifest."""

    config: bytes
    manifest: bytes

    @property
    def digest(self) -> str:
        """The image's digest."""
        return "sha256:" + hashlib.sha256(self.manifest).hexdigest()


def compose(below: Below, recipe: Recipe, manifest: BuildManifest) -> Composed:
    """Put the layers on the base: no entrypoint but a shell's, a numeric user that is not root, /app to start in."""
    labels = {
        LABEL_RUNTIME: f"python{recipe.python}" if recipe.python else "none",
        LABEL_PLATFORM: recipe.platform,
        LABEL_BASE: below.name,
        LABEL_BASE_DIGEST: below.digest,
        LABEL_APP: manifest.model_dump_json(),
    }
    settings = below.config.get("config") or {}
    ours = [{"created": EPOCH, "created_by": f"seaway: {part.holds}"} for part in recipe.parts]
    config = {
        "created": EPOCH,
        **{key: below.config[key] for key in ("architecture", "os", "variant") if key in below.config},
        "config": {
            "User": choose_user(str(settings.get("User") or "")),
            "Env": make_env(settings.get("Env") or (), recipe),
            "Cmd": [*SHELL, _main_command(manifest)],
            "WorkingDir": APP_FOLDER,
            "Labels": labels,
        },
        "rootfs": {
            "type": "layers",
            "diff_ids": [*below.config["rootfs"]["diff_ids"], *(part.digest for part in recipe.parts)],
        },
        "history": [*_history(below), *ours],
    }
    return _compose_manifest(below, recipe, encode(config))


def _compose_manifest(below: Below, recipe: Recipe, packed: bytes) -> Composed:
    layers = [*below.layers, *(Descriptor(LAYER_TYPE, part.digest, part.size) for part in recipe.parts)]
    whole = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {
            "mediaType": CONFIG_TYPE,
            "digest": "sha256:" + hashlib.sha256(packed).hexdigest(),
            "size": len(packed),
        },
        "layers": [{"mediaType": x.media_type, "digest": x.digest, "size": x.size} for x in layers],
        "annotations": {LABEL_BASE: below.name, LABEL_BASE_DIGEST: below.digest},
    }
    return Composed(packed, encode(whole))


def choose_user(user: str) -> str:
    """Return the base's user if Kubernetes can tell that it is not root (it is a number), else Seaway's own."""
    number, _, group = user.partition(":")
    numeric = number.isdecimal() and (not group or group.isdecimal())
    return user if numeric and int(number) != 0 else USER


def make_env(base: Sequence[str], recipe: Recipe) -> list[str]:
    """Return the base's environment with our folders first; order as in the base, ours at the end."""
    env = dict(entry.split("=", 1) for entry in base if "=" in entry)
    path = env.pop("PATH", "") or SYSTEM_PATH
    below = env.pop("PYTHONPATH", "")
    for name in ("HOME", *PYTHON_ENV):
        env.pop(name, None)
    bin_folder = f"{PYTHON_FOLDER}/bin"
    env["PATH"] = ":".join([f"{VENV}/bin", bin_folder, path] if recipe.python else [path, bin_folder])
    if recipe.python:
        env |= PYTHON_ENV
        env["PYTHONPATH"] += f":{below}" if below else ""
    env["HOME"] = HOME
    return [f"{name}={value}" for name, value in env.items()]


def _history(below: Below) -> list[Mapping[str, Any]]:
    """Return the base's history; tools want an entry for each layer, and some bases have none."""
    history: list[Mapping[str, Any]] = list(below.config.get("history") or ())
    lacking = len(below.layers) - sum(not entry.get("empty_layer") for entry in history)
    return [*history, *([{"created": EPOCH, "created_by": "base image"}] * lacking)]


def _main_command(manifest: BuildManifest) -> str:
    name = WEB if WEB in manifest.processes else next(iter(manifest.processes))
    return manifest.processes[name].command


def encode(value: Mapping[str, Any]) -> bytes:
    """Return JSON in the one form that gives the same bytes everywhere."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

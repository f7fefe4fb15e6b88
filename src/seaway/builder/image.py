"""Layers and images: reproducible by construction, written without any container engine.

Layers are plain tar, not gzip: the bytes a compressor writes differ between versions of zlib (and zlib-ng), so
"same source, same digest, on any machine" holds only for what is not compressed. A layer's digest is its diff_id.
"""

from __future__ import annotations

import json
import os
import platform
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any, cast

from seaway.builder.layout import CONFIG_TYPE, LAYER_TYPE, MANIFEST_TYPE, Blob, ImageLayout
from seaway.builder.plan import BuildPlan
from seaway.builder.source import HashingWriter, SourceFile, add_file

APP_FOLDER = "/app"
VENV = "/opt/seaway/venv"  # a virtual environment, of all layers together
PYTHON_FOLDER = "/opt/seaway/python"  # on a base image: what its interpreters are called here
PYTHON_ENV = {"VIRTUAL_ENV": VENV, "PYTHONPATH": APP_FOLDER, "PYTHONUNBUFFERED": "1"}
"""Of Python apps: their own modules are found wherever a command begins, as other platforms have it."""
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

LABEL_RUNTIME = "io.seaway.runtime"  # python3.11, or none
LABEL_LOCAL = "io.seaway.local"  # "true": the layers run on a machine's own interpreters
LABEL_PLATFORM = "io.seaway.platform"
LABEL_BASE = "org.opencontainers.image.base.name"

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le"}
EPOCH = "1970-01-01T00:00:00Z"


@dataclass(frozen=True)
class TextFile:
    """A file of a layer whose content the builder made itself."""

    name: str
    content: bytes
    executable: bool = False


@dataclass(frozen=True)
class Layer:
    """A layer in the store, and what it holds in one word."""

    blob: Blob
    holds: str


def this_architecture() -> str:
    """Return this machine's architecture in OCI's words."""
    machine = platform.machine()
    return ARCHITECTURES.get(machine, machine)


def write_layer(layout: ImageLayout, files: Iterable[SourceFile | TextFile], scratch: Path) -> Blob:
    """Write the files (named by their full path without leading /) as one layer; order and folders are normalised."""
    ordered = sorted(files, key=lambda file: os.fsencode(file.name))
    handle, temporary = tempfile.mkstemp(prefix="layer-", dir=scratch)
    with os.fdopen(handle, "wb", buffering=1024 * 1024) as opened:
        hashing = HashingWriter(opened)
        with tarfile.open(fileobj=cast(IO[bytes], hashing), mode="w", format=tarfile.PAX_FORMAT) as archive:
            _add_all(archive, ordered)
    return layout.put_file(Path(temporary), "sha256:" + hashing.sha256.hexdigest())


def _add_all(archive: tarfile.TarFile, files: Iterable[SourceFile | TextFile]) -> None:
    folders: set[str] = set()
    for file in files:
        parts = file.name.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth])
            if folder not in folders:
                folders.add(folder)
                info = tarfile.TarInfo(folder)
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(info)
        if isinstance(file, SourceFile):
            add_file(archive, file.name, file)
            continue
        info = tarfile.TarInfo(file.name)
        info.mode, info.size = (0o755 if file.executable else 0o644), len(file.content)
        archive.addfile(info, BytesIO(file.content))


def write_image(layout: ImageLayout, plan: BuildPlan, layers: list[Layer]) -> str:
    """Write config and manifest over the layers, name the image in the index, return its digest."""
    labels = {LABEL_RUNTIME: plan.runtime, LABEL_LOCAL: "true", LABEL_PLATFORM: plan.platform}
    if plan.base:
        labels[LABEL_BASE] = plan.base
    config = {
        "created": EPOCH,
        "architecture": this_architecture(),
        "os": "linux",
        "config": {"Env": _make_env(plan), "WorkingDir": APP_FOLDER, "Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [layer.blob.digest for layer in layers]},
        "history": [{"created": EPOCH, "created_by": f"seaway: {layer.holds}"} for layer in layers],
    }
    config_blob = layout.put_bytes(_encode(config))
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": CONFIG_TYPE, "digest": config_blob.digest, "size": config_blob.size},
        "layers": [{"mediaType": LAYER_TYPE, "digest": layer.blob.digest, "size": layer.blob.size} for layer in layers],
    }
    if plan.base:
        manifest["annotations"] = {LABEL_BASE: plan.base}
    blob = layout.put_bytes(_encode(manifest))
    layout.add_image(blob)
    return blob.digest


def _make_env(plan: BuildPlan) -> list[str]:
    if plan.python is None:
        return [f"PATH={SYSTEM_PATH}"]
    return [f"PATH={VENV}/bin:{SYSTEM_PATH}", *(f"{name}={value}" for name, value in PYTHON_ENV.items())]


def _encode(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

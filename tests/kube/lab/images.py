"""Images without a download: `pause`, `busybox`, and a Debian base with Python, each one layer, kept in the cache."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tests.kube.lab.binaries import cache_home, hold
from tests.packages import ensure_packages

OCI = "application/vnd.oci.image."
MANIFEST = f"{OCI}manifest.v1+json"
BUILD_PACKAGES = ("buildah", "ca-certificates")
BASE_PACKAGES = ("python3-minimal", "libpython3-stdlib", "ca-certificates", "tzdata", "media-types")


@dataclass(frozen=True)
class Image:
    """An image of one layer: the gzipped layer's file and what its configuration says."""

    layer: Path
    diff_id: str  # digest of the layer before gzip
    config: dict[str, Any]


def digest(content: bytes) -> str:
    """Return a digest as OCI writes it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def pack_layer(archive: bytes, target: Path) -> str:
    """Write a tar as a gzipped layer; return the digest of the tar."""
    partial = target.with_suffix(".new")
    partial.write_bytes(gzip.compress(archive, compresslevel=1, mtime=0))
    partial.rename(target)
    return digest(archive)


def tar_files(files: dict[str, Path | str]) -> bytes:
    """Return a tar of programs (Path), links (text) and folders (names that end with a slash)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, source in files.items():
            info = tarfile.TarInfo(name.rstrip("/"))
            info.mode = 0o755
            if isinstance(source, Path):
                info.size = source.stat().st_size
                with source.open("rb") as file:
                    tar.addfile(info, file)
            elif name.endswith("/"):
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                info.type, info.linkname = tarfile.SYMTYPE, source
                tar.addfile(info)
    return buffer.getvalue()


def make_small(name: str, files: dict[str, Path | str], entrypoint: Sequence[str], folder: Path) -> Image:
    """Return an image of a few files."""
    layer = folder / f"{name}.tar.gz"
    return Image(layer, pack_layer(tar_files(files), layer), {"Entrypoint": list(entrypoint), "Env": ["PATH=/bin"]})


def ensure_base() -> Image:
    """Return a Debian 12 with Python 3.11 (about 35 MB)."""
    return ensure_debian("base", BASE_PACKAGES)


def ensure_builder() -> Image:
    """Return a Debian 12 with buildah, which builds Dockerfiles in a cluster."""
    return ensure_debian("buildah", BUILD_PACKAGES)


def ensure_debian(kind: str, packages: Sequence[str]) -> Image:
    """Return a Debian 12 with these packages, made by mmdebstrap once and then taken from the cache."""
    name = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:12]
    folder = cache_home() / "images"
    layer, about = folder / f"{kind}-{name}.tar.gz", folder / f"{kind}-{name}.json"
    with hold(folder / "base.lock"):
        if not about.exists() or not layer.exists():
            ensure_packages("images")
            print(f"makes the image {kind}: about 20 s, once", flush=True)
            about.write_text(json.dumps({"diff_id": pack_layer(bootstrap(folder / f"{kind}.tar", packages), layer)}))
    config = {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"], "Cmd": ["python3"]}
    return Image(layer, json.loads(about.read_text())["diff_id"], config)


def bootstrap(target: Path, packages: Sequence[str]) -> bytes:
    """Return the tar of a minimal Debian, without documentation and package lists."""
    drop = [
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
    ]
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}", *drop]
    clean = "--customize-hook=rm -rf $1/var/lib/apt/lists/* $1/var/cache/* $1/var/log/*"
    subprocess.run([*command, clean, "bookworm", str(target)], check=True, cwd="/")
    content = target.read_bytes()
    target.unlink()
    return content


def push(client: httpx2.Client, image: Image, name: str, tag: str) -> str:
    """Push an image to the registry that `client` talks to; return the manifest's digest."""
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": image.config,
        "rootfs": {"type": "layers", "diff_ids": [image.diff_id]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "the lab"}],  # buildah wants one for each layer
    }
    blobs = [json.dumps(config).encode(), image.layer.read_bytes()]
    for blob in blobs:
        push_blob(client, name, blob)
    kinds = (f"{OCI}config.v1+json", f"{OCI}layer.v1.tar+gzip")
    parts = [
        {"mediaType": kind, "digest": digest(blob), "size": len(blob)} for kind, blob in zip(kinds, blobs, strict=True)
    ]
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": parts[0], "layers": parts[1:]}
    body = json.dumps(manifest).encode()
    answer = client.put(f"/v2/{name}/manifests/{tag}", content=body, headers={"Content-Type": MANIFEST})
    answer.raise_for_status()
    return digest(body)


def push_blob(client: httpx2.Client, name: str, blob: bytes) -> None:
    """Push one blob unless the registry has it."""
    if client.head(f"/v2/{name}/blobs/{digest(blob)}").status_code == 200:
        return
    begun = client.post(f"/v2/{name}/blobs/uploads/")
    begun.raise_for_status()
    where = httpx2.URL(begun.headers["Location"]).copy_add_param("digest", digest(blob))
    client.put(where, content=blob, headers={"Content-Type": "application/octet-stream"}).raise_for_status()


def push_all(registry: str, programs: Path, folder: Path) -> None:
    """Push the lab's images: pause:1, busybox:1 (httpd, sh, sleep and the rest) and base:1."""
    folder.mkdir(parents=True, exist_ok=True)
    with httpx2.Client(base_url=f"http://{registry}", timeout=60, trust_env=False) as client:
        push(client, make_small("pause", {"pause": pause_program(programs)}, ["/pause"], folder), "pause", "1")
        push(client, make_busybox(folder), "busybox", "1")
        push(client, ensure_base(), "base", "1")


def make_busybox(folder: Path) -> Image:
    """Return an image of the machine's static busybox with all its names."""
    busybox = Path(shutil.which("busybox") or "/bin/busybox")
    shown: dict[str, Path | str] = {"bin/": "", "bin/busybox": busybox, "tmp/": "", "www/": ""}
    names = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    shown |= {f"bin/{name}": "busybox" for name in names if name != "busybox"}
    return make_small("busybox", shown, ["/bin/sh"], folder)


def pause_program(programs: Path) -> Path:
    """Return `pause`: built with the servers, or compiled here where KUBEBUILDER_ASSETS lacks it."""
    built = programs / "pause"
    if built.exists():
        return built
    made = cache_home() / "pause"
    if not made.exists():
        ensure_packages("kubernetes-source")
        source = "#include <signal.h>\n#include <unistd.h>\nint main(void) { for (;;) pause(); }\n"
        compiler = ["gcc", "-Os", "-static", "-x", "c", "-o", str(made), "-"]
        subprocess.run(compiler, input=source, text=True, check=True)
    return made

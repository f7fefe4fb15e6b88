"""Dockerfiles: when one is used, and the buildah commands that build, push and remember its image. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from seaway.builder.base import TO_CONTAINERS, BuildError
from seaway.builder.manifest import PROCFILE, SEAWAY_TOML
from seaway.builder.schema import BuildTable

DOCKERFILES = ("Dockerfile", "Containerfile")
PUSHED_TAG = "dockerfile"  # buildah pushes no image without a tag; what it pushed counts by digest
NO_TOOL = (
    "nothing here can build it: give the platform an image that has buildah (SEAWAY_BUILD_IMAGE), or run the control "
    f"plane as root where buildah is installed, or add a {PROCFILE} and do without a Dockerfile"
)
ALONE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
"""In namespaces of its own: when it is killed nothing of it runs on or stays mounted."""

MORE_CONFIG = "/etc/containers/registries.conf.d"
"""Here distributions say that `python` means a public registry's; FROM without a host is to mean the platform's."""
HIDE_MORE = f'if [ -d {MORE_CONFIG} ]; then mount --bind "$0" {MORE_CONFIG}; fi; exec "$@"'


def choose_dockerfile(names: Set[str], build: BuildTable) -> str | None:
    """Return the Dockerfile that the source is built by: the one that seaway.toml names, or one without a Procfile."""
    if build.dockerfile is not None and build.dockerfile not in names:
        raise BuildError(f"{SEAWAY_TOML}: build.dockerfile: there is no file {build.dockerfile} in the source")
    found = None if PROCFILE in names else next((name for name in DOCKERFILES if name in names), None)
    chosen = build.dockerfile or found
    if chosen is not None and build.command is not None:
        raise BuildError(f"{SEAWAY_TOML}: build.command: is not run where {chosen} is: write it there, after RUN")
    return chosen


def refuse_dockerfile(name: str) -> BuildError:
    """Return why it is not built on one machine without containers."""
    return BuildError(f"{name}: {TO_CONTAINERS}; or add a {PROCFILE} with a line such as web: python app.py")


@dataclass(frozen=True)
class Tool:
    """How buildah reaches the registry. Paths are of where it runs; "" where there is none."""

    host: str
    repository: str  # HOST/PATH/APP
    insecure: bool = False
    certificates: str = ""  # a folder with the CA's certificate
    credentials: str = ""  # shaped like Docker's config.json
    storage: str = "overlay"
    alone: bool = True  # in namespaces of its own; a container has them already


@dataclass(frozen=True)
class Steps:
    """The commands in order, the environment they need, and where the digest of the pushed image then stands."""

    commands: tuple[tuple[str, ...], ...]
    env: dict[str, str]
    files: dict[str, str]  # path -> content, to be written first
    digest_file: str


def plan_buildah(tool: Tool, dockerfile: str, context: str, scratch: str) -> Steps:
    """Return how the Dockerfile (a path inside `context`) is built; `scratch` is a folder of its own."""
    place = PurePosixPath(scratch)
    config, identity, digest = str(place / "registries.conf"), str(place / "image-id"), str(place / "digest")
    login = [*(["--authfile", tool.credentials] if tool.credentials else [])]
    login += ["--cert-dir", tool.certificates] if tool.certificates else []
    nothing = place / "nothing"
    alone = [*ALONE, "/bin/sh", "-ec", HIDE_MORE, str(nothing)]
    start = [*(alone if tool.alone else ()), "buildah", "--storage-driver", tool.storage]
    start += ["--root", str(place / "storage"), "--runroot", str(place / "run")]
    cache = f"{tool.repository}.cache"
    build = [*start, "build", *login, "--isolation", "chroot", "--format", "oci", "--timestamp", "0"]
    build += ["--layers", "--cache-from", cache, "--cache-to", cache]
    build += ["--iidfile", identity, "--file", str(PurePosixPath(context) / dockerfile), context]
    push = [*start, "push", *login, "--format", "oci", "--digestfile", digest]
    last = ["/bin/sh", "-c", 'exec "$@" "$(cat "$0")" "docker://$IMAGE"', identity, *push]
    return Steps(
        commands=(tuple(build), tuple(last)),
        # Left to itself, it works below /var/tmp, where nobody clears away after one that was killed.
        env={"CONTAINERS_REGISTRIES_CONF": config, "IMAGE": f"{tool.repository}:{PUSHED_TAG}", "TMPDIR": scratch},
        files={config: make_registries_conf(tool.host, insecure=tool.insecure), str(nothing / "empty"): ""},
        digest_file=digest,
    )


def explain_buildah(output: Sequence[str]) -> str:
    """Condense buildah's last lines to one reason."""
    lines = [line.strip() for line in output if line.strip()]
    wrong = [line for line in lines if line.lower().startswith("error") or "level=error" in line]
    reason = [*lines, *wrong][-1] if lines else "it said nothing"
    return f"the Dockerfile cannot be built: {reason[:900].rstrip('.')}; the build's log has it in full"


def make_registries_conf(host: str, *, insecure: bool) -> str:
    """Return buildah's configuration: FROM without a host means the platform's own registry, and nothing is asked."""
    lines = [f"unqualified-search-registries = [{json.dumps(host)}]", 'short-name-mode = "disabled"', "[[registry]]"]
    return "\n".join([*lines, f"location = {json.dumps(host)}", f"insecure = {json.dumps(insecure)}", ""])


def in_container(tool: Tool) -> Tool:
    """Return the same for a container of its own, which has no overlay file system to mount."""
    return replace(tool, storage="vfs", alone=False)

"""What builds of Dockerfiles in the cluster need in its registry."""

from __future__ import annotations

from pathlib import Path

import httpx2

from tests.kube.fixture import Cluster
from tests.kube.lab.images import ensure_builder, make_busybox, push


def push_build_images(cluster: Cluster, folder: Path) -> str:
    """Push a Debian with buildah, and `small:1`, a busybox to build upon; return the former."""
    with httpx2.Client(base_url=f"http://{cluster.registry}", timeout=120, trust_env=False) as client:
        push(client, make_busybox(folder), "small", "1")
        push(client, ensure_builder(), "buildah", "1")
    return f"{cluster.registry}/buildah:1"

"""What tests know of the cluster that they run against."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kube.lab.binaries import ensure_binaries
from tests.kube.lab.cluster import down, running, up
from tests.kube.lab.settings import KUBECONFIG, REGISTRY
from tests.kube.lab.settings import LOGS as CLUSTER_LOGS
from tests.told import LOGS

ENVIRONMENT = "SEAWAY_TEST_KUBECONFIG"


@dataclass(frozen=True)
class Cluster:
    """A cluster. `registry` is where its nodes pull from ("" if unknown); `lab`: this project's own, on this machine.

    Of the lab's registry come `REGISTRY/base:1` (Debian 12 with Python 3.11), `busybox:1` and `pause:1`.
    """

    kubeconfig: Path
    kubectl_program: str
    registry: str
    lab: bool

    def kubectl(self, *words: str, check: bool = True, stdin: str | None = None, timeout: float = 90) -> str:
        """Run kubectl and return what it printed; AssertionError with what it said if it failed and `check`."""
        command = [self.kubectl_program, f"--kubeconfig={self.kubeconfig}", *words]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout)
        assert not check or done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr or done.stdout}"
        return done.stdout

    def get(self, *words: str) -> Any:
        """Return an object, or a list's items."""
        found = json.loads(self.kubectl("get", *words, "-o", "json"))
        return found["items"] if found.get("kind", "").endswith("List") else found

    @property
    def base_image(self) -> str:
        """An image with Python 3.11."""
        return f"{self.registry}/base:1"

    @property
    def busybox_image(self) -> str:
        """A small image."""
        return f"{self.registry}/busybox:1"


def given_cluster() -> Cluster | None:
    """Return the cluster that the environment names, if it does; it is neither changed nor stopped.

    SEAWAY_TEST_REGISTRY names its registry; the lab's is known.
    """
    path = os.environ.get(ENVIRONMENT)
    if not path:
        return None
    lab = Path(path).resolve() == KUBECONFIG
    program = shutil.which("kubectl") or str(ensure_binaries() / "kubectl")
    registry = os.environ.get("SEAWAY_TEST_REGISTRY", REGISTRY if lab else "")
    return Cluster(Path(path), program, registry, lab)


def why_not() -> str:
    """Return why this machine cannot run the test cluster, or ""."""
    if os.geteuid() != 0:
        return f"the test cluster needs root; set {ENVIRONMENT} to use another cluster"
    if not Path("/etc/debian_version").exists():
        return f"the test cluster is made from Debian's packages; set {ENVIRONMENT} to use another cluster"
    return ""


@contextmanager
def own_cluster() -> Iterator[Cluster]:
    """Yield the test cluster: one that runs already stays, one that is started here is removed, whatever happens."""
    there = running()
    try:
        with LOGS.shown(CLUSTER_LOGS, lines=5):
            kubeconfig = up()
            yield Cluster(kubeconfig, str(ensure_binaries() / "kubectl"), REGISTRY, lab=True)
    finally:
        if not there:
            down()

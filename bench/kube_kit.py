"""What the measurements on a cluster share: the cluster, a platform on it, its API, and reports.

The cluster is that of SEAWAY_TEST_KUBECONFIG, or the project's own, started for the run. Seaway's own parts run as
processes of this machine (tests/kube/platform.py), the apps in pods.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
from tests.kube.fixture import given_cluster, own_cluster
from tests.kube.platform import KubePlatform, Part

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"


@contextmanager
def open_platform(controls: int = 2, routers: int = 2) -> Iterator[KubePlatform]:
    """Yield a platform of its own on the cluster; it is removed afterwards."""
    given = given_cluster()
    if given is None:
        with own_cluster() as cluster:
            yield from _run(KubePlatform(cluster, Path(tempfile.mkdtemp(prefix="swb-")), controls, routers))
        return
    yield from _run(KubePlatform(given, Path(tempfile.mkdtemp(prefix="swb-")), controls, routers))


def _run(made: KubePlatform) -> Iterator[KubePlatform]:
    end_in_order()
    try:
        made.up()
        yield made
    finally:
        made.down()
        subprocess.run(["rm", "-rf", str(made.folder)], check=False)


def end_in_order() -> None:
    """Let SIGTERM end this process as Ctrl-C does: nothing is left behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))


class Api:
    """The HTTP API of one replica, as an administrator."""

    def __init__(self, made: KubePlatform, control: Part | None = None) -> None:
        token = made.home.admin_token.read_text().strip()
        port = (control or made.front).ports["api"]
        self.base, self.headers = f"https://127.0.0.1:{port}/v1", {"Authorization": f"Bearer {token}"}
        self.trust = ssl.create_default_context(cafile=str(made.authority))
        self._http = httpx2.Client(verify=self.trust, headers=self.headers, trust_env=False, timeout=60)

    def call(self, method: str, path: str, body: Any = None, content: bytes | None = None) -> Any:
        """Send a request and return the JSON that comes back; raise httpx2.HTTPError."""
        answer = self._http.request(method, f"{self.base}{path}", json=body, content=content)
        answer.raise_for_status()
        return answer.json()


def read_nodes(made: KubePlatform) -> dict[str, bool]:
    """Return each node and whether it is ready."""
    found = made.cluster.get("nodes")
    return {n["metadata"]["name"]: ("Ready", "True") in _conditions(n) for n in found}


def _conditions(node: Any) -> set[tuple[str, str]]:
    return {(c["type"], c["status"]) for c in node["status"]["conditions"]}


def describe_machine() -> str:
    """Return what the figures of a run depend on, as one line."""
    about = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((x.partition(":")[2].strip() for x in about if "model name" in x), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit}; {os.cpu_count()} cores ({model}), {memory:.0f} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()}; load before the run {load}"
    )


class Report:
    """Markdown that is printed as it comes and, if wanted, kept below bench/results."""

    def __init__(self, name: str, title: str) -> None:
        self.name = name
        self._lines: list[str] = []
        self.say(f"# {title}")
        self.say(describe_machine())

    def say(self, text: str) -> None:
        """Add a paragraph."""
        print(text, flush=True)
        self._lines += [text, ""]

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Add a table; its first column is text, the others are figures."""
        lines = [f"| {' | '.join(header)} |", f"| --- |{' ---: |' * (len(header) - 1)}"]
        self.say("\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)]))

    def save(self, raw: object) -> None:
        """Keep the report, and the raw figures beside it."""
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{self.name}.md").write_text("\n".join(self._lines).rstrip() + "\n")
        (RESULTS / f"{self.name}.json").write_text(json.dumps(raw, indent=1) + "\n")

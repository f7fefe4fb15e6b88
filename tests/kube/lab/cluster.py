"""Brings the test cluster up from what `seaway cluster render` makes, and down without a trace."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import seaway.cluster
from seaway.cluster.certificates import list_certificates
from seaway.cluster.config import parse_cluster
from seaway.cluster.issuing import Issuer
from seaway.cluster.render import render
from seaway.cluster.writing import write_files
from tests.kube.lab import cgroups, images, machine, nodes, record
from tests.kube.lab.binaries import VERSION, ensure_binaries
from tests.kube.lab.processes import PIDS, alive, start, start_unit, wait
from tests.kube.lab.settings import (
    API,
    FAST,
    KUBECONFIG,
    LOGS,
    MASTERS,
    NODES,
    REGISTRY,
    ROLES,
    STATE,
    make_cluster_toml,
)
from tests.packages import ensure_packages

READY = STATE / "ready"
PACKAGES = ("processes", "cluster-files", "networks", "images", "cluster")


@contextmanager
def step(what: str) -> Iterator[None]:
    """Print what is being done and, after it, how long it took."""
    began = time.monotonic()
    print(f"  {what}", end="", flush=True)
    yield
    print(f"  {time.monotonic() - began:.1f} s", flush=True)


def up(env: Mapping[str, str] = os.environ) -> Path:
    """Start the cluster unless it runs, cleaning up first what an earlier one left; return the kubeconfig's path.

    Raises LabError. Everything that takes minutes (packages, programs, base image) is done before anything is
    started, and only the first time.
    """
    record.require_root()
    ensure_packages(*PACKAGES)
    programs = ensure_binaries(env)
    images.ensure_base()
    if not running(env):  # several may find at the same time that it does
        with record.alone():
            if not running(env):
                start_anew(programs)
                return KUBECONFIG
    print("  the test cluster runs already", flush=True)
    return KUBECONFIG


def start_anew(programs: Path) -> None:
    """Remove what an earlier cluster left, and start one."""
    if record.clean():
        print("  removed an earlier test cluster", flush=True)
    began = time.monotonic()
    record.begin()
    start_all(programs)
    READY.write_text(fingerprint(programs))
    print(f"  the cluster is ready after {time.monotonic() - began:.0f} s", flush=True)


def fingerprint(programs: Path) -> str:
    """Return what tells clusters apart that were started from different configurations, or rendered differently."""
    renderer = b"".join(path.read_bytes() for path in sorted(Path(seaway.cluster.__file__).parent.glob("*.py")))
    return hashlib.sha256(make_cluster_toml(programs, VERSION.removeprefix("v")).encode() + renderer).hexdigest()


def running(env: Mapping[str, str] = os.environ) -> bool:
    """Return whether a cluster of this configuration runs in good health."""
    if not READY.exists() or record.is_stale():
        return False
    programs = ensure_binaries(env)
    whole = all(alive(path.name) for path in PIDS.iterdir())
    return whole and READY.read_text() == fingerprint(programs) and kubectl_works(programs) and nodes_ready(programs)


def start_all(programs: Path) -> None:
    """Start every part; the later ones wait for the earlier ones themselves."""
    with step("keys, certificates and configuration"):
        render_all(programs)
    with step("network and nodes' namespaces"):
        machine.make_bridge()
        cgroups.make_groups()
        FAST.mkdir(mode=0o700)
        for name in (*MASTERS, *NODES):
            nodes.make_namespaces(name)
    with step("etcd, API servers, balancer, registry"):
        for name in with_role("etcd"):
            start_unit(name, "etcd", nodes.inside(name))
        start_registry()
        for name in with_role("api"):
            start_unit(name, "kube-apiserver", nodes.inside(name))
        for node in NODES:
            nodes.start_containerd(node)
        start_unit("master1", "seaway-balancer")  # on this machine, so that killing a master leaves the address
        images.push_all(REGISTRY, programs, STATE / "images")
        servers = [f"{name}-kube-apiserver" for name in with_role("api")]
        wait("the API", lambda: kubectl_works(programs), logs=[*servers, "master1-seaway-balancer"])
    with step("controllers, schedulers, nodes"):
        for name in with_role("controllers"):
            start_unit(name, "kube-controller-manager", nodes.inside(name))
            start_unit(name, "kube-scheduler", nodes.inside(name))
        for node in NODES:
            nodes.start_agents(node)
        wait("the nodes", lambda: nodes_ready(programs), timeout=90, logs=[f"{node}-kubelet" for node in NODES])
        wait("service accounts", lambda: accounts_ready(programs))


def with_role(role: str) -> list[str]:
    """Return the masters that play a part."""
    return [name for name, roles in ROLES.items() if role in roles]


def render_all(programs: Path) -> None:
    """Render the cluster and put every machine's files below its root, as a user would with rsync."""
    text = make_cluster_toml(programs, VERSION.removeprefix("v"))
    (STATE / "cluster.toml").write_text(text)
    described = parse_cluster(text)
    secrets = Issuer(STATE / "render/pki", described.certificates).ensure(list_certificates(described))
    write_files(STATE / "render", render(described, secrets))
    for folder in (STATE / "render/machines").iterdir():
        shutil.copytree(folder, STATE / folder.name, dirs_exist_ok=True)
        (STATE / folder.name / "var/log/kubernetes").mkdir(parents=True)
        (STATE / folder.name / "var/lib").mkdir(parents=True)
    shutil.copy(STATE / "render/admin.conf", KUBECONFIG)


def start_registry() -> None:
    """Start Debian's docker-registry on plain HTTP."""
    folder = STATE / "registry"
    folder.mkdir()
    (folder / "config.yml").write_text(
        f"version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '{REGISTRY}'}}\n"
    )
    start("registry", ["docker-registry", "serve", str(folder / "config.yml")])
    wait("the registry", registry_answers, timeout=20, logs=["registry"])


def registry_answers() -> bool:
    """Return whether the registry answers."""
    command = ["curl", "-sf", "--noproxy", "*", "-m", "2", f"http://{REGISTRY}/v2/"]
    return subprocess.run(command, capture_output=True).returncode == 0


def kubectl(programs: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run kubectl as the administrator."""
    command = [str(programs / "kubectl"), f"--kubeconfig={KUBECONFIG}", "--request-timeout=5s", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd="/")


def kubectl_works(programs: Path) -> bool:
    """Return whether the API is ready behind the balancer."""
    return kubectl(programs, "get", "--raw", "/readyz").returncode == 0


def nodes_ready(programs: Path) -> bool:
    """Return whether every node is ready."""
    path = '{range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\\n"}{end}'
    return kubectl(programs, "get", "nodes", "-o", f"jsonpath={path}").stdout.split() == ["True"] * len(NODES)


def accounts_ready(programs: Path) -> bool:
    """Return whether pods can be made: their namespace has its service account."""
    return kubectl(programs, "get", "serviceaccount", "default").returncode == 0


def restart(machine: str, unit: str) -> None:
    """Start again a part that was killed, in its machine's namespaces."""
    start_unit(machine, unit, nodes.inside(machine))


def down() -> bool:
    """Stop and remove everything of the test cluster; return whether there was one."""
    record.require_root()
    with record.alone():
        return record.clean()


def describe() -> str:
    """Return what a developer needs to know of the running cluster."""
    return f"""\
export KUBECONFIG={KUBECONFIG}
export PATH=$PATH:{ensure_binaries()}
API https://{API}:6443, registry http://{REGISTRY} (base:1, busybox:1, pause:1), logs in {LOGS}"""

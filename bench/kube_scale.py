"""How the control plane grows with apps: `.venv/bin/python bench/kube_scale.py [--apps 100 250 500 1000] [--save]`.

An API server of its own with Kubernetes' own controllers and scheduler, nodes played by bench/hollow_nodes.py, and one
replica of the control plane without routers. Apps (5 instances each) are written as if deployed earlier: App, Release
and a Rollout that succeeded; the control plane then has their pods made. At each number of apps, once all is quiet:

- a change: `scale` of one app, from the write of its document (when it is sent) until a watch brings the ReplicaSet
  that the engine patched. Apps in turn, one change after another at random moments, so that those are met that
  coincide with other work. The peer, in turn with it: the same change of a plain Deployment, until its controller
  patched its ReplicaSet; in the same cluster, seen by the same watch (it has one pod, where an app has five).
- memory of the control plane's process, and its CPU while nothing happens (node Leases are renewed all the time).

With --kubemark the nodes are Kubernetes' own hollow ones. Those have one core each, so they take 10 of Seaway's pods.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import msgspec
import psutil
import uvloop
from bench.kube_kit import ROOT, Report, end_in_order
from rich.console import Console
from rich.progress import track
from tests.kube.api_server import ApiServer
from tests.kube.fixture import Cluster
from tests.kube.lab.binaries import ensure_extra
from tests.kube.platform import KubePlatform

from seaway.engine.kubernetes.objects import ReplicaSetSpec
from seaway.kube import labels
from seaway.kube.cache import Cache
from seaway.kube.client import KubeClient
from seaway.kube.config import load_config
from seaway.kube.kinds import KUBE_KINDS
from seaway.kube.listing import Resource
from seaway.kube.structs import Metadata, Object
from seaway.model import (
    App,
    AppSpec,
    AppStatus,
    Check,
    Health,
    Meta,
    Phase,
    Process,
    Release,
    ReleaseSpec,
    Rollout,
    RolloutSpec,
    RolloutStatus,
    Step,
    release_name,
)  # fmt: skip
from seaway.store.kubernetes.store import KubernetesStore

PODS, TEAM_APPS = 5, 100
WANTED_P99, WANTED_MEMORY = 0.1, 500.0  # seconds, MB
KUBEMARK_PODS = 10  # of 100m each on the one core that a hollow node says it has
MERGE = "application/merge-patch+json"
PEER = "peers"
PEERS, WRITERS = 20, 8
PAUSE = (0.0, 0.3)  # seconds between changes
SETTLE = 20.0  # seconds after the last change before idling is measured
FILL_LIMIT = 1500.0
CONTROLLERS = "replicaset,deployment,namespace,serviceaccount,resourcequota,garbagecollector,disruption,nodelifecycle"
PLAYERS = {
    True: "of Kubernetes' hollow nodes (kubemark)",
    False: "nodes of a stand-in (bench/hollow_nodes.py plays their kubelets: it writes pods' states through the real "
    "API server, and no container runs)",
}
ALWAYS = Check(command="true", interval=600)
IMAGE = "registry.invalid/app@sha256:" + "0" * 64


@dataclass
class Stage:
    """What was measured at one number of apps; times in seconds, memory in MB, CPU in percent of a core."""

    apps: int
    pods: int
    filled: float
    changes: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)
    memory: float = 0.0
    peak: float = 0.0
    idle: float = 0.0
    players: float = 0.0  # CPU of what plays the nodes
    players_memory: float = 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def make_documents(number: int) -> tuple[App, Release, Rollout]:
    """Return an app that serves its first release."""
    name, team, now = f"app{number}", f"team{number // TEAM_APPS}", datetime.now(UTC)
    marks = {"app": name, "team": team}
    web = Process(command="exec web", health=Health(startup=ALWAYS, readiness=ALWAYS))
    app = App(
        meta=Meta(name=name, labels={"team": team}),
        spec=AppSpec(team=team, scale={"web": PODS}),
        status=AppStatus(current=1, traffic={1: 100}, state="serving", reason="v1 serves"),
    )
    spec = ReleaseSpec(app=name, number=1, image=IMAGE, config={"GREETING": f"Hello {number}"}, processes={"web": web})
    step = Step(phase=Phase.SUCCEEDED, at=now, reason="v1 proved itself")
    status = RolloutStatus(phase=Phase.SUCCEEDED, reason=step.reason, entered_at=now, history=(step,))
    title = Meta(name=release_name(name, 1), labels=marks)
    return app, Release(meta=title, spec=spec), Rollout(meta=title, spec=RolloutSpec(app=name, target=1), status=status)


@contextmanager
def spawned(command: Sequence[str], log: Path, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process; it is ended with this block."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | (env or {}), cwd=log.parent)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def start_controllers(server: ApiServer, stack: ExitStack) -> None:
    """Start Kubernetes' controllers and scheduler; quicker than their defaults, or filling would take hours."""
    quick = ["--kube-api-qps=1000", "--kube-api-burst=2000", f"--kubeconfig={server.kubeconfig}"]
    common = [
        *quick,
        "--leader-elect=false",
        "--port=0",
        f"--cert-dir={server.folder / 'certs'}",
        "--bind-address=127.0.0.1",
    ]
    for name, port, more in (
        ("kube-controller-manager", 0, [f"--controllers={CONTROLLERS}", "--concurrent-replicaset-syncs=10"]),
        ("kube-scheduler", 0, []),
    ):
        command = [str(server.binaries / name), *common, f"--secure-port={port}", *more]
        stack.enter_context(spawned(command, server.folder / f"{name}.log"))


def start_nodes(server: ApiServer, stack: ExitStack, nodes: int, *, kubemark: bool) -> list[psutil.Process]:
    """Start the nodes; return the processes that play them."""
    if not kubemark:
        command = [sys.executable, str(ROOT / "bench" / "hollow_nodes.py"), "--kubeconfig", str(server.kubeconfig)]
        made = stack.enter_context(spawned([*command, "--nodes", str(nodes)], server.folder / "hollow.log"))
        return [psutil.Process(made.pid)]
    program, found = ensure_extra("kubemark"), []
    for number in range(nodes):
        command = [
            str(program), "--morph=kubelet", f"--name=hollow-{number}", f"--kubeconfig={server.kubeconfig}",
            f"--kubelet-port={21000 + 2 * number}", f"--kubelet-read-only-port={21001 + 2 * number}",
            "--logtostderr", "--v=0",
        ]  # fmt: skip
        log = server.folder / f"hollow-{number}.log"
        found.append(psutil.Process(stack.enter_context(spawned(command, log)).pid))
    return found


class SetStatus(msgspec.Struct, frozen=True, rename="camel"):
    """How many pods of a ReplicaSet are ready."""

    ready_replicas: int = 0


class Set(Object, frozen=True, rename="camel"):
    """A ReplicaSet: Seaway's, or of the peer's Deployments."""

    metadata: Metadata
    spec: ReplicaSetSpec = ReplicaSetSpec()
    status: SetStatus = SetStatus()

    @property
    def owner(self) -> str:
        """The app, or the peer."""
        return self.metadata.labels.get(labels.APP) or self.metadata.labels.get(PEER, "")


class Bench:
    """One cluster with its control plane, which grows."""

    def __init__(self, client: KubeClient, made: KubePlatform) -> None:
        self._client, self._store = client, KubernetesStore(client, made.namespace)
        self._process = psutil.Process(made.controls[0].pid)
        self._sets = Cache(client, Resource("/apis/apps/v1/replicasets", Set))
        self._changed = asyncio.Event()
        self._scale: dict[str, int] = {}  # what is wanted of each app and peer
        self.following: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        """Begin to follow all ReplicaSets; whoever waits for something hears when that ends."""
        self.following = asyncio.create_task(self.follow())
        self.following.add_done_callback(lambda _: self._changed.set())
        return self.following

    async def follow(self) -> None:
        """Keep a picture of all ReplicaSets."""
        async for _ in self._sets.run():
            self._changed.set()
            self._changed = asyncio.Event()

    async def _await(self, condition: Callable[[], bool], what: str, limit: float = 60) -> None:
        try:
            async with asyncio.timeout(limit):
                while not condition():
                    await self._changed.wait()
                    if self.following is not None and self.following.done():
                        raise SystemExit(f"{what}: the watch of ReplicaSets ended: {self.following.exception()!r}")
        except TimeoutError:
            raise SystemExit(f"{what}: not within {limit:g} s") from None

    def _find(self, owner: str) -> Set | None:
        return next((s for s in self._sets.objects.values() if s.owner == owner), None)

    def _are_ready(self) -> bool:
        ready = {s.owner: s.status.ready_replicas for s in self._sets.objects.values()}
        wants = {s.owner: s.spec.replicas for s in self._sets.objects.values()}
        return all(ready.get(o) == wants.get(o) == count for o, count in self._scale.items())

    async def make_peers(self) -> None:
        """Make the plain Deployments."""
        await self._client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PEER}})
        for number in range(PEERS):
            name = f"peer{number}"
            pod = {"containers": [{"name": "app", "image": IMAGE}]}
            template = {"metadata": {"labels": {PEER: name}}, "spec": pod}
            spec = {"replicas": 1, "selector": {"matchLabels": {PEER: name}}, "template": template}
            metadata = {"name": name, "namespace": PEER}
            await self._client.create(
                {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}
            )
            self._scale[name] = 1
        await self._await(self._are_ready, "the peers are ready")

    async def grow(self, apps: int) -> Stage:
        """Have so many apps, and wait until all their pods are ready."""
        began = time.perf_counter()
        before = len(self._scale) - PEERS
        numbers = iter(range(before, apps))
        await asyncio.gather(*(self._write_apps(numbers) for _ in range(WRITERS)))
        await self._await(self._are_ready, f"{apps} apps are ready", FILL_LIMIT)
        return Stage(apps, apps * PODS, time.perf_counter() - began)

    async def _write_apps(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            for document in make_documents(number):
                await self._store.create(document)
            self._scale[f"app{number}"] = PODS

    async def change(self, stage: Stage, samples: int) -> None:
        """Time changes of apps and of peers in turn; afterwards everything is as it was."""
        apps = [name for name in self._scale if name.startswith("app")]
        order = [random.choice(apps) for _ in range(samples)]
        for number, app in enumerate(track(order, f"{stage.apps} apps", console=Console(stderr=True))):
            await asyncio.sleep(random.uniform(*PAUSE))
            stage.changes.append(await self._time(app, self._scale_app))
            peer = f"peer{number % PEERS}"
            await asyncio.sleep(random.uniform(*PAUSE))
            stage.peer.append(await self._time(peer, self._scale_peer))
        for name in set(order):
            self._scale[name] = PODS
            await self._scale_app(name)
        for number in range(PEERS):
            self._scale[f"peer{number}"] = 1
            await self._scale_peer(f"peer{number}")
        await self._await(self._are_ready, "everything is as it was", FILL_LIMIT)

    async def _time(self, name: str, scale: Callable[[str], Coroutine[Any, Any, None]]) -> float:
        """Scale by one; return the seconds until its ReplicaSet says so."""
        self._scale[name] += 1
        began = time.perf_counter()
        writing = asyncio.create_task(scale(name))
        await self._await(lambda: (s := self._find(name)) is not None and s.spec.replicas == self._scale[name], name)
        took = time.perf_counter() - began
        await writing
        return took

    async def _scale_app(self, name: str) -> None:
        """Merge-patch the document, as kubectl would: exactly one request."""
        path = f"{KUBE_KINDS[App].path(self._store.namespace)}/{name}"
        body = {"spec": {"scale": {"web": self._scale[name]}}}
        await self._client.request("PATCH", path, body=body, content_type=MERGE)

    async def _scale_peer(self, name: str) -> None:
        path = f"/apis/apps/v1/namespaces/{PEER}/deployments/{name}"
        await self._client.request("PATCH", path, body={"spec": {"replicas": self._scale[name]}}, content_type=MERGE)

    async def rest(self, stage: Stage, seconds: float, players: Sequence[psutil.Process]) -> None:
        """Measure CPU and memory while nothing happens."""
        await asyncio.sleep(SETTLE)
        before = [cpu_of(p) for p in (self._process, *players)]
        await asyncio.sleep(seconds)
        after = [cpu_of(p) for p in (self._process, *players)]
        used = [100 * (b - a) / seconds for a, b in zip(before, after, strict=True)]
        stage.idle, stage.players = used[0], sum(used[1:])
        stage.memory = self._process.memory_info().rss / 1e6
        stage.players_memory = sum(p.memory_info().rss for p in players) / 1e6
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        stage.peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def cpu_of(process: psutil.Process) -> float:
    """Return the seconds of CPU that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


async def measure(options: argparse.Namespace, made: KubePlatform, players: list[psutil.Process]) -> list[Stage]:
    """Grow and measure; what was measured until something broke is returned."""
    client, stages = KubeClient(load_config(made.cluster.kubeconfig)), list[Stage]()
    bench = Bench(client, made)
    following = bench.start()
    try:
        await bench.make_peers()
        for apps in options.apps:
            stage = await bench.grow(apps)
            await bench.change(stage, options.samples)
            await bench.rest(stage, options.idle, players)
            stages.append(stage)
            print(json.dumps(describe(stage)), file=sys.stderr, flush=True)
    except (SystemExit, psutil.Error) as error:
        print(error, file=sys.stderr)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await client.close()
    return stages


def describe(stage: Stage) -> dict[str, Any]:
    """Return the figures of a stage but for the single changes."""
    figures = {name: value for name, value in asdict(stage).items() if name not in ("changes", "peer")}
    return figures | {"p99": percentile(stage.changes, 0.99), "peer p99": percentile(stage.peer, 0.99)}


def report_all(report: Report, stages: Sequence[Stage], options: argparse.Namespace) -> bool:
    """Say what it came to; return whether what is wanted was kept."""
    ms = {s.apps: [1000 * percentile(v, q) for v in (s.changes, s.peer) for q in (0.5, 0.99)] for s in stages}
    report.table(
        ("apps / pods", "change p50 ms", "p99 ms", "worst ms", "Deployment p50 ms", "p99 ms", "ratio p50", "ratio p99"),
        [
            (f"{s.apps} / {s.pods}", f"{m[0]:.0f}", f"{m[1]:.0f}", f"{1000 * max(s.changes):.0f}", f"{m[2]:.0f}",
             f"{m[3]:.0f}", f"{m[0] / m[2]:.2f}", f"{m[1] / m[3]:.2f}")
            for s in stages
            for m in [ms[s.apps]]
        ],
    )  # fmt: skip
    report.table(
        ("apps / pods", "memory MB", "peak MB", "idle CPU %", "added apps' pods ready after s", "nodes' CPU %"),
        [
            (f"{s.apps} / {s.pods}", f"{s.memory:.0f}", f"{s.peak:.0f}", f"{s.idle:.1f}", f"{s.filled:.0f}",
             f"{s.players:.0f}")
            for s in stages
        ],
    )  # fmt: skip
    last = stages[-1]
    p99 = percentile(last.changes, 0.99)
    report.say(
        f"{options.samples} changes at each number of apps. At {last.apps} apps: p99 {1000 * p99:.0f} ms, wanted "
        f"{1000 * WANTED_P99:.0f} ms: {'kept' if p99 <= WANTED_P99 else 'missed'}; memory {last.memory:.0f} MB, wanted "
        f"{WANTED_MEMORY:.0f} MB: {'kept' if last.memory <= WANTED_MEMORY else 'missed'}."
    )
    if last.apps < max(options.apps):
        report.say(f"It was to go up to {max(options.apps)} apps and got to {last.apps}.")
    return last.apps == max(options.apps) and p99 <= WANTED_P99 and last.memory <= WANTED_MEMORY


def main() -> int:
    """Measure and print; 1 if something wanted was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--apps", type=int, nargs="+", default=[100, 250, 500, 1000], help="numbers of apps, rising")
    parser.add_argument("--samples", type=int, default=200, help="changes at each")
    parser.add_argument("--idle", type=float, default=60.0, help="seconds of doing nothing at each")
    parser.add_argument("--kubemark", action="store_true", help="Kubernetes' hollow nodes in place of the stand-in")
    parser.add_argument("--nodes", type=int, help="how many nodes")
    parser.add_argument("--save", action="store_true", help="keep the report in bench/results")
    options = parser.parse_args()
    nodes = options.nodes or (max(options.apps) * (PODS + 1) // KUBEMARK_PODS + 2 if options.kubemark else 50)
    report = Report(
        "kube_scale_kubemark" if options.kubemark else "kube_scale", "How the control plane grows with apps"
    )
    players = PLAYERS[options.kubemark]
    report.say(f"{nodes} {players}; {PODS} pods an app; one replica of the control plane, no routers; one API server.")
    end_in_order()
    folder = Path(tempfile.mkdtemp(prefix="swb-"))
    server = ApiServer(folder / "server")
    try:
        with ExitStack() as stack:
            server.start()
            stack.callback(server.stop)
            start_controllers(server, stack)
            cluster = Cluster(server.kubeconfig, str(server.binaries / "kubectl"), "registry.invalid", lab=False)
            made = KubePlatform(cluster, folder, controls=1, routers=0)
            stack.callback(made.controls[0].kill)
            made.up()
            playing = start_nodes(server, stack, nodes, kubemark=options.kubemark)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                stages = runner.run(measure(options, made, playing))
    finally:
        if os.environ.get("KEEP"):
            print(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if not stages:
        return 1
    kept = report_all(report, stages, options)
    if options.save:
        report.save([asdict(stage) for stage in stages])
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())

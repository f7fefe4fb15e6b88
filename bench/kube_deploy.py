"""A deploy in a cluster beside kubectl's: `.venv/bin/python bench/kube_deploy.py [-n 5] [--save]`.

`seaway deploy` of a one-line change of examples/python-web, from the command to its end, when all traffic is on the
new release: it packs, uploads, builds, pushes, runs the release command, starts, verifies and shifts. The peer is
`kubectl set image` and `kubectl rollout status` of a plain Deployment with the same pod (image, command, probes, user,
limits) and as many replicas. Its image is built of another one-line change, by Seaway and beforehand: as new to the
nodes as that of the deploy, and not counted. Each round does one of both; which one comes first alternates.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import shutil
import sys
import tarfile
import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.kube_kit import ROOT, Api, Report, open_platform, read_nodes
from rich.console import Console
from rich.progress import track

from seaway.kube import labels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kube.platform import KubePlatform

APP, REPLICAS, WANTED = "hello", 2, 8.0
EXAMPLE = ROOT / "examples" / "python-web"
BUILD_LIMIT = 120.0
Steps = defaultdict[str, list[float]]


def to_epoch(text: str) -> float:
    """Return an ISO time as seconds."""
    return datetime.fromisoformat(text).timestamp()


def change_line(source: Path) -> None:
    """Make the source another one."""
    with (source / "app.py").open("a") as file:
        file.write(f"# {time.time_ns()}\n")


class PushWatch:
    """Notes when the log of the build under way says that pushing begins: documents do not tell."""

    def __init__(self, folder: Path) -> None:
        self.at: float | None = None
        self._folder, self._stop = folder, threading.Event()
        self._before = set(folder.glob("control-*/builds/*.log"))
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> PushWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while self.at is None and not self._stop.wait(0.02):
            for log in set(self._folder.glob("control-*/builds/*.log")) - self._before:
                if "-----> Pushing to" in log.read_text(errors="replace"):
                    self.at = time.time()


class Visitor:
    """Asks the app again and again on new connections; keeps each answer's release with when it came."""

    def __init__(self, made: KubePlatform) -> None:
        self.seen: list[tuple[float, str]] = []
        self._made, self._stop = made, threading.Event()
        self._thread = threading.Thread(target=self._ask)

    @contextmanager
    def visiting(self) -> Iterator[None]:
        """Ask while inside."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()

    def _ask(self) -> None:
        while not self._stop.wait(0.05):
            try:
                status, body = self._made.get(f"{APP}.localhost", "/release")
                by = json.loads(body)["release"] if status == 200 else f"status {status}"
            except (http.client.HTTPException, ValueError, KeyError) as error:  # an answer that was cut off
                by = f"status 200, but {error!r}"
            self.seen.append((time.time(), by))


def time_deploy(made: KubePlatform, source: Path, steps: Steps) -> None:
    """Deploy a change; add the seconds of each step."""
    change_line(source)
    visitor = Visitor(made)
    with visitor.visiting(), PushWatch(made.folder) as push:
        began = time.time()
        made.run("deploy", str(source), "-a", APP)
        ended = time.time()
        time.sleep(0.5)  # for answers after the end
    build = made.read("builds", "list", "-a", APP)[0]
    rollout = made.read("rollouts", "list", "-a", APP)[0]
    release = f"v{rollout['spec']['target']}"
    steps["seaway deploy, all"].append(ended - began)
    steps["last answer of the old release"].append(max(at for at, by in visitor.seen if by != release) - began)
    strangers = [by for at, by in visitor.seen if at > ended and by != release]
    assert not strangers, f"after the end of the deploy {strangers} answered, not {release}"
    failed = [by for _, by in visitor.seen if by.startswith("status")]
    assert not failed, failed
    note_steps((began, ended), push.at, (build, rollout), steps)


def note_steps(typed: tuple[float, float], pushed: float | None, documents: tuple[Any, Any], steps: Steps) -> None:
    """Add what each part took, from the documents' own times."""
    status, history = documents[0]["status"], documents[1]["status"]["history"]
    assert pushed is not None, "the build's log never said that it pushes"
    marks = [
        ("CLI starts, packs, uploads; build waits", to_epoch(status["started_at"])),
        ("build", pushed),
        ("push", to_epoch(status["ended_at"])),
    ]
    names = {"preparing": "release is made", "starting": "release command", "verifying": "instances start",
             "shifting": "verify: ready for 1 s, seen by routers", "keeping": "traffic shifts"}  # fmt: skip
    marks += [(names[step["phase"]], to_epoch(step["at"])) for step in history if step["phase"] in names]
    marks.append(("CLI says so", typed[1]))
    before = typed[0]
    for name, at in marks:
        steps[name].append(at - before)
        before = at


def build_only(api: Api, source: Path) -> str:
    """Build a change without deploying it; return the image."""
    change_line(source)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(source, arcname=".")
    digest = api.call("PUT", "/sources", content=packed.getvalue())["digest"]
    number = api.call("POST", f"/apps/{APP}/builds", {"source": {"archive": digest}, "deploy": False})["spec"]["number"]
    deadline = time.monotonic() + BUILD_LIMIT
    while (status := api.call("GET", f"/apps/{APP}/builds/{number}")["status"])["state"] in ("queued", "running"):
        assert time.monotonic() < deadline, status
        time.sleep(0.1)
    assert status["state"] == "succeeded", status
    return str(status["image"])


class Peer:
    """A plain Deployment in a namespace of its own, with the pod that Seaway made for the app."""

    def __init__(self, made: KubePlatform) -> None:
        self._made, self.namespace = made, f"{made.namespace}-peer"

    def create(self) -> None:
        """Make it and wait until it is available."""
        place = f"{self._made.prefix}{self._made.team}"
        made = self._made.cluster.get("-n", place, "replicasets", "-l", f"{labels.APP}={APP}")[0]
        pod = made["spec"]["template"]["spec"]
        for ours in ("serviceAccountName", "serviceAccount", "topologySpreadConstraints", "affinity"):
            pod.pop(ours, None)  # the account is of the team's namespace, the others select Seaway's labels
        own = {"app": "peer"}
        deployment = {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "peer"},
            "spec": {"replicas": REPLICAS, "selector": {"matchLabels": own},
                     "template": {"metadata": {"labels": own}, "spec": pod}},
        }  # fmt: skip
        self._kubectl("create", "namespace", self.namespace)
        self._kubectl("apply", "-n", self.namespace, "-f", "-", stdin=json.dumps(deployment))
        self._kubectl("rollout", "status", "-n", self.namespace, "deployment/peer", "--timeout=120s")

    def time_update(self, image: str) -> float:
        """Give it another image; return the seconds until that is rolled out."""
        began = time.time()
        self._kubectl("set", "image", "-n", self.namespace, "deployment/peer", f"{labels.CONTAINER}={image}")
        self._kubectl("rollout", "status", "-n", self.namespace, "deployment/peer", "--timeout=120s")
        return time.time() - began

    def remove(self) -> None:
        """Let it go."""
        self._kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--wait=false")

    def _kubectl(self, *words: str, stdin: str | None = None) -> None:
        self._made.cluster.kubectl(*words, stdin=stdin, timeout=150)


def settle(made: KubePlatform) -> None:
    """Wait until the last rollout has ended, so that no round pays for the one before; promote to wait less."""
    made.run("rollouts", "promote", "-a", APP, check=False)
    deadline = time.monotonic() + 90
    while made.read("rollouts", "list", "-a", APP)[0]["status"]["phase"] != "succeeded":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    place = f"{made.prefix}{made.team}"
    while len(made.cluster.get("-n", place, "pods", "-l", f"{labels.APP}={APP}")) > REPLICAS:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def measure(made: KubePlatform, rounds: int) -> tuple[Steps, list[float], list[float]]:
    """Deploy both ways, so many times; return Seaway's steps, the peer's times and the machine's load after each."""
    source = made.folder / "source"
    shutil.copytree(EXAMPLE, source)
    made.run("apps", "create", APP, "--team", made.team)
    made.run("deploy", str(source), "-a", APP)
    made.run("ps", "scale", f"web={REPLICAS}", "-a", APP)
    theirs: list[float] = []
    loads: list[float] = []
    steps, api, peer = Steps(list), Api(made), Peer(made)
    try:
        peer.create()
        for number in track(range(rounds), "deploys", console=Console(stderr=True)):
            settle(made)
            image = build_only(api, source)
            if number % 2:
                theirs.append(peer.time_update(image))
            time_deploy(made, source, steps)
            if not number % 2:
                settle(made)
                theirs.append(peer.time_update(image))
            loads.append(os.getloadavg()[0])
            done = f"{steps['seaway deploy, all'][-1]:.1f} s, kubectl {theirs[-1]:.1f} s, load {loads[-1]:.1f}"
            print(done, file=sys.stderr, flush=True)
            assert all(read_nodes(made).values()), "a node was not ready: these figures would be of something else"
    finally:
        peer.remove()
    return steps, theirs, loads


def main() -> int:
    """Measure and print; 1 if the wanted time was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=5, help="rounds")
    parser.add_argument("--save", action="store_true", help="keep the report in bench/results")
    options = parser.parse_args()
    report = Report("kube_deploy", "A one-line change of examples/python-web, deployed in a cluster")
    with open_platform() as made:
        steps, theirs, loads = measure(made, options.n)
    ours = steps.pop("seaway deploy, all")
    old = steps.pop("last answer of the old release")
    rows = [("seaway deploy", ours), ("of it, until the old release's last answer", old),
            ("kubectl set image + rollout status", theirs)]  # fmt: skip
    report.say(f"{options.n} rounds, {REPLICAS} replicas, 2 control planes, 2 routers. Seconds.")
    report.table(("", "median", "worst"), [(name, f"{median(v):.1f}", f"{max(v):.1f}") for name, v in rows])
    made_of = [median(a + b for a, b in zip(steps["build"], steps["push"], strict=True))]
    without = median(all_ - b - p for all_, b, p in zip(ours, steps["build"], steps["push"], strict=True))
    report.say(
        f"Ratio of the medians: {median(ours) / median(theirs):.2f}; without build and push, which the peer does not "
        f"do: {without / median(theirs):.2f}. Build and push are {made_of[0]:.1f} s of the {median(ours):.1f} s "
        f"({100 * made_of[0] / median(ours):.0f} %)."
    )
    report.table(
        ("part of seaway deploy", "median", "worst", "share %"),
        [(n, f"{median(v):.2f}", f"{max(v):.2f}", f"{100 * sum(v) / sum(ours):.0f}") for n, v in steps.items()],
    )
    kept = max(ours) <= WANTED
    report.say(f"Wanted: at most {WANTED:g} s. {'Kept' if kept else 'Missed'} (worst {max(ours):.1f} s). "
               f"Load of the machine after each round: {', '.join(f'{load:.1f}' for load in loads)}.")  # fmt: skip
    if options.save:
        report.save({"seaway": ours, "last_old_answer": old, "kubectl": theirs, "loads": loads, "steps": steps})
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())

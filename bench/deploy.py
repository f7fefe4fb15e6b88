"""Where the time of a deploy goes: `.venv/bin/python bench/deploy.py [-n 10] [--rootfs FOLDER]`.

Starts a platform of its own, deploys examples/python-web, then changes one line and deploys, N times, then deploys
the unchanged source N times. Prints the median of each step in ms. With --rootfs (an unpacked system with Python, for
example mmdebstrap's) and buildah, also what buildah takes to build the same change from a Dockerfile (as root).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

SEAWAY = str(Path(sys.executable).parent / "seaway")
EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "python-web"
BASE = "localhost/seaway-bench-base"
DOCKERFILE = f"FROM {BASE}\nWORKDIR /app\nCOPY requirements.txt .\nRUN test -f requirements.txt\nCOPY . .\n"
Steps = defaultdict[str, list[float]]


def run(*argv: str, env: dict[str, str] | None = None) -> str:
    """Run a command; return what it printed; stop if it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def find_port() -> str:
    """Return a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


def to_epoch(text: str) -> float:
    """Return an ISO time as seconds."""
    return datetime.fromisoformat(text).timestamp()


def change_line(app: Path) -> None:
    """Make the source another one."""
    with (app / "app.py").open("a") as file:
        file.write(f"# {time.time_ns()}\n")


def time_deploy(app: Path, env: dict[str, str], steps: Steps, title: str) -> None:
    """Deploy once; add each step's ms, taken from the documents of the build, the release and its rollout."""
    began = time.time()
    run(SEAWAY, "deploy", str(app), "-a", "bench", env=env)
    ended = time.time()
    build: dict[str, Any] = json.loads(run(SEAWAY, "builds", "list", "-a", "bench", "-o", "json", env=env))[0]
    rollout: dict[str, Any] = json.loads(run(SEAWAY, "rollouts", "list", "-a", "bench", "-o", "json", env=env))[0]
    marks = [("CLI starts, packs, uploads", to_epoch(build["meta"]["created_at"]))]
    marks += [
        ("build waits", to_epoch(build["status"]["started_at"])),
        ("build", to_epoch(build["status"]["ended_at"])),
    ]
    history = rollout["status"]["history"]
    for step, following in zip(history, [*history[1:], None], strict=True):
        name = "release made, rollout begins" if step is history[0] else f"until {step['phase']}"
        marks.append((name, to_epoch(step["at"])))
        if step["phase"] in ("keeping", "succeeded") or following is None:
            steps[f"{title}: typed to all traffic shifted"].append((to_epoch(step["at"]) - began) * 1000)
            break
    before = began
    for name, at in marks:
        steps[f"{title}: {name}"].append((at - before) * 1000)
        before = at
    steps[f"{title}: CLI says so"].append((ended - before) * 1000)


def time_buildah(rootfs: Path, app: Path, count: int, scratch: Path, steps: Steps) -> None:
    """Build the same one-line change `count` times from a Dockerfile, unchanged layers cached."""
    storage = ("--root", str(scratch / "storage"), "--runroot", str(scratch / "run"), "--storage-driver", "overlay")
    buildah = ("buildah", *storage)
    made = run(*buildah, "from", "scratch").strip()
    run(*buildah, "copy", "-q", made, str(rootfs), "/")
    run(*buildah, "commit", "-q", "--rm", made, BASE)
    build: tuple[str, ...] = (
        *buildah,
        "build",
        "-q",
        "--pull=never",
        "--layers",
        "--isolation",
        "chroot",
        "-t",
        "bench",
        "-f",
    )
    build += (str(scratch / "Dockerfile"), str(app))
    (scratch / "Dockerfile").write_text(DOCKERFILE)
    run(*build)
    for _ in track(range(count), "buildah", console=Console(stderr=True)):
        for title, change in (("buildah, one line changed", True), ("buildah, unchanged", False)):
            if change:
                change_line(app)
            began = time.monotonic()
            run(*build)
            steps[title].append((time.monotonic() - began) * 1000)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=10, help="deploys of each kind")
    parser.add_argument("--rootfs", type=Path, help="system with Python for buildah's base image")
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="seaway-bench-"))
    app, steps = scratch / "app", Steps(list)
    shutil.copytree(EXAMPLE, app)
    env = os.environ | {"SEAWAY_HOME": str(scratch / "home")}
    try:
        run(SEAWAY, "up", "-d", "--http-port", find_port(), "--api-port", find_port(), env=env)
        run(SEAWAY, "apps", "create", "bench", env=env)
        run(SEAWAY, "deploy", str(app), "-a", "bench", env=env)
        for title, change in (("one line changed", True), ("unchanged", False)):
            for _ in track(range(options.n), title, console=Console(stderr=True)):
                if change:
                    change_line(app)
                time_deploy(app, env, steps, title)
        if options.rootfs and shutil.which("buildah"):
            time_buildah(options.rootfs, app, options.n, scratch, steps)
    finally:
        run(SEAWAY, "down", env=env)
        shutil.rmtree(scratch, ignore_errors=True)
    table = Table("step", "median ms", "slowest ms", title=f"{options.n} of each, load {os.getloadavg()[0]:.1f}")
    for name, taken in steps.items():
        table.add_row(name, f"{median(taken):.0f}", f"{max(taken):.0f}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())

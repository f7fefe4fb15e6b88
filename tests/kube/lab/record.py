"""What the lab has made on this machine, written down before it is made, so that it can always be undone."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kube.lab import cgroups, machine
from tests.kube.lab.errors import LabError
from tests.kube.lab.settings import CGROUP, FAST, RECORD, STATE, SYSCTLS


@contextmanager
def alone() -> Iterator[None]:
    """Let one `up` or `down` work at a time; the kernel frees the name when its holder dies.

    So does a child that it was just starting, which has the name until it becomes another program.
    """
    with socket.socket(socket.AF_UNIX) as name:
        ends = time.monotonic() + 1
        while True:
            try:
                name.bind("\0seaway-kube-lab")
                break
            except OSError as error:
                if time.monotonic() > ends:
                    raise LabError("another kube-up or kube-down is at work: wait until it is done") from error
                time.sleep(0.01)
        yield


def boot_id() -> str:
    """Return what tells this start of the machine from others."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def sysctl(name: str) -> Path:
    """Return the file of a kernel setting."""
    return Path("/proc/sys") / name.replace(".", "/")


def begin() -> None:
    """Write the record; raises LabError if something else uses a name that the lab needs."""
    taken = [str(path) for path in (STATE, FAST, cgroups.group()) if path.exists()] + machine.existing_links()
    if taken:
        raise LabError(
            f"{', '.join(taken)}: there already, and not by a recorded test cluster; remove it by hand first"
        )
    STATE.mkdir(mode=0o755)
    settings = {name: sysctl(name).read_text().strip() for name in SYSCTLS if sysctl(name).exists()}
    text = json.dumps({"boot": boot_id(), "cgroup": CGROUP, "links": machine.links(), "sysctl": settings}, indent=1)
    partial = RECORD.with_suffix(".new")
    partial.write_text(text)
    partial.rename(RECORD)


def is_stale() -> bool:
    """Return whether no record was made since this machine's start."""
    return not RECORD.exists() or json.loads(RECORD.read_text())["boot"] != boot_id()


def clean() -> bool:
    """Undo everything that a recorded cluster has made, whatever state it is in; return whether there was one."""
    if not RECORD.exists():
        if STATE.exists() and not any(path for path in STATE.iterdir() if path.name != "record.new"):
            shutil.rmtree(STATE)  # killed before the record was written: nothing else was made yet
        return False
    record = json.loads(RECORD.read_text())
    if record["boot"] == boot_id():
        cgroups.kill_all()
        machine.remove_links()
        cgroups.remove_groups()
        for name, value in record["sysctl"].items():
            if sysctl(name).read_text().strip() != value:
                sysctl(name).write_text(value)
    refuse_mounts()
    shutil.rmtree(FAST, ignore_errors=True)
    for path in STATE.iterdir():
        if path != RECORD:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.rmtree(STATE)  # the record last: a clean that is killed is done again
    return True


def refuse_mounts() -> None:
    """Raise LabError if anything is mounted below the lab's folders: nodes keep their mounts to themselves."""
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    ours = [path for path in mounted if path.startswith((f"{STATE}/", f"{FAST}/"))]
    if ours:
        raise LabError(f"still mounted: {', '.join(ours)}; unmount it by hand, then run make kube-down again")


def require_root() -> None:
    """Raise LabError unless this is root on a Debian."""
    if os.geteuid() != 0:
        raise LabError("the test cluster needs root: it makes network namespaces and control groups")
    if not Path("/etc/debian_version").exists():
        raise LabError("the test cluster is made from Debian's packages, and this is not Debian")

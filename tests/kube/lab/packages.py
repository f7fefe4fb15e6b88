"""Debian packages that the lab needs, installed by name."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.kube.lab.errors import LabError

NO_SERVICES = Path("/usr/sbin/policy-rc.d")


def missing_packages(names: Iterable[str]) -> list[str]:
    """Return those of `names` that are not installed, in order."""
    wanted = list(dict.fromkeys(names))
    query = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *wanted]
    shown = subprocess.run(query, capture_output=True, text=True).stdout
    there = {line.split()[0] for line in shown.splitlines() if line.endswith(" installed")}
    return [name for name in wanted if name not in there]


def ensure_packages(names: Iterable[str]) -> None:
    """Install what is missing, without starting any service; raises LabError with apt's last lines."""
    lacking = missing_packages(names)
    if not lacking:
        return
    print(f"installs {' '.join(lacking)}", flush=True)
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=600", "-o", "APT::Update::Error-Mode=any"]
    command = [*apt, "--no-install-recommends", "install", *lacking]
    done = install(command, env)
    if done.returncode:  # the lists may be missing or old
        subprocess.run([*apt, "update"], env=env, capture_output=True)
        done = install(command, env)
    if done.returncode:
        raise LabError(f"apt-get could not install {' '.join(lacking)}:\n{(done.stdout + done.stderr)[-2000:]}")


def provide(program: str, package: str) -> str:
    """Return a program's path, installing Debian's package where that can be done; "" if it is not to be had."""
    places = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin"
    if not shutil.which(program, path=places) and os.geteuid() == 0 and Path("/etc/debian_version").exists():
        ensure_packages([package])
    return shutil.which(program, path=places) or ""


def install(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run apt with a policy that starts no service, unless the machine has a policy of its own."""
    mine = not NO_SERVICES.exists()
    if mine:
        NO_SERVICES.write_text("#!/bin/sh\nexit 101\n")
        NO_SERVICES.chmod(0o755)
    try:
        return subprocess.run(command, env=env, capture_output=True, text=True)
    finally:
        if mine:
            NO_SERVICES.unlink(missing_ok=True)

"""Debian packages that tests need: one list, `scripts/packages.toml`; `python -m tests.packages [PURPOSE...]`."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

LIST = Path(__file__).resolve().parent.parent / "scripts" / "packages.toml"
BARE, SOURCE, GUEST = "bare", "kubernetes-source", "guest"
NO_SERVICES = Path("/usr/sbin/policy-rc.d")
LOCK = Path("/run/lock/seaway-packages")
SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


class PackagesError(Exception):
    """Packages that are not there and could not be installed; says which."""


def read_list() -> dict[str, dict[str, list[str]]]:
    """Return packages with their programs, by purpose."""
    return tomllib.loads(LIST.read_text())


def list_packages(purposes: Iterable[str] = ()) -> list[str]:
    """Return the packages of some purposes; by default of all that `make test` may need and a machine may lack."""
    found = read_list()
    wanted = list(purposes) or [purpose for purpose in found if purpose not in {BARE, SOURCE, GUEST}]
    return list(dict.fromkeys(package for purpose in wanted for package in found[purpose]))


def list_missing(names: Iterable[str]) -> list[str]:
    """Return those of `names` that are not installed, in order."""
    wanted = list(names)
    if not shutil.which("dpkg-query"):
        return wanted
    query = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *wanted]
    shown = subprocess.run(query, capture_output=True, text=True).stdout
    there = {line.split()[0] for line in shown.splitlines() if line.endswith(" installed")}
    return [name for name in wanted if name not in there]


def can_install() -> bool:
    """Whether packages may be installed here: by root, on Debian."""
    return os.geteuid() == 0 and Path("/etc/debian_version").exists()


def ensure_packages(*purposes: str) -> None:
    """Install what is missing, without starting any service; raises PackagesError with apt's last lines."""
    names = list_packages(purposes)
    if not list_missing(names):
        return
    with _alone():
        lacking = list_missing(names)  # another process may have installed them meanwhile
        if not lacking:
            return
        print(f"installs {' '.join(lacking)}", flush=True)
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        apt = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=600", "-o", "APT::Update::Error-Mode=any"]
        command = [*apt, "--no-install-recommends", "install", *lacking]
        done = _install(command, env)
        if done.returncode:  # the lists may be missing or old
            subprocess.run([*apt, "update"], env=env, capture_output=True)
            done = _install(command, env)
        if done.returncode:
            said = (done.stdout + done.stderr)[-2000:]
            raise PackagesError(f"apt-get could not install {' '.join(lacking)}:\n{said}")


def find_program(name: str) -> str:
    """Return the path of a program of the list, installed if that can be done; "" if it is not to be had."""
    places = f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"
    if not shutil.which(name, path=places) and can_install():
        listed = read_list()
        ensure_packages(next(purpose for purpose in listed if any(name in of for of in listed[purpose].values())))
    return shutil.which(name, path=places) or ""


@contextmanager
def _alone() -> Iterator[None]:
    """Let one process install at a time: the file that keeps services from starting is made and removed once."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _install(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
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


def main(purposes: list[str]) -> int:
    """Install the packages of some purposes (default: all that tests need), or say in one line what to install."""
    if can_install():
        try:
            ensure_packages(*purposes)
        except PackagesError as error:
            print(error, file=sys.stderr)
            return 1
    elif lacking := list_missing(list_packages(purposes)):
        print(f"not installed, so tests that need them are skipped: apt install {' '.join(lacking)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

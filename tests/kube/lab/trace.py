"""What can be seen of a cluster on this machine from outside: looked at before and after, it has to be the same."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.kube.lab import cgroups
from tests.kube.lab.machine import command
from tests.kube.lab.record import sysctl
from tests.kube.lab.settings import FAST, STATE, SYSCTLS

PROGRAMS = re.compile(r"etcd|kube|containerd|docker-registry|haproxy|pause|runc|keepalived")
FOLDERS = (
    "/etc/cni",
    "/etc/kubernetes",
    "/run",
    "/var/lib",
    "/var/lib/cni",
    "/var/log",
    "/var/log/containers",
    "/var/log/pods",
    "/dev/shm",
    str(STATE.parent),
)

Trace = dict[str, list[str]]


def look() -> Trace:
    """Return what is there now: processes, mounts, namespaces, groups, links, routes, rules, files, kernel settings."""
    return {
        "processes": programs(),
        "mounts": Path("/proc/mounts").read_text().splitlines(),
        "named network namespaces": command("ip", "netns", "list", check=False).splitlines(),
        "control groups": [str(root / name) for root in cgroups.hierarchies() for name in listing(root)],
        "links": re.findall(r"^\d+: ([^:@]+)", command("ip", "-o", "link"), re.MULTILINE),
        "addresses": [" ".join(line.split()[1:4]) for line in command("ip", "-o", "addr").splitlines()],
        "routes": command("ip", "route", "show", "table", "all").splitlines(),
        "packet filter": rules("iptables-save"),
        "nftables": rules("nft", "list", "ruleset"),
        "files": [f"{folder}/{name}" for folder in FOLDERS for name in listing(Path(folder))],
        "kernel settings": [f"{name}={sysctl(name).read_text().strip()}" for name in (*SYSCTLS, "net.ipv4.ip_forward")],
        "sockets": [line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if str(STATE) in line],
    }


def listing(folder: Path) -> list[str]:
    """Return the names in a folder, or none if there is no such folder."""
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def rules(*words: str) -> list[str]:
    """Return a packet filter's rules without comments and counters."""
    shown = command(*words, check=False)
    return [re.sub(r"\[\d+:\d+\]", "", line) for line in shown.splitlines() if not line.startswith("#")]


def programs() -> list[str]:
    """Return the command names of running programs of the kinds that a cluster runs, with their ids."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue  # gone meanwhile
        if PROGRAMS.search(name) and rest.split()[0] != "Z":  # the dead wait for init to fetch them
            found.append(f"{name} {path.parent.name}")
    return sorted(found)


def compare(before: Trace, after: Trace) -> list[str]:
    """Return one line for each thing that is there now and was not, or the other way round; ours only for files.

    Other software runs on this machine meanwhile: of processes and files only what names the lab or is of a
    cluster's kind counts.
    """
    told = []
    for kind, then in before.items():
        now = after[kind]
        told += [f"{kind}: left behind: {item}" for item in now if item not in then]
        told += [f"{kind}: missing since: {item}" for item in then if item not in now]
    return told


def leftovers() -> list[str]:
    """Return what of the lab's own names is there although no cluster should be."""
    return [str(path) for path in (STATE, FAST, cgroups.group()) if path.exists()]

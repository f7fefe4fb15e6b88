"""Tries what an app must not be able to do, and a few things that it must; prints a JSON object: attempt -> outcome.

Its argument is JSON: paths to read, sockets, pids and ports that are not its own. An outcome is "" if the attempt
succeeded, else why it did not.
"""

from __future__ import annotations

import ctypes
import glob
import json
import os
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

PTRACE_ATTACH, CLONE_NEWUSER, CLONE_NEWNS, MS_REMOUNT, MS_BIND = 16, 0x10000000, 0x20000, 32, 4096
libc = ctypes.CDLL(None, use_errno=True)
outcomes: dict[str, str] = {}


def attempt(name: str, action: Callable[..., Any], *arguments: Any) -> None:
    try:
        found = action(*arguments)
        outcomes[name] = "there is nothing" if found in ([], b"") else ""
    except (OSError, urllib.error.HTTPError) as error:
        outcomes[name] = str(error) or type(error).__name__


def call(name: str, *arguments: Any) -> None:
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(16)


def list_others(folder: str) -> list[str]:
    """Return what is there but the way to the own folder."""
    return [n for n in os.listdir(folder) if not f"{os.getcwd()}/".startswith(os.path.normpath(f"{folder}/{n}") + "/")]


def write(path: str) -> None:
    with open(path, "w") as file:
        file.write("x")


def connect(address: str | list[Any]) -> None:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as one:
        one.settimeout(3)
        one.connect(address if isinstance(address, str) else tuple(address))


def bind(port: int) -> None:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(("127.0.0.1", port))
        one.listen()


def signal_by_pidfd(pid: int) -> None:
    signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGCONT)


def get(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=5) as answer:
        return bytes(answer.read())


def in_child(*steps: tuple[Any, ...]) -> None:
    """Do the steps in a process of their own; fail as it does."""
    inside, outside = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            for step, *arguments in steps:
                step(*arguments)
            os.write(outside, b"done")
        except OSError as error:
            os.write(outside, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    said = os.read(inside, 1000).decode()
    if said != "done":
        raise OSError(said)


def main() -> None:
    others = json.loads(sys.argv[1])
    for path in others["files"]:
        attempt(f"read {path}", read, path)
    for path in others["folders"]:
        attempt(f"list {path}", list_others, path)
        attempt(f"write in {path}", write, f"{path}/hostile")
    for path in others["sockets"]:
        attempt(f"connect to {path}", connect, path)
    for pid in others["pids"]:
        for name in ("environ", "cmdline", "maps", "mem"):
            attempt(f"read {name} of {pid}", read, f"/proc/{pid}/{name}")
        for name in ("cwd", "root", "exe"):
            attempt(f"read link {name} of {pid}", os.readlink, f"/proc/{pid}/{name}")
        attempt(f"list root of {pid}", os.listdir, f"/proc/{pid}/root/")
        attempt(f"signal {pid}", os.kill, pid, signal.SIGCONT)
        attempt(f"signal {pid} by pidfd", signal_by_pidfd, pid)
        attempt(f"ptrace {pid}", call, "ptrace", PTRACE_ATTACH, pid, None, None)
        attempt(f"renice {pid}", os.setpriority, os.PRIO_PROCESS, pid, 19)
    attempt(
        "be seen beside others", lambda: [name for name in os.listdir("/proc") if name.isdigit() and not mine(name)]
    )
    for port in others["listening"]:
        attempt(f"bind {port}", bind, port)
    for port in others["ports"]:
        attempt(f"bind {port}", bind, port)
        attempt(f"connect to {port}", connect, ["127.0.0.1", port])
    for address in others["addresses"]:
        attempt(f"get {address}", get, address)
    for path in ("/etc", "/usr", "/var", "/var/lib", "/opt", "/srv", "/root", "/home", "/dev", "/run"):
        attempt(f"write in {path}", write, f"{path}/hostile")
    for path in glob.glob("/sys/fs/cgroup/**/cgroup.procs", recursive=True)[:50]:
        attempt(f"enter {path}", write, path)
    attempt("become root", os.setresuid, 0, 0, 0)
    attempt("become its group", os.setresgid, 0, 0, 0)
    attempt("mount", call, "mount", b"none", b"/tmp", b"tmpfs", 0, None)
    namespaces = (call, "unshare", CLONE_NEWUSER | CLONE_NEWNS)
    for path in ("/", "/etc", others["home"]):
        writable = (call, "mount", b"none", path.encode(), None, MS_REMOUNT | MS_BIND, None)
        attempt(f"make {path} writable in a namespace", in_child, namespaces, writable, (write, f"{path}/hostile"))
        attempt(f"uncover {path}", in_child, namespaces, (call, "umount2", path.encode(), 2))
    tried = dict(outcomes)
    print(json.dumps({"tried": tried, "may": may()}))


def mine(pid: str) -> bool:
    try:
        return os.stat(f"/proc/{pid}").st_uid == os.getuid()
    except OSError:
        return True


def may() -> dict[str, str]:
    """Return the outcomes of what an app may do."""
    outcomes.clear()
    for name, folder in (("work folder", "."), ("HOME", os.environ["HOME"]), ("TMPDIR", os.environ["TMPDIR"])):
        attempt(name, write, f"{folder}/own")
    for folder in ("/tmp", "/var/tmp", "/dev/shm"):
        attempt(folder, write, f"{folder}/own")
    attempt("/dev/null", write, "/dev/null")
    attempt("/dev/stderr", write, "/dev/stderr")
    attempt("/proc/self/environ", read, "/proc/self/environ")
    attempt("bind a port of nobody", bind, 0)
    return dict(outcomes)


main()

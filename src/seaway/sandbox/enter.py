"""Becomes a command of an app: `python -I -S enter.py FD`, as root, where descriptor FD holds a `Sandbox.describe`.

It makes a view of the file system for itself and what it starts, takes on the app's user id, and becomes the command.
It imports nothing of Seaway, nor pathlib, for it runs at every start of an instance. What goes wrong is said on
standard error and ends it with exit code 126, or 75 if it may work another time. Source: mount(2), mount_setattr(2),
mount_namespaces(7), proc(5), sysexits(3).
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import sys
from typing import Any

CLONE_NEWNS, CLONE_NEWIPC = 0x00020000, 0x08000000
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MS_BIND, MS_REC, MS_SLAVE = 4096, 16384, 1 << 19
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1  # 442 on every architecture
PR_SET_NO_NEW_PRIVS = 38
MOST_SPEC = 1 << 24  # bytes
REFUSED, FAILED = 126, 75  # as shells say that a command cannot be executed; EX_TEMPFAIL
PASSING = (  # a want of memory, descriptors, processes, mounts, space
    errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EINTR,
)  # fmt: skip
SHARED_MEMORY = "256m"

libc = ctypes.CDLL(None, use_errno=True)


class Attributes(ctypes.Structure):
    """struct mount_attr."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns"))


def check(result: int, what: str) -> None:
    """Raise OSError if a call of the C library failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """See mount(2)."""
    words = [word.encode() for word in (source, target, kind)]
    check(libc.mount(*words, ctypes.c_ulong(flags), data.encode()), f"mount {target}")


def set_writable(path: str, writable: bool, flags: int = 0) -> None:
    """Let what is mounted there be written to, or not. ENOSYS before Linux 5.12."""
    attributes = Attributes(0, MOUNT_ATTR_RDONLY) if writable else Attributes(MOUNT_ATTR_RDONLY, 0)
    call = (SYS_MOUNT_SETATTR, AT_FDCWD, path.encode(), flags, ctypes.byref(attributes), ctypes.sizeof(attributes))
    check(libc.syscall(*map(as_argument, call)), f"mount_setattr {path}")


def as_argument(value: Any) -> Any:
    """Return it as syscall(2) takes it: numbers are as wide as registers."""
    return ctypes.c_long(value) if isinstance(value, int) else value


def find_closed(path: str) -> str | None:
    """Return the topmost folder on the way to a path that others than its owner may not enter."""
    parts = path.strip("/").split("/")
    for count in range(1, len(parts)):
        folder = "/" + "/".join(parts[:count])
        if not os.stat(folder).st_mode & 0o001:
            return folder
    return None


def is_below(path: str, folders: set[str]) -> bool:
    """Whether one of the folders hides the path."""
    return any(path == folder or path.startswith(folder + "/") for folder in folders)


def make_place(target: str, *, is_folder: bool) -> None:
    """Make what something can be mounted on, if it is not there."""
    os.makedirs(target if is_folder else os.path.dirname(target), 0o755, exist_ok=True)
    if not is_folder and not os.path.exists(target):
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT, 0o644))


def make_view(hidden: list[str], shown: list[str], own: list[list[str]], files: list[list[str]]) -> None:
    """Make the view: all as it is but read-only, without what is hidden, with what is shown and what is its own.

    Where the way to something leads through a folder of which others may see nothing (/root), all else there is hidden.
    `own` and `files` are pairs of what there is and where it is to be; the former may be written to.
    """
    check(libc.unshare(CLONE_NEWNS | CLONE_NEWIPC), "unshare")
    mount("none", "/", "", MS_REC | MS_SLAVE)
    covers = set(hidden)
    covers |= {closed for path in (*shown, *(target for _, target in own)) if (closed := find_closed(path))}
    covers = {path for path in covers if not is_below(path, covers - {path})}
    places = covers | {target for _, target in own}
    binds = [(target, source, True) for source, target in own] + [(target, source, False) for source, target in files]
    binds += [(path, path, False) for path in shown if is_below(path, places)]
    sources = {source: os.open(source, os.O_PATH) for _, source, _ in binds}  # before anything covers them
    folders = {source for source in sources if os.path.isdir(source)}
    set_writable("/", False, AT_RECURSIVE)
    for target, source, writable in sorted([*((path, "", True) for path in covers), *binds]):  # the outer ones first
        make_place(target, is_folder=not source or source in folders)
        if source:
            mount(f"/proc/self/fd/{sources[source]}", target, "", MS_BIND | MS_REC)
        else:
            mount("seaway", target, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m")
        set_writable(target, writable)
    for path in covers:
        set_writable(path, False)
    if os.path.isdir("/dev/shm"):
        mount("seaway", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, f"mode=1777,size={SHARED_MEMORY}")
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "hidepid=2")


def become(user: int) -> None:
    """Take on a user id (and the group of the same number) and nothing else, for good."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


def main() -> int:
    """Do it; return only if it failed, with the exit code."""
    try:
        fd = int(sys.argv[1])
        spec = json.loads(os.pread(fd, MOST_SPEC, 0))
        os.close(fd)
        make_view(spec["hidden"], spec["shown"], spec["own"], spec["files"])
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and its successor would
            signal.signal(number, signal.SIG_DFL)
        become(spec["user"])
        os.chdir(spec["workdir"])
        os.execve(spec["argv"][0], spec["argv"], spec["env"])
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(f"seaway: the command cannot be started as the app's own user: {error.strerror}{where}", file=sys.stderr)
        return FAILED if error.errno in PASSING else REFUSED


if __name__ == "__main__":
    sys.exit(main())

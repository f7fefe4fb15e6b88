"""What commands of an app see of this machine, and how they begin: `enter.py` makes it so."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ENTER = Path(__file__).with_name("enter.py")
TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - each app sees its own there
NAME = "app"  # what the user id is called inside
USERS = {"passwd": f"{NAME}:x:{{user}}:{{user}}::{{home}}:/bin/sh\n", "group": f"{NAME}:x:{{user}}:\n"}


@dataclass(frozen=True)
class View:
    """The machine as an app sees it: all read-only, nothing hidden, its own writable. Paths are absolute.

    `own` and `files` are pairs of what there is and where it is seen. `shown` is seen though what is around it is not.
    """

    user: int
    hidden: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    own: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, str], ...] = ()

    def seal(self, argv: Sequence[str], workdir: Path, env: Mapping[str, str]) -> int:
        """Return a descriptor that holds it all for `enter`: nobody sees it in a list of processes. Close it."""
        spec = asdict(self) | {"argv": list(argv), "workdir": str(workdir), "env": dict(env)}
        fd = os.memfd_create("seaway-view")
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(json.dumps(spec).encode())
        return fd


def make_place(path: str) -> bool:
    """Make a folder of this machine on which views can have another; tell whether all users can get there."""
    way = [*reversed(Path(path).parents), Path(path)]
    try:
        for folder in way:
            if not folder.is_dir():
                folder.mkdir()
                folder.chmod(0o755)
        return all(folder.stat().st_mode & 0o001 for folder in way)
    except OSError:  # a machine whose system cannot be written to
        return False


def enter(fd: int) -> list[str]:
    """Return the command that becomes what the descriptor holds. It begins as root: with no environment of an app's."""
    return [sys.executable, "-I", "-S", str(ENTER), str(fd)]


def write_users(folder: Path, user: int, home: Path) -> tuple[tuple[str, str], ...]:
    """Write this machine's users and groups and the app's own into the folder; return them as `View.files`."""
    for name, line in USERS.items():
        path = folder / name
        path.write_text(Path("/etc", name).read_text() + line.format(user=user, home=home))
        path.chmod(0o644)
    return tuple((str(folder / name), f"/etc/{name}") for name in USERS)

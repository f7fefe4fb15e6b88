"""Sandbox: whether apps can be protected from each other here, and the view that each one gets."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from seaway.home import Home
from seaway.sandbox.users import Users
from seaway.sandbox.view import TEMPORARY, View, enter, write_users

PROBE, PROBE_LIMIT = "probe", 20.0  # seconds; a busy machine
ORDINARY = "Seaway runs as an ordinary user, and apps run as that user: run it as root"


class Sandbox:
    """Gives apps user ids and views. All methods block for a moment."""

    def __init__(self, home: Home, users: Users) -> None:
        self._home = home
        self.users = users

    def make_view(self, name: str, folder: Path, own: Iterable[str], shown: Iterable[Path]) -> View:
        """Return the view of commands that own these folders in `folder`, "tmp" and "home" among them.

        `name`: who gets the user id.
        Raises ValueError if no user id is left, OSError.
        """
        user = self.users.take(name)
        folders = [(str(folder / name), str(folder / name)) for name in own]
        return View(
            user=user,
            hidden=(str(self._home.root),),
            shown=tuple(map(str, shown)),
            own=(*folders, *((str(folder / "tmp"), place) for place in TEMPORARY)),
            files=write_users(folder, user, folder / "home"),
        )


def open_sandbox(home: Home) -> tuple[Sandbox | None, str]:
    """Return the sandbox of a home that is there, or None and why apps are not protected: it is tried."""
    if os.geteuid() != 0:
        return None, ORDINARY
    sandbox = Sandbox(home, Users(home.node / "users.json"))
    try:
        fault = _try(sandbox, home.node / PROBE)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        fault = str(error)
    return (None, fault) if fault else (sandbox, "")


def _try(sandbox: Sandbox, folder: Path) -> str:
    """Return what went wrong when a command began as others will; "" if nothing did."""
    for name in ("tmp", "home"):
        (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    view = sandbox.make_view(PROBE, folder, ("tmp", "home"), ())
    fd = view.seal(["/bin/sh", "-c", "exit 0"], Path("/"), {})
    try:
        ended = subprocess.run(
            enter(fd), pass_fds=(fd,), env={}, capture_output=True, text=True, timeout=PROBE_LIMIT, check=False
        )
    finally:
        os.close(fd)
    return "" if ended.returncode == 0 else ended.stderr.strip() or f"it ended with code {ended.returncode}"

"""Sandbox: whether apps can be protected from each other here, and the view that each one gets."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterable, Set
from contextlib import suppress
from pathlib import Path

from seaway.home import Home
from seaway.sandbox.enter import PASSING, REFUSED
from seaway.sandbox.users import Users
from seaway.sandbox.view import TEMPORARY, View, enter, write_users

PROBE, PROBE_LIMIT = "probe", 20.0  # seconds; a busy machine
MARK = "protected"  # a file of the node agent: apps are protected on this machine, or do not run
ORDINARY = "Seaway runs as an ordinary user, and all apps run as that user; run as root it gives each one of its own"
UNPROTECTED = "apps are not protected from each other"
UNTOLD = "it cannot be told now whether apps can be protected from each other here"


class TrialError(RuntimeError):
    """It cannot be told now whether apps can be protected: this machine wants memory, space or time."""


class Sandbox:
    """Gives apps user ids and views. All methods block for a moment."""

    def __init__(self, home: Home, users: Users) -> None:
        self._home = home
        self.users = users

    def make_view(self, name: str, folder: Path, own: Iterable[Path], shown: Iterable[Path]) -> View:
        """Return the view of commands of whoever has the name; their own are these folders, and what /tmp is for them.

        `folder` is where the files of the view are written, and what they call their home is below it. Raises
        ValueError if no user id is left, OSError.
        """
        shared = self._make_shared(name)
        user = self.users.take(name)
        return View(
            user=user,
            hidden=(str(self._home.root),),
            shown=tuple(map(str, shown)),
            own=(*((str(path), str(path)) for path in own), *((str(shared), place) for place in TEMPORARY)),
            files=write_users(folder, user, folder / "home"),
        )

    def _make_shared(self, name: str) -> Path:
        user, shared = self.users.take(name), self.find_shared(name)
        shared.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chown(shared, user, user)
        return shared

    def renew_shared(self, name: str) -> None:
        """Give those who begin from now on an empty /tmp; the old one is of what `keep` returns next."""
        self._put_away(name)
        self._make_shared(name)

    def _put_away(self, name: str) -> None:
        """Move what is /tmp for the name, if there is one, to a name that nobody else will use."""
        old = self._home.node / "tmp" / ".old"
        old.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            self.find_shared(name).rename(old / secrets.token_hex(8))

    def find_shared(self, name: str) -> Path:
        """Return the folder that is /tmp for all commands of whoever has the name."""
        return self._home.node / "tmp" / name

    def keep(self, names: Set[str], prefix: str) -> list[Path]:
        """Let go of the user ids of all others whose names begin so, as nothing of them runs any more.

        Returns what they left, for the caller to remove: it has got names that nobody else will use.
        """
        for name in self.users.list_names():
            if name.startswith(prefix) and name not in names:
                self._put_away(name)
                self.users.drop(name)
        old = self._home.node / "tmp" / ".old"
        return list(old.iterdir()) if old.exists() else []


def open_sandbox(home: Home) -> tuple[Sandbox | None, str]:
    """Return the sandbox of a home that is there, or None and why apps are not protected: it is tried.

    Where it worked once it is never tried again, and nothing begins without: an app that keeps the machine busy or its
    disk full could else become root. Raises TrialError if it cannot be told now.
    """
    if os.geteuid() != 0:
        return None, ORDINARY
    sandbox, mark = Sandbox(home, Users(home.node / "users.json")), home.node / MARK
    if mark.exists():
        return sandbox, ""
    try:
        fault = _try(sandbox, home.node / PROBE)
        if not fault:
            mark.touch(mode=0o600)
    except ValueError as error:
        raise TrialError(f"{UNTOLD}: {error}") from None
    except OSError as error:
        if error.errno in PASSING:
            raise TrialError(f"{UNTOLD}: {error.strerror}") from error
        fault = str(error)
    return (None, fault) if fault else (sandbox, "")


def _try(sandbox: Sandbox, folder: Path) -> str:
    """Return why a command cannot begin here as others would; "" if it did."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    view = sandbox.make_view(PROBE, folder, (), ())
    fd = view.seal(["/bin/sh", "-c", "exit 0"], Path("/"), {})
    try:
        ended = subprocess.run(
            enter(fd), pass_fds=(fd,), env={}, capture_output=True, text=True, timeout=PROBE_LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        raise TrialError(f"{UNTOLD}: a first command did not begin within {PROBE_LIMIT:g} s") from None
    finally:
        os.close(fd)
    said = ended.stderr.strip() or f"a first command ended with code {ended.returncode}"
    if ended.returncode not in (0, REFUSED):
        raise TrialError(f"{UNTOLD}: {said}")
    return said if ended.returncode else ""

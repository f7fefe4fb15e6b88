"""What the builds of each app have of their own where Seaway runs as root: a user id, and a cache of uv.

SEAWAY_HOME/builds/cache/APP/uv     the cache; the folders above it are ours
SEAWAY_HOME/builds/cache/APP/word   a random word in the keys of what is remembered of the app's builds: whoever could
                                    write to the cache had a hand in it, so neither another app nor the next of the name
                                    gets it
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from seaway.builder.layout import write_atomically
from seaway.home import Home
from seaway.model import Limits
from seaway.sandbox.cgroups import BUILDS as BUILDS_GROUP
from seaway.sandbox.cgroups import Cgroups
from seaway.sandbox.removing import remove_tree
from seaway.sandbox.sandbox import open_sandbox
from seaway.sandbox.users import Users

BUILDS = "build/"  # before the names of those who have user ids
LIMITS, WEIGHT = Limits(pids=4096), 50  # of all builds together; an instance weighs 100


@dataclass(frozen=True)
class Room:
    """One app's. `user` None: its builds run as we do, for the reason `unprotected`, and nothing is its own.

    `groups`: how a build enters the control groups of builds (`Cgroups.make`).
    """

    user: int | None = None
    word: str = ""
    unprotected: str = ""
    groups: str = ""


class Quarters:
    """The rooms of all apps of a home. All methods block for a moment."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._root = home.builds / "cache"
        self._users = Users(home.node / "users.json")

    def open(self, app: str) -> Room:
        """Return the app's room, made if it has none. ValueError if no user id is left, TrialError, OSError."""
        cgroups = Cgroups.open(self._home.root)
        groups = cgroups.make(BUILDS_GROUP, LIMITS, WEIGHT) if cgroups is not None else ""
        if os.geteuid() != 0:
            return Room(groups=groups)
        sandbox, fault = open_sandbox(self._home)
        if sandbox is None:
            return Room(unprotected=fault, groups=groups)
        user, folder = sandbox.users.take(f"{BUILDS}{app}"), self._root / app
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        cache, word = find_cache(self._home, app), folder / "word"
        cache.mkdir(mode=0o700, exist_ok=True)
        os.chown(cache, user, user)
        if not word.exists():
            write_atomically(word, secrets.token_hex(8).encode())
        os.utime(folder)
        return Room(user, word.read_text(), groups=groups)

    def forget(self, app: str) -> None:
        """Leave nothing of the app's, of which no build runs any more."""
        if not self._root.is_dir():
            return
        with suppress(FileNotFoundError):
            (self._root / app).rename(self._root / f".old-{secrets.token_hex(8)}")
        for old in self._root.glob(".old-*"):
            with suppress(OSError):  # others may do the same; what is left is tried again
                remove_tree(old)
        self._users.drop(f"{BUILDS}{app}")

    def prune(self, unused_since: float) -> None:
        """Forget apps without a build since then (Unix time): the next one begins with an empty cache."""
        for folder in self._root.iterdir() if self._root.is_dir() else ():
            if not folder.name.startswith(".") and folder.stat().st_mtime < unused_since:
                self.forget(folder.name)


def find_cache(home: Home, app: str) -> Path:
    """Return the folder that is uv's cache in builds of the app."""
    return home.builds / "cache" / app / "uv"

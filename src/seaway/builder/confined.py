"""Commands of a build that may run code of the app, or of what it needs: as a user id of the app's builds alone.

They work in a folder of their own, with a copy of the source; the source itself stays out of their reach. They see the
machine read-only, and of Seaway's home nothing else. What they leave running is killed before anybody reads what they
have made.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from seaway.builder.base import BuildError
from seaway.builder.commands import Commands
from seaway.builder.dying import Descendants
from seaway.home import Home
from seaway.sandbox.users import give_away
from seaway.sandbox.view import NAME, TEMPORARY, View, write_users

CREDENTIALS = (".netrc", ".config/uv", ".config/pip", ".local/share/uv/credentials")
"""Of our own home: what an index asks for."""

NOT_PASSED = frozenset({"SSH_AUTH_SOCK", "GIT_SSH_COMMAND", "NETRC"})
MAY_NAME_FILES = re.compile(r"UV_(?!CACHE_DIR).*|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE")


@dataclass(frozen=True)
class Around:
    """What commands see besides their folder, and what their environment has besides a build's.

    `shown` are seen where they are; `places` are pairs of what there is and where it is seen, read-only.
    """

    shown: tuple[str, ...] = ()
    places: tuple[tuple[str, str], ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


class Confined:
    """Runs commands as `Commands` does; what they are to work with is put into `folder` before the first."""

    def __init__(
        self, commands: Commands, descendants: Descendants, view: View, folder: Path, env: Mapping[str, str]
    ) -> None:
        self.folder = folder
        self.source = folder / "source"
        self._commands = commands
        self._descendants = descendants
        self._view = view
        self._env = env
        self._begun = False

    def run(self, argv: Sequence[str], cwd: Path, *, quiet: bool = False) -> list[str]:
        """Run to the end, and end what it left; see `Commands.run`."""
        if not self._begun:
            give_away(self.folder, self._view.user)
            self._begun = True
        try:
            return self._commands.run(argv, cwd, quiet=quiet, env=self._env, view=self._view)
        finally:
            end_all(self._descendants)


@dataclass(frozen=True)
class Unconfined:
    """Runs commands likewise as this process's user, where there is none to give them."""

    commands: Commands
    descendants: Descendants
    env: Mapping[str, str]

    def run(self, argv: Sequence[str], cwd: Path, *, quiet: bool = False) -> list[str]:
        """Run to the end, and end what it left; see `Commands.run`."""
        try:
            return self.commands.run(argv, cwd, quiet=quiet, env=self.env)
        finally:
            end_all(self.descendants)


def end_all(descendants: Descendants) -> None:
    """End what commands left running. BuildError if that fails."""
    if not descendants.kill():
        raise BuildError("the build left a process that cannot be killed: a disk may be waiting; deploy again")


def confine(
    commands: Commands, descendants: Descendants, home: Home, folder: Path, *, cache: Path, around: Around
) -> Confined:
    """Make the rest of a folder that has a copy of the source."""
    user = descendants.user
    assert user is not None
    (folder / "home").mkdir(mode=0o700)
    (folder / "tmp").mkdir(mode=0o700)
    copy_credentials(commands.env, folder / "home")
    named = (path for path in list_named(commands.env) if not home.root.is_relative_to(path))
    view = View(
        user=user,
        hidden=(str(home.root),),
        shown=(*around.shown, *map(str, named)),
        own=(
            *((str(path), str(path)) for path in (folder, cache)),
            *((str(folder / "tmp"), place) for place in TEMPORARY),
        ),
        files=(*write_users(folder.parent, user, folder / "home"), *around.places),
    )
    env = choose_environment(commands.env, folder / "home", cache)
    return Confined(commands, descendants, view, folder, {**env, **around.env})


def choose_environment(env: Mapping[str, str], home: Path, cache: Path) -> dict[str, str]:
    """Return the build's environment for another user's commands: without ways to our keys and our folders."""
    kept = {name: value for name, value in env.items() if name not in NOT_PASSED and not name.startswith("XDG_")}
    return kept | {
        "HOME": str(home),
        "TMPDIR": TEMPORARY[0],
        "USER": NAME,
        "LOGNAME": NAME,
        "UV_CACHE_DIR": str(cache),
        "UV_LINK_MODE": "copy",  # the cache is another mount
    }


def copy_credentials(env: Mapping[str, str], target: Path) -> None:
    """Copy what an index asks for into another home."""
    ours = Path(env.get("HOME") or "/nonexistent")
    places = {name: ours / name for name in CREDENTIALS}
    if "NETRC" in env:
        places[".netrc"] = Path(env["NETRC"])
    if "XDG_CONFIG_HOME" in env:
        places |= {f".config/{name}": Path(env["XDG_CONFIG_HOME"], name) for name in ("uv", "pip")}
    for name, place in places.items():
        if place.is_dir():
            shutil.copytree(place, target / name)
        elif place.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(place, target / name)


def list_named(env: Mapping[str, str]) -> Iterable[Path]:
    """Return files and folders that settings of uv name: local indexes, certificates."""
    for name, value in env.items():
        if MAY_NAME_FILES.fullmatch(name):
            for word in re.split(r"[\s,]+|\w+=", value):
                path = Path(word.removeprefix("file://"))
                if path.is_absolute() and path.exists():
                    yield path

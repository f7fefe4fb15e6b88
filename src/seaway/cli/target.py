"""Where the API is, with which token, and which app a folder belongs to."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError

from seaway.cli.clusters import Way, find_way, read_login
from seaway.cli.errors import CliError, ExitCode, UsageError
from seaway.home import Home
from seaway.model.base import NAME_PATTERN

LINK_FILE = ".seaway"
"""Names the app a folder belongs to: one line, the app's name. Never part of a build's source."""

APP_MARKS = ("Procfile", "seaway.toml", "pyproject.toml", "requirements.txt", "uv.lock", ".git")
"""Any of these makes a folder look like an app's."""

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True)
class Target:
    """The API's base URL and the token to show it. `local`: on this machine.

    `comes_back` tells whether an API that takes no connection is being brought back right now. `way` leads through
    the API server of a cluster. `authority` is a file of certificate authorities to trust in place of the system's.
    """

    url: str
    token: str = field(repr=False)
    local: bool
    comes_back: Callable[[], bool] = lambda: False
    way: Way | None = None
    authority: str = ""


def find_target() -> Target:
    """Return SEAWAY_URL and SEAWAY_TOKEN; else the cluster that is logged in to; else the platform on this machine."""
    home = Home.find()
    if not os.environ.get("SEAWAY_URL") and (login := read_login(home)):
        way = find_way(login)
        token = os.environ.get("SEAWAY_TOKEN", "").strip() or login.token
        return Target(way.url, _check_token(token, "SEAWAY_TOKEN"), local=False, way=way)
    url = os.environ.get("SEAWAY_URL") or f"http://127.0.0.1:{_api_port(home)}"
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(f"SEAWAY_URL is {url!r}: write http://HOST:PORT or https://HOST", field="SEAWAY_URL")
    comes_back = (lambda: False) if os.environ.get("SEAWAY_URL") else (lambda: _is_watched(home))
    authority = os.environ.get("SEAWAY_CA", "")
    if authority and not Path(authority).is_file():
        raise UsageError(f"SEAWAY_CA is {authority!r}: there is no such file", field="SEAWAY_CA")
    return Target(url.rstrip("/"), _token(home), parts.hostname in LOOPBACK, comes_back, authority=authority)


def _is_watched(home: Home) -> bool:
    """Whether the supervisor or the node agent of this home runs: both bring the control plane back."""
    for part in ("supervisor", "node"):
        try:
            fd = os.open(home.run / f"{part}.part", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return not (home.run / "stopping").exists()
        finally:
            os.close(fd)
    return False


def _api_port(home: Home) -> int:
    try:
        return home.read_settings().api_port
    except (ValidationError, OSError) as error:
        raise CliError(
            f"the settings in {home.root} cannot be read: {type(error).__name__}",
            hint="run `seaway up -d` again, or set SEAWAY_URL",
        ) from error


def _token(home: Home) -> str:
    token = os.environ.get("SEAWAY_TOKEN", "").strip()
    if token:
        return _check_token(token, "SEAWAY_TOKEN")
    try:
        return _check_token(home.admin_token.read_text(errors="replace").strip(), str(home.admin_token))
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise CliError(
            f"{home.admin_token} cannot be read: {error.strerror}",
            hint="set SEAWAY_TOKEN, or run as the user who started the platform",
            exit_code=ExitCode.NOT_ALLOWED,
            code="no-token",
        ) from error


def _check_token(token: str, where: str) -> str:
    """Return what a header can carry; the message never repeats the token."""
    if not re.fullmatch(r"[\x21-\x7e]*", token):
        raise CliError(
            f"{where} holds no token: a token is swy_ and 43 letters, digits, - and _ on one line",
            hint="ask an admin for one (`seaway tokens create NAME`)",
            exit_code=ExitCode.NOT_ALLOWED,
            code="no-token",
        )
    return token


def find_app(given: str | None, folder: Path | None = None) -> str:
    """Return the app given with -a, or the one that `folder` (default: here) or a folder above it is linked to."""
    if given is not None:
        return check_name(given)
    start = (folder or Path.cwd()).resolve()
    app = linked_app(start)
    if app is None:
        raise UsageError(
            f"which app? {start} is not linked to one",
            hint="add -a APP, or create one for this folder with `seaway apps create NAME`",
            field="app",
        )
    return check_name(app)


def check_name(name: str) -> str:
    """Return a name that can stand in a URL's path; anything else cannot be an app's."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise UsageError(
            f"{name!r} is not an app's name: names are lower-case letters, digits and hyphens, starting with a letter",
            field="app",
        )
    return name


def linked_app(folder: Path) -> str | None:
    """Return the app named by the nearest link file at or above `folder`; files of other users do not count."""
    for place in (folder, *folder.parents):
        file = place / LINK_FILE
        try:
            if file.is_file() and file.stat().st_uid == os.getuid():
                return file.read_text(errors="backslashreplace").strip() or None
        except OSError:
            continue  # unreadable folders above are none of our business
    return None


def link_folder(folder: Path, app: str) -> bool:
    """Link an app's folder to `app` if it is not linked yet; return whether a link was written."""
    folder = folder.resolve()
    if linked_app(folder) is not None or not any((folder / mark).exists() for mark in APP_MARKS):
        return False
    try:
        (folder / LINK_FILE).write_text(f"{app}\n")
    except OSError:
        return False  # a folder that may not be written needs -a, and every command says so
    return True

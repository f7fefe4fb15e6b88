"""What becomes of an app's persistent folders: nothing, but when it is destroyed.

They are put away at once, so that whoever takes the app's name next has none of them, and removed SPARE later.
"""

from __future__ import annotations

import re
import secrets
from contextlib import suppress

from seaway.home import Home
from seaway.sandbox.removing import remove_tree

PUT_AWAY = ".destroyed"  # no app is called so

_NAME = re.compile(r"[^.]+\.(\d+)\.[0-9a-f]{8}")  # what else lies there is an administrator's


def put_away(home: Home, app: str, now: float) -> None:
    """Move an app's folders to where nobody but an administrator finds them. May be called again."""
    target = home.mounts / PUT_AWAY
    with suppress(FileNotFoundError):
        (home.mounts / app).stat()
        target.mkdir(mode=0o700, exist_ok=True)
        (home.mounts / app).rename(target / f"{app}.{int(now)}.{secrets.token_hex(4)}")


def remove_old(home: Home, spare_after: float) -> None:
    """Remove what was put away before then (Unix time)."""
    for folder in (home.mounts / PUT_AWAY).glob("*"):
        if (name := _NAME.fullmatch(folder.name)) and float(name[1]) < spare_after:
            remove_tree(folder)

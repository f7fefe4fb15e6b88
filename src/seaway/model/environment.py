"""What an app's environment can hold: the rules of config keys and values, and what a value would change unseen."""

from __future__ import annotations

import re

from seaway.model.base import say_bytes

KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
LONGEST_KEY = 256  # characters
LONGEST_VALUE = 127 << 10
"""Bytes of one value in UTF-8. Linux starts nothing with a string of more than 128 KiB (MAX_ARG_STRLEN) in
its environment. That string is KEY=VALUE and a NUL, so the longest key still fits beside the longest value."""

RESERVED = "PORT and names that begin with SEAWAY_ are set by the platform; choose another"

CHANGES = {
    "PATH": "replaces the folders in which commands are looked for, those of the app's image too",
    "PYTHONPATH": "replaces the folder in which Python finds the app's own modules wherever a command begins",
    "PYTHONHOME": "makes Python look for its own library there",
    "HOME": "takes the place of each instance's own folder, which it may write to",
    "TMPDIR": "takes the place of each instance's own temporary folder",
    "HOST": "replaces the address that the app is told to listen on, the one at which routers look for it",
}
"""What it means to set a variable that image or platform set for the app."""


def check_key(key: str) -> str:
    """Return a config key; raise ValueError with what is wrong."""
    if not KEY.fullmatch(key) or len(key) > LONGEST_KEY:
        raise ValueError(
            f"{key[:80]!r} is not a config key: use letters, digits and _, not beginning with a digit"
            + (f", at most {LONGEST_KEY}" if len(key) > LONGEST_KEY else "")
        )
    if key == "PORT" or key.upper().startswith("SEAWAY_"):
        raise ValueError(f"{key!r} is reserved: {RESERVED}")
    return key


def check_text(value: str) -> str:
    """Return text that an environment or a command line can carry; raise ValueError with what is wrong."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which has no form in UTF-8") from None
    if "\x00" in value:
        raise ValueError("holds a NUL character, which no environment or command line can carry")
    return value


def check_value(value: str) -> str:
    """Return a config value; raise ValueError with what is wrong."""
    size = len(check_text(value).encode())
    if size > LONGEST_VALUE:
        raise ValueError(
            f"has {size:,} bytes, and the environment of a process takes {LONGEST_VALUE:,} "
            f"({say_bytes(LONGEST_VALUE)}) of one value; let the app fetch it, or split it"
        )
    return value


def find_change(key: str) -> str | None:
    """Return what setting this key changes beside the app's own settings, or None: "PATH replaces ..."."""
    if key.startswith("LD_"):
        return f"{key} is obeyed by every program of the app, the shell that starts it and Python too"
    return f"{key} {CHANGES[key]}" if key in CHANGES else None

"""A folder that all processes of an app and its test see: where apps are users of their own they see little else."""

from __future__ import annotations

import os
from pathlib import Path


def find_shared(home: Path, app: str) -> tuple[Path, Path]:
    """Return it as the app's processes call it, and where it is; it is there once the app has run."""
    if os.geteuid() == 0:
        return Path("/tmp"), home / "node" / "tmp" / "app" / app
    return home, home

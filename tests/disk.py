"""How much disk files take while others write, rotate and remove them."""

from __future__ import annotations

import os
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path


def measure_files(root: Path, pattern: str) -> dict[Path, int]:
    """Return bytes of disk (holes take none) by file below `root` whose name fits; what vanishes is left out."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            if fnmatch(name, pattern):
                with suppress(FileNotFoundError):
                    found[Path(folder, name)] = Path(folder, name).lstat().st_blocks * 512
    return found

"""Files of what is generated, committed and compared: a change of them has to be meant, and is seen in a review."""

from __future__ import annotations

import os
from pathlib import Path


def compare(path: Path, text: str) -> None:
    """Check that a file holds the text; SEAWAY_UPDATE_GOLDEN=1 writes it anew instead."""
    if os.environ.get("SEAWAY_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()

"""Where Seaway's own parts log to: a full or broken disk takes their words, never their work."""

from __future__ import annotations

import io
import os
from contextlib import suppress


class Unfailing(io.TextIOBase):
    """Writes whole lines to a descriptor; those that it cannot take (a full disk, a closed pipe) are lost."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._line = ""

    def write(self, text: str) -> int:
        """Take some text; what ends a line is written at once, with what came before."""
        self._line += text
        if self._line.endswith("\n"):
            line, self._line = self._line, ""
            with suppress(OSError):
                os.write(self._descriptor, line.encode(errors="backslashreplace"))
        return len(text)

"""Output of a crash as it is told while somebody waits: once, however often the reason around it changes."""

from __future__ import annotations

import re
from itertools import takewhile

from seaway.model.quoting import MARK

SAME = 12  # characters that two outputs begin with alike before the second is shortened
ABOVE = "(as above)"


class Quotations:
    """What was quoted so far. Digits count as alike: restarts differ in times and process ids."""

    def __init__(self) -> None:
        self._shown: list[str] = []

    def shorten(self, reason: str) -> str:
        """Return the reason with what was quoted before as "(as above)"; what is new in it stays."""
        first, *quoted = reason.split(MARK)
        return first + "".join(MARK + self._shorten_one(text) for text in quoted)

    def _shorten_one(self, text: str) -> str:
        masked = re.sub(r"\d", "0", text)
        alike = max((_count_alike(masked, shown) for shown in self._shown), default=0)
        alike = len(masked[:alike].rstrip(") ;"))  # what closes the sentence around it is not quoted
        self._shown.append(masked)
        return ABOVE + text[alike:] if alike >= SAME else text


def _count_alike(one: str, other: str) -> int:
    """Return how many characters two texts begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))

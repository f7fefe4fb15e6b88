"""What an app wrote itself, as part of a sentence of Seaway's: one line, bounded, and nothing that a terminal obeys."""

from __future__ import annotations

import unicodedata

QUOTED = 200  # characters of one quotation


def quote_text(text: str, most: int = QUOTED) -> str:
    """Return text as one line of at most `most` characters: blanks for white space, \\x1b for control characters.

    What is left out at the end is marked by three dots.
    """
    line = "".join(_show(letter) for letter in " ".join(text[: 4 * most + 4].split()))
    return line if len(line) <= most else f"{line[: most - 3].rstrip()}..."


def _show(letter: str) -> str:
    """Return the letter, or its code if it is of a kind that is not seen (control, format, half a pair, unassigned)."""
    hidden = unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp")
    return letter.encode("unicode_escape").decode() if hidden else letter

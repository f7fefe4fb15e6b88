"""What an app wrote itself, as part of a sentence of Seaway's: one line, bounded, and nothing that a terminal obeys."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import unquote

QUOTED = 200  # characters of one quotation
SHORTEST = 6  # characters of a value that is hidden: shorter ones (true, 8080) are words of any sentence
MARK = "last output: "  # before what an instance or a command wrote last, in reasons of every engine

_PASSWORD = re.compile(r"://[^/@\s:]*:([^/@\s]+)@")
_HEAD = "Traceback (most recent call last)"
_LINKS = ("During handling of the above exception", "The above exception was the direct cause")
_FRAME = re.compile(r"\s+at ")  # how Node and Java indent a traceback's body


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


def drop_tracebacks(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines without Python's tracebacks, but for what they end with: the error."""
    depth: int | None = None
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line.lstrip().startswith(_HEAD):
            depth = indent
        elif depth is None or indent <= depth:
            depth = None
            yield line


def quote_error(lines: Iterable[str], most: int) -> list[str]:
    """Return the last lines that are not blank, each quoted, so that they name the error.

    What a traceback ends with counts as the error, its body and all before it do not. Of an error of many lines the
    first is kept. The first line may be in the midst of a traceback whose beginning is not known.
    """
    whole = [line for line in lines if line.strip()]
    cut = [_HEAD, *whole] if whole and whole[0][0].isspace() else whole
    begin = max((at for at, line in enumerate(cut) if _HEAD in line), default=len(cut))
    kept = [line for line in drop_tracebacks(cut[begin:]) if not line.startswith(_LINKS)]
    if not kept:
        kept = [line for line in whole if not _FRAME.match(line)][-most:]
    if len(kept) > most:
        kept = [kept[0], *kept[len(kept) - most + 1 :]]
    return [quote_text(line) for line in kept]


def hide_values(text: str, config: Mapping[str, str]) -> str:
    """Return text that quotes an app's output, with $NAME in place of each value of its config, and of its passwords.

    Also where a value is cut off by the end of a quotation. Values of fewer than SHORTEST characters stay.
    """
    names = {secret: f"${name}" for name, value in config.items() for secret in _list_secrets(value)}
    if not names:
        return text
    longest_first = sorted(names, key=len, reverse=True)
    for secret in longest_first:
        text = _hide_cut(text, secret, names[secret])
    return re.sub("|".join(map(re.escape, longest_first)), lambda found: names[found[0]], text)


def _list_secrets(value: str) -> set[str]:
    """Return what of a value may stand in a line, as it is quoted: its lines, and the password of a URL."""
    passwords = _PASSWORD.findall(value)
    parts = [*value.splitlines(), *passwords, *map(unquote, passwords)]
    quoted = {quote_text(part, 10 * len(part)) for part in parts}
    return {part for part in quoted if len(part) >= SHORTEST}


def _hide_cut(text: str, secret: str, name: str) -> str:
    """Hide the beginning of a secret before the dots that end a quotation."""
    pieces = text.split("...")
    for at, piece in enumerate(pieces[:-1]):
        longest = min(len(secret) - 1, len(piece))
        cut = next((n for n in range(longest, SHORTEST - 1, -1) if piece.endswith(secret[:n])), 0)
        if cut:
            pieces[at] = piece[:-cut] + name
    return "...".join(pieces)

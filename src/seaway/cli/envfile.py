"""Lines of a .env file, as python-dotenv and docker compose read them; pure.

Understood: blank lines and comments; `export ` in front; blanks around the key; KEY=plain (to the end of the line
or to a blank and #, without blanks at its ends); KEY='as it is' and KEY="with \\n, \\t, \\", \\\\ or \\$", both over
several lines if need be, with nothing but a comment behind them. Lines end with LF or CRLF, also inside quotes.
What these readers take in different ways is refused instead of guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from seaway.model.environment import KEY

ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", '"': '"', "'": "'", "\\": "\\",
           "$": "$"}  # fmt: skip

_BLANK = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
_KEY = re.compile(r"[ \t]*(?:export[ \t]+)?([^\n=]*?)[ \t]*=")
_REST = re.compile(r"[^\n]*(?:\n|\Z)")
_QUOTES = {
    "'": re.compile(r"[ \t]*'([^']*)'"),
    '"': re.compile(r'[ \t]*"((?:[^"\\]|\\.)*)"', re.DOTALL),
}
_REFERENCE = re.compile(r"(?:\\.|[^\\$]|\$(?!\{))*\$\{", re.DOTALL)


@dataclass(frozen=True)
class Setting:
    """A value and the line, from 1, on which it begins."""

    line: int
    key: str
    value: str


@dataclass(frozen=True)
class Mistake:
    """What is wrong with a line; never any part of its value."""

    line: int
    problem: str


def read_env(text: str) -> Iterator[Setting | Mistake]:
    """Yield what the lines set, and what is wrong with the others, in their order."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    position, line = 0, 1
    while position < len(text):
        found, end = _read_one(text, position, line)
        if found is not None:
            yield found
        line += text.count("\n", position, end)
        position = end


def _read_one(text: str, start: int, line: int) -> tuple[Setting | Mistake | None, int]:
    """Return what begins at `start`, and where the next one does."""
    if blank := _BLANK.match(text, start):
        return None, blank.end()
    rest = _REST.match(text, start)
    assert rest is not None
    head = _KEY.match(text, start)
    if head is None:
        return Mistake(line, "is not KEY=VALUE: it has no ="), rest.end()
    key = head[1]
    if not KEY.fullmatch(key):
        problem = "has no config key before =: use letters, digits and _, not beginning with a digit"
        return Mistake(line, problem), rest.end()
    quote = text[head.end() : rest.end()].lstrip(" \t")[:1]
    if quote in _QUOTES:
        return _read_quoted(text, head.end(), Setting(line, key, quote))
    raw = text[head.end() : rest.end()]
    value = re.sub(r"[ \t]#.*", "", raw.rstrip("\n")).strip(" \t\r")
    if "${" in value:
        return _refuse_reference(line, key), rest.end()
    return Setting(line, key, value), rest.end()


def _read_quoted(text: str, start: int, begun: Setting) -> tuple[Setting | Mistake, int]:
    line, key, quote = begun.line, begun.key, begun.value
    match = _QUOTES[quote].match(text, start)
    if match is None:  # where it was meant to end nobody can tell, so what follows is not looked at
        return Mistake(line, f"begins the value of {key} with a quote ({quote}) that is not closed"), len(text)
    tail = _BLANK.match(text, match.end())
    if tail is None:
        rest = _REST.match(text, match.end())
        assert rest is not None
        return Mistake(line, f"has more behind the closing quote of {key}"), rest.end()
    if quote == "'":
        return Setting(line, key, match[1]), tail.end()
    if _REFERENCE.match(match[1]):
        return _refuse_reference(line, key), tail.end()
    return Setting(line, key, re.sub(r"\\(.)", _unescape, match[1], flags=re.DOTALL)), tail.end()


def _unescape(match: re.Match[str]) -> str:
    return ESCAPES.get(match[1], match[0])


def _refuse_reference(line: int, key: str) -> Mistake:
    return Mistake(line, f"has ${{...}} in the value of {key}, and nothing is put in: write the value, or '${{...}}'")

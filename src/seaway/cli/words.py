"""Words of others (apps, builds, config) made harmless for a terminal.

A terminal obeys control characters: they move the cursor over what was printed, forge lines, set the title, answer as
if somebody had typed. So each is shown as its escape (\\x1b, \\r, \\u202e) wherever text is printed for people; only
`seaway run` and JSON pass on what was written. Colours alone (ESC [ ... m) are kept where lines of an app's or a
build's output are shown: frameworks colour their logs, and a colour can neither leave its line nor hide whose it is.
"""

from __future__ import annotations

import re

from rich.ansi import AnsiDecoder
from rich.style import Style
from rich.text import Span, Text

HARMFUL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""C0, DEL, C1, separators of lines and paragraphs, and what turns the direction of text."""

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def escape(text: str, keep: str = "") -> str:
    """Return the text with each control character, but those in `keep`, as its escape."""
    return HARMFUL.sub(lambda match: match[0] if match[0] in keep else _name(match[0]), text)


def escape_styled(text: Text, keep: str = "") -> Text:
    """Return styled text with each control character, but those in `keep`, as its escape; styles stay in place."""
    done, shown = 0, Text(style=text.style)
    for match in HARMFUL.finditer(text.plain):
        if match[0] not in keep:
            name, styles = _name(match[0]), [span.style for span in text[match.start()].spans]
            shown.append_text(text[done : match.start()])
            shown.append_text(Text(name, spans=[Span(0, len(name), style) for style in styles]))
            done = match.end()
    return shown.append_text(text[done:]) if done else text


def show_line(line: str) -> Text:
    """Return one line of output with its colours, and all other control characters but tabs as escapes.

    Conceal is no colour: it would hide words from who reads them.
    """
    colours = COLOUR.findall(line)
    plain = [escape(part, keep="\t") for part in COLOUR.split(line)]
    shown = AnsiDecoder().decode_line(plain[0] + "".join(a + b for a, b in zip(colours, plain[1:], strict=True)))
    shown.spans = [Span(at.start, at.end, _reveal(at.style)) for at in shown.spans]
    return shown


def show_lines(text: str) -> list[Text]:
    """Return the lines of a message: at least one; the newline that ends a message begins no other line."""
    return [show_line(line.removesuffix("\r")) for line in text.removesuffix("\n").split("\n")]


def quote(value: str) -> str:
    """Return a value on one line: as it is if nothing in it could be mistaken, else in quotes with escapes."""
    if value and value == value.strip() and value[0] != '"' and not HARMFUL.search(value):
        return value
    return '"' + escape(value.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _name(character: str) -> str:
    code = ord(character)
    return SHORT.get(character) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def _reveal(style: str | Style) -> str | Style:
    return style + Style(conceal=False) if isinstance(style, Style) else style

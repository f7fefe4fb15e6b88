"""What a command's end quotes of its output: the error, bounded, and no value of the app's config."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.model.quoting import SHORTEST, hide_values, quote_error, quote_text

TRACEBACK = """\
Applying shop.0001_initial...
Traceback (most recent call last):
  File "/app/db.py", line 3, in connect
    return os.environ["DATABASE_URL"]
           ~~~~~~~~~~^^^^^^^^^^^^^^^^
KeyError: 'DATABASE_URL'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/app/manage.py", line 9, in <module>
    main()
shop.errors.Misconfigured: DATABASE_URL is not set
"""
URL = "postgres://shop:correct%2Fhorse@db.example/shop"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("DATABASE_URL is not set\n", ["DATABASE_URL is not set"]),
        ("one\ntwo\n\nthree\nfour\n", ["two", "three", "four"]),
        (TRACEBACK, ["shop.errors.Misconfigured: DATABASE_URL is not set"]),
        (TRACEBACK[60:], ["shop.errors.Misconfigured: DATABASE_URL is not set"]),
        ("    main()\n  File x\nKeyError: 'A'\n", ["KeyError: 'A'"]),
        ("  indented\n  to the end\n", ["indented", "to the end"]),
        (f"{TRACEBACK}a\nb\nc\n", ["shop.errors.Misconfigured: DATABASE_URL is not set", "b", "c"]),
        ("Error: no such table\n    at Database.run (/app/db.js:3:9)\n    at main\n", ["Error: no such table"]),
        ("\x1b[31mred\x1b[0m\n", ["\\x1b[31mred\\x1b[0m"]),
        ("\n \n", []),
    ],
)
def test_the_error_of_a_command_is_quoted(text: str, said: list[str]) -> None:
    """The lines that name it, without a traceback's body, also where its beginning is cut off."""
    assert quote_error(text.splitlines(), 3) == said


@given(st.lists(st.text(max_size=30)), st.integers(1, 5))
def test_an_error_is_bounded_and_never_lost(lines: list[str], most: int) -> None:
    """At most so many lines; none only where nothing was written."""
    quoted = quote_error(lines, most)
    assert len(quoted) <= most
    written = [line for line in lines if line.strip() and not line[0].isspace()]
    assert quoted or not written


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"cannot connect to {URL}", "cannot connect to $DATABASE_URL"),
        ("wrong password correct/horse or correct%2Fhorse", "wrong password $DATABASE_URL or $DATABASE_URL"),
        ("DEBUG is true, PEM is second line", "DEBUG is true, PEM is $PEM"),
        (f"{quote_text('x' * 160 + URL)}; it goes on", f"{'x' * 160}$DATABASE_URL...; it goes on"),
        ("nothing of it", "nothing of it"),
    ],
)
def test_values_of_the_config_are_hidden(text: str, said: str) -> None:
    """Whole, a URL's password, a line of several, and what the end of a quotation left of one; not short words."""
    config = {"DATABASE_URL": URL, "DEBUG": "true", "PEM": "first line\nsecond line\n", "EMPTY": ""}
    assert hide_values(text, config) == said


@given(st.text(max_size=300), st.text(min_size=SHORTEST, max_size=300), st.text(max_size=300))
def test_no_value_survives_a_quotation(before: str, value: str, after: str) -> None:
    """Whatever stands around it."""
    secret = quote_text(value, 3000)
    shown = hide_values(quote_text(f"{before}{value}{after}"), {"S": value})
    assert len(secret) < SHORTEST or len(value.splitlines()) > 1 or secret not in shown

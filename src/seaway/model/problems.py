"""What is wrong with a value, in words for whoever wrote it: pydantic's own are about types and constraints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import ErrorDetails

SHOWN = 80  # characters of a wrong value
BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
NUMBERS = {"int_type", "int_parsing", "int_from_float"}


def say_range(kind: str, context: Mapping[str, Any]) -> str:
    """Return what a number out of its range must be, or "" for an error of another kind."""
    if kind not in BOUNDS:
        return ""
    key, words = BOUNDS[kind]
    bound = context[key]
    return f"is out of range: it must be {words} {bound if isinstance(bound, int) else f'{bound:g}'}"


def say_problem(details: ErrorDetails, typed: object = None) -> str:
    """Return one error about an option, as "-3 is out of range: it must be at least 0".

    `typed`: what was given, where the error knows only what became of it (bytes of 9999T).
    """
    value = str(details["input"] if typed is None else typed)[:SHOWN]
    if wanted := say_range(details["type"], details.get("ctx", {})):
        return f"{value} {wanted}"
    if details["type"] in NUMBERS:
        return f"{value!r} is not a whole number"
    if details["type"] == "int_parsing_size":
        return f"{value} has too many digits"
    return details["msg"].removeprefix("Value error, ")

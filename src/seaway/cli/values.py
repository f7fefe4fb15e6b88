"""What `config set` is given: KEY=VALUE, KEY=@FILE, or lines of a .env file. Errors name the key, never the value."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from seaway.cli.envfile import Mistake, read_env
from seaway.cli.errors import UsageError, join_errors
from seaway.model.environment import check_key, check_value

EXAMPLE = "for example: seaway config set COLOUR=blue, or seaway config set - < secrets.env"


def parse_config(pairs: Sequence[str]) -> dict[str, str]:
    """Return the values; raise UsageError that tells everything that is wrong."""
    values: dict[str, str] = {}
    errors: list[UsageError] = []
    for number, pair in enumerate(pairs, 1):
        if pair == "-":
            for found in _read_lines():
                if isinstance(found, UsageError):
                    errors.append(found)
                else:
                    values |= [found]
            continue
        try:
            key, value = _split(pair, f"argument {number}")
            values[key] = _judge(key, _read_value(key, value) if value.startswith("@") else value)
        except UsageError as error:
            errors.append(error)
    if errors:
        raise join_errors(errors)
    if not values:
        raise UsageError("nothing to set: standard input had no KEY=VALUE lines", field="config")
    return values


def check_keys(keys: Sequence[str]) -> None:
    """Raise UsageError that tells all keys that can be none."""
    errors = []
    for key in keys:
        try:
            _check_key(key, key)
        except UsageError as error:
            errors.append(error)
    if errors:
        raise join_errors(errors)


def _read_lines() -> Iterator[tuple[str, str] | UsageError]:
    data = sys.stdin.buffer.read()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line, byte = data.count(b"\n", 0, error.start) + 1, data[error.start]
        yield UsageError(f"line {line} of standard input is not text in UTF-8: it holds the byte {byte:#04x}")
        return
    for found in read_env(text):
        where = f"line {found.line} of standard input"
        if isinstance(found, Mistake):
            yield UsageError(f"{where} {found.problem}", hint=EXAMPLE, field="config")
            continue
        try:
            yield _check_key(found.key, where), _judge(found.key, found.value)
        except UsageError as error:
            yield error


def _split(pair: str, where: str) -> tuple[str, str]:
    key, equals, value = pair.partition("=")
    if not equals:
        raise UsageError(f"{where} is not KEY=VALUE: it has no =", hint=EXAMPLE, field="config")
    return _check_key(key, where), value


def _check_key(key: str, where: str) -> str:
    try:
        return check_key(key)
    except ValueError as error:
        raise UsageError(f"{where}: {error}", field="config") from error


def _judge(key: str, value: str) -> str:
    try:
        return check_value(value)
    except ValueError as error:
        raise UsageError(f"{key} {error}", field=key) from error


def _read_value(key: str, value: str) -> str:
    """Return a file's text exactly, or the value behind @@."""
    if value.startswith("@@"):
        return value[1:]
    file = Path(value[1:])
    try:
        return file.read_bytes().decode()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise UsageError(
            f"{key}: the file {str(file)!r} cannot be read: {why}",
            hint=f"for a value that begins with @ write {key}=@@...",
            field=key,
        ) from error

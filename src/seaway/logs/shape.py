"""The shape of a log line (docs/logs.md): raw bytes and labels in, one JSON object with ECS field names out. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

ECS_VERSION = "8.11.0"
LONGEST = 64 * 1024  # bytes of one line; longer ones are split
LEVEL_KEYS = ("log.level", "level", "severity", "levelname")
MESSAGE_KEYS = ("message", "msg", "event", "text")
LEVELS = re.compile(r"(trace|debug|info|notice|warn|warning|error|err|critical|crit|fatal|alert|emerg)", re.I)
ISO_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d([.,]\d+)?(Z|[+-]\d\d:?\d\d)")

_dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False, allow_nan=False).encode


def format_time(moment: datetime) -> str:
    """Return a moment in UTC as lines have it; of equal length, so that their order as text is that in time."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass(frozen=True)
class Labels:
    """Who wrote the lines."""

    app: str
    team: str
    release: int
    process: str
    instance: str
    node: str

    @cached_property
    def fields(self) -> dict[str, str]:
        """The labels as ECS fields."""
        return {
            "service.name": self.app,
            "service.version": f"v{self.release}",
            "service.node.name": self.instance,
            "host.name": self.node,
            "labels.process": self.process,
            "labels.team": self.team,
        }

    @cached_property
    def packed(self) -> str:
        """The labels as the inside of a JSON object."""
        return _dump(self.fields)[1:-1]


@dataclass(frozen=True)
class Piece:
    """A part of a stream that becomes one line: text without its newline, and how many raw bytes it stands for."""

    text: bytes
    length: int
    partial: bool = False  # the line goes on in the next piece


def split_lines(data: bytes, *, final: bool, longest: int = LONGEST, most: int | None = None) -> list[Piece]:
    """Split what was read into pieces; an unfinished last line is left out unless `final` or too long.

    At most `most` pieces: what is behind them is left out too.
    """
    pieces: list[Piece] = []
    start = 0
    while start < len(data) and len(pieces) != most:
        end = data.find(b"\n", start, start + longest + 1)
        if end >= 0:
            pieces.append(Piece(data[start:end].removesuffix(b"\r"), end + 1 - start))
            start = end + 1
        elif len(data) - start > longest:
            cut = _find_cut(data, start, start + longest)
            pieces.append(Piece(data[start:cut], cut - start, partial=True))
            start = cut
        else:
            if final:
                pieces.append(Piece(data[start:], len(data) - start))
            break
    return pieces


def _find_cut(data: bytes, start: int, end: int) -> int:
    """Return `end` or up to 3 bytes less, so that no UTF-8 character is cut."""
    for cut in range(end, max(start, end - 4), -1):
        if data[cut] & 0xC0 != 0x80:
            return cut
    return end


def make_line(piece: Piece, labels: Labels, stream: str, offset: int, now: str) -> str:
    """Return the JSON line (with newline) of a piece that begins `offset` bytes into the stream.

    `now` is an ISO 8601 time. A JSON object is merged in; anything else is text.
    """
    text = piece.text.decode(errors="replace")
    tail = f'"stream":"{stream}","log.offset":{offset},"log.length":{piece.length}'
    if piece.partial:
        tail += ',"log.flags":["partial"]'
    if text.startswith("{") and text.endswith("}") and not piece.partial:
        own = _parse_object(text)
        if own is not None:
            head = _dump(_merge(own, labels, now))[1:-1]
            return f"{{{head},{labels.packed},{tail}}}\n"
    return f'{{"@timestamp":"{now}","message":{_dump(text)},"ecs.version":"{ECS_VERSION}",{labels.packed},{tail}}}\n'


def make_note(message: str, labels: Labels, stream: str, *, offset: int, length: int, now: str, lost: int) -> str:
    """Return a line of Seaway's own in an instance's stream: `lost` lines of `length` bytes are missing here."""
    fields = {
        "@timestamp": now, "log.level": "warning", "message": message, "ecs.version": ECS_VERSION, **labels.fields,
        "stream": stream, "log.offset": offset, "log.length": length, "log.flags": ["lost"], "event.lost": lost,
    }  # fmt: skip
    return _dump(fields) + "\n"


def _parse_object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
        if isinstance(found, dict):
            _dump(found).encode()  # lone surrogates and NaN cannot be written; such a line stays text
            return found
    except (ValueError, RecursionError):  # not JSON, or JSON (NaN, endless nesting) that is not to be passed on
        return None
    return None


def _merge(own: Mapping[str, Any], labels: Labels, now: str) -> dict[str, Any]:
    """Return the app's fields around the platform's: time, message and level where expected, no clash with labels."""
    time, message = own.get("@timestamp"), _find_text(own, MESSAGE_KEYS)
    kept = isinstance(time, str) and ISO_TIME.fullmatch(time) is not None
    merged: dict[str, Any] = {"@timestamp": time if kept else now}
    level = _find_text(own, LEVEL_KEYS) or _nested_level(own)
    if level is not None and LEVELS.fullmatch(level):
        merged["log.level"] = level.lower()
    merged |= {"message": message if message is not None else "", "ecs.version": ECS_VERSION}
    if kept:
        merged["event.ingested"] = now
    own = {key: value for key, value in own.items() if not (key == "event" and value == message)}
    for key, value in _without_clashes(own, labels).items():
        if key not in merged:
            merged[key] = value
    return merged


def _find_text(own: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    return next((own[key] for key in keys if isinstance(own.get(key), str)), None)


def _nested_level(own: Mapping[str, Any]) -> str | None:
    log = own.get("log")
    return log["level"] if isinstance(log, dict) and isinstance(log.get("level"), str) else None


def _without_clashes(own: Mapping[str, Any], labels: Labels) -> dict[str, Any]:
    """Drop what only the platform may say, dotted or nested; a scalar in an object's place moves to labels.NAME."""
    reserved = {*labels.fields, "stream", "log.offset", "log.length", "log.flags", "ecs.version"}
    reserved |= {"event.ingested", "event.lost"}
    prefixes = {name.split(".")[0] for name in reserved if "." in name} | {"event"}
    kept: dict[str, Any] = {}
    for key, value in own.items():
        if key in reserved:
            continue
        if key in prefixes and isinstance(value, dict):
            pruned = _prune(value, key, reserved)
            if pruned:
                kept[key] = pruned
        elif key in prefixes and f"labels.{key}" not in reserved:
            kept[f"labels.{key}"] = value
        else:
            kept[key] = value
    return kept


def _prune(value: dict[str, Any], path: str, reserved: set[str]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, inner in value.items():
        name = f"{path}.{key}"
        if name in reserved:
            continue
        kept[key] = _prune(inner, name, reserved) if isinstance(inner, dict) else inner
    return kept

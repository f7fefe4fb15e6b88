"""The shape of log lines: what an app writes and what becomes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.logs.shape import LONGEST, Labels, Piece, make_line, split_lines

LABELS = Labels(app="shop", team="crew", release=3, process="web", instance="shop-v3-web-abc", node="n1")
NOW = "2026-01-02T03:04:05.000006Z"
PLATFORM = {
    "service.name": "shop", "service.version": "v3", "service.node.name": "shop-v3-web-abc", "host.name": "n1",
    "labels.process": "web", "labels.team": "crew", "stream": "stdout", "log.offset": 7,
}  # fmt: skip


def shape(text: str | bytes) -> dict[str, Any]:
    raw = text if isinstance(text, bytes) else text.encode()
    line = make_line(Piece(raw, len(raw) + 1), LABELS, "stdout", 7, NOW)
    assert line.count("\n") == 1
    found: dict[str, Any] = json.loads(line)
    assert PLATFORM.items() <= found.items()
    assert found["log.length"] == len(raw) + 1
    return found


def test_text() -> None:
    """Plain text becomes the message, stamped and labelled; colours and quotes stay."""
    found = shape('say "hi" \x1b[31mred\x1b[0m é')
    assert found["message"] == 'say "hi" \x1b[31mred\x1b[0m é'
    assert found["@timestamp"] == NOW
    assert found["ecs.version"]


def test_object_is_merged() -> None:
    """A JSON object's fields stand beside the platform's, its message and level where they belong."""
    found = shape('{"msg": "paid", "level": "INFO", "amount": 12.5, "user": {"id": 7}}')
    assert (found["message"], found["log.level"]) == ("paid", "info")
    assert (found["amount"], found["user"], found["msg"]) == (12.5, {"id": 7}, "paid")


def test_own_time_is_kept() -> None:
    """An app's own ISO time stays, and when it was read is noted; nonsense is replaced."""
    found = shape('{"@timestamp": "2025-12-31T23:59:59Z", "message": "x"}')
    assert (found["@timestamp"], found["event.ingested"]) == ("2025-12-31T23:59:59Z", NOW)
    assert shape('{"@timestamp": 5}')["@timestamp"] == NOW
    assert shape('{"@timestamp": "2025-12-31T23:59:59Z\\n"}')["@timestamp"] == NOW


@pytest.mark.parametrize(
    "forged",
    [
        {"service.name": "bank", "stream": "x", "log.offset": 0, "log.length": 1, "labels.process": "root"},
        {"service": {"name": "bank", "version": "v9"}, "labels": {"process": "root"}, "host": {"name": "y"}},
    ],
)
def test_labels_cannot_be_forged(forged: dict[str, Any]) -> None:
    """What an app says of itself in the platform's fields, dotted or nested, is dropped."""
    found = shape(json.dumps({"message": "m", **forged}))
    assert "bank" not in json.dumps(found)
    assert "root" not in json.dumps(found)


def test_scalars_in_the_place_of_objects_move() -> None:
    """A scalar where ECS has an object is kept under labels, so that every line has the same mapping."""
    found = shape('{"service": "billing", "host": "h", "event": "login", "message": "m"}')
    assert (found["labels.service"], found["labels.host"], found["labels.event"]) == ("billing", "h", "login")
    assert not {"service", "host", "event"} & found.keys()


def test_structlog_event_is_the_message() -> None:
    """structlog's event is the message, once."""
    found = shape('{"event": "started", "level": "warning"}')
    assert (found["message"], found["log.level"]) == ("started", "warning")
    assert "labels.event" not in found


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": "\\ud800"}', "{" * 5000 + "}", "[1, 2]", "{broken}", '"x"'])
def test_other_json_is_text(text: str) -> None:
    """What is no plain JSON object stays text."""
    assert shape(text)["message"] == text


def test_bytes_that_are_no_text() -> None:
    """Bytes that are not UTF-8 are replaced, not lost."""
    assert shape(b"caf\xe9 ok")["message"] == "caf\ufffd ok"


def test_long_lines_are_split_with_a_flag() -> None:
    """A line over the limit becomes parts; all but the last carry the flag, and no character is cut."""
    text = "x" + "é" * LONGEST  # the limit falls into the middle of a character
    pieces = split_lines(text.encode() + b"\n", final=False)
    assert [piece.partial for piece in pieces] == [True, True, False]
    assert "".join(piece.text.decode() for piece in pieces) == text
    line = json.loads(make_line(pieces[0], LABELS, "stdout", 0, NOW))
    assert line["log.flags"] == ["partial"]


@given(st.binary(max_size=400), st.integers(1, 400), st.integers(1, 30))
def test_pieces_cover_the_stream(data: bytes, cut: int, longest: int) -> None:
    """However the stream is cut into reads, pieces follow each other without gap or overlap and give the same lines."""
    whole = split_lines(data, final=True, longest=longest)
    assert sum(piece.length for piece in whole) == len(data)
    position, seen = 0, b""
    for end in [*range(cut, len(data), cut), len(data)]:
        for piece in split_lines(data[position:end], final=end == len(data), longest=longest):
            seen += piece.text + (b"" if piece.partial else b"\n")
            position += piece.length
    assert position == len(data)
    if b"\r" not in data:
        assert seen == (data if not data or data.endswith(b"\n") else data + b"\n")

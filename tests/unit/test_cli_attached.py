"""`seaway run` byte by byte, against an API that repeats, cuts off and loses."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest

from tests.unit.cli_recorded import NOW, Bench, Events, Failure, Lines, bench, recorder

__all__ = ["bench", "recorder"]

TASK = {"id": "t", "app": "shop", "streams": True}
RUNS = {"id": "t", "done": False, "started_at": NOW.isoformat(), "reason": "running"}
ATTACH, INPUT = "/apps/shop/run/t/attach", "/apps/shop/run/t/input"


def piece(offset: int, data: bytes, stream: str = "stdout") -> tuple[str, Any]:
    return "output", {"stream": stream, "offset": offset, "data": b64encode(data).decode()}


def done(stdout: int, stderr: int = 0, code: int = 0) -> tuple[str, Any]:
    ends = {"stdout": stdout, "stderr": stderr}
    return "state", RUNS | {"done": True, "exit_code": code, "reason": "why", "output_ends": ends}


def test_output_is_printed_as_it_was_written(bench: Bench) -> None:
    """What is no text too, each stream apart, over a cut connection, nothing twice; also after the last state."""
    bench.api.on("POST", "/apps/shop/run", TASK)
    first = Events([("state", RUNS), piece(0, b"\xff\x00a"), piece(0, b"err", "stderr"), piece(3, b"b")])
    bench.api.on("GET", ATTACH, first, Events([piece(2, b"abc"), done(7, 3, code=9), piece(5, b"\r\n")]))
    result = bench.run("run", "-a", "shop", "x")
    assert (result.exit_code, result.stdout_bytes, result.stderr_bytes) == (9, b"\xff\x00abc\r\n", b"err")
    (sent,) = bench.api.sent("POST", "/apps/shop/run")
    assert (sent["streams"], sent["attached"], sent["timeout"]) == ({"reads": False}, True, 600.0)
    asked = bench.api.queries("GET", ATTACH)
    assert asked == [{"output": "true", "stdout": str(n), "stderr": str(m)} for n, m in ((0, 0), (4, 3))]


@pytest.mark.parametrize("how", ["a gap", "the end", "nobody knows"])
def test_lost_output_is_no_success(bench: Bench, how: str) -> None:
    """Whatever the command's own code: who reads on would take it for all."""
    bench.api.on("POST", "/apps/shop/run", TASK)
    last = {"a gap": done(7), "the end": done(7), "nobody knows": done(0)}[how]
    if how == "nobody knows":
        last[1]["output_ends"] = None
    pieces = [piece(0, b"one"), piece(5, b"22")] if how == "a gap" else [piece(0, b"one")]
    bench.api.on("GET", ATTACH, Events([("state", RUNS), *pieces, last]))
    result = bench.run("run", "-a", "shop", "x")
    assert (result.exit_code, result.stdout.startswith("one")) == (1, True)
    lost = {"a gap": "2 bytes", "the end": "4 bytes", "nobody knows": "some, nobody knows how much,"}[how]
    assert f"{lost} of what the command wrote did not arrive; how it ended: why\n" in result.stderr


def test_what_never_ran_has_lost_nothing(bench: Bench) -> None:
    """It says why it did not run."""
    bench.api.on("POST", "/apps/shop/run", TASK)
    state = {"id": "t", "done": True, "reason": "its image is gone"}
    bench.api.on("GET", ATTACH, Events([("state", state)]))
    result = bench.run("run", "-a", "shop", "x")
    assert (result.exit_code, "the command did not run: its image is gone" in result.stderr) == (1, True)


def test_an_engine_without_streams_gets_all_input_at_once(bench: Bench) -> None:
    """And its output comes by way of the logs."""
    no = Failure(409, "this platform's engine passes on neither input nor a terminal yet", "no-streams")
    bench.api.on("POST", "/apps/shop/run", no, {"id": "t"})
    bench.api.on("GET", ATTACH, Events([("state", RUNS | {"done": True, "exit_code": 0})]))
    bench.api.on("GET", "/apps/shop/logs", Lines([]))
    result = bench.run("run", "-i", "-a", "shop", "cat", stdin="hello")
    assert (result.exit_code, result.stderr) == (0, f"seaway: {no.message}\n")
    first, second = bench.api.sent("POST", "/apps/shop/run")
    assert (first["streams"], second.get("streams"), second["stdin"]) == ({"reads": True}, None, "aGVsbG8=")


def test_a_terminal_has_to_be_there(bench: Bench) -> None:
    """Wanted where there is none, or where nobody would type: nothing is started."""
    for words in (("-t",), ("-t", "-d"), ("-t", "-o", "json")):
        result = bench.run("run", *words, "-a", "shop", "sh")
        assert (result.exit_code, bench.api.requests) == (2, []), words
    assert "-i passes on what is piped in" in bench.run("run", "-t", "-a", "shop", "sh").stderr

"""Small pure parts: ages, sizes, links of folders, resuming a stream, asking for JSON."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from seaway.cli.commands.releases import describe_process
from seaway.cli.group import wants_json
from seaway.cli.logline import Resume
from seaway.cli.progress import LiveProgress
from seaway.cli.session import parse_seconds
from seaway.cli.show import age, seconds_text, size
from seaway.cli.target import link_folder, linked_app


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "just now"), (59, "59s ago"), (200, "3m ago"), (7300, "2h ago"), (200_000, "2d ago")]
)
def test_ages(seconds: float, text: str) -> None:
    """In their largest whole unit."""
    now = datetime(2026, 11, 23, tzinfo=UTC)
    assert age((now - timedelta(seconds=seconds)).isoformat(), now) == text


def test_sizes_and_durations() -> None:
    """As people write them."""
    assert [size(n) for n in (12, 34_100, 12_000_000, 2.5e9)] == ["12 B", "34.1 kB", "12.0 MB", "2.5 GB"]
    assert [seconds_text(s) for s in (1.5, 30.0, 90.0, 1800.0)] == ["1.5 s", "30 s", "90 s", "30 min"]
    assert [parse_seconds(t) for t in ("90", "1.5", "500ms", "5m", 7.0)] == [90.0, 1.5, 0.5, 300.0, 7.0]


def test_a_link_is_found_from_below_and_never_overwritten(tmp_path: Path) -> None:
    """A folder named .seaway is no link."""
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert not link_folder(inner, "shop"), "nothing there looks like an app"
    (tmp_path / "Procfile").touch()
    assert link_folder(tmp_path, "shop")
    assert linked_app(inner) == "shop"
    assert not link_folder(tmp_path, "other")
    (inner / ".seaway").mkdir()
    assert linked_app(inner) == "shop"


def test_a_resumed_stream_repeats_nothing_and_loses_nothing() -> None:
    """Equal lines before the outage are kept; of the overlap each is dropped once."""
    resume = Resume("t", 100)

    def feed(*lines: tuple[str, str]) -> list[str]:
        return [raw for stamp, raw in lines if resume.is_new({"t": stamp}, raw)]

    assert feed(("2", "x"), ("2", "x"), ("1", "late")) == ["x", "x", "late"]
    resume.begin_again()
    assert feed(("0", "older"), ("2", "x"), ("2", "x"), ("1", "late"), ("2", "x"), ("3", "y")) == ["x", "y"]


def test_asking_for_json_is_seen_on_a_line_that_cannot_be_parsed() -> None:
    """But not behind --."""
    assert wants_json(["aps", "-o", "json"])
    assert wants_json(["aps", "--output=json"])
    assert not wants_json(["run", "--", "grep", "-o", "json"])


def test_live_progress_turns_each_phase_into_a_line() -> None:
    """On a terminal: what is done stays as a line, what is live is gone at the end."""
    written = io.StringIO()
    progress = LiveProgress(Console(file=written, force_terminal=True, width=100, markup=False, highlight=False))
    progress.phase("starting", "1 of 2 [ready]")
    progress.phase("starting", "2 of 2 [ready]")
    progress.output("compiled \x1b[31mred\x1b[0m\x1b[2J")
    progress.phase("keeping", "all traffic is on v5")
    progress.settle()
    assert "\x1b[2J" not in written.getvalue(), "only colours of the output are passed on"
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.getvalue())
    lines = [line for line in re.split(r"[\r\n]+", plain) if line.strip() and "⠋" not in line]
    assert lines == ["  │ compiled red\\x1b[2J", "  starting    2 of 2 [ready]", "  keeping     all traffic is on v5"]


def test_limits_of_a_process_are_shown_beside_its_command() -> None:
    """Those that it has."""
    limited = {"command": "./serve", "memory": 512 << 20, "cpu": 0.5, "pids": 64, "disk": 3 << 30}
    assert describe_process(limited) == "./serve  (memory 512 MiB, disk 3 GiB, cpu 0.5, pids 64)"
    assert describe_process({"command": "./serve", "memory": None}) == "./serve"

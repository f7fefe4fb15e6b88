"""Ports of tests: no two are given the same one, in one process or in several."""

from __future__ import annotations

import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import run

import pytest

from tests import ports


@pytest.fixture(autouse=True)
def counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A counter of these tests' own."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def test_processes_side_by_side_get_different_ports() -> None:
    """Also those that ask at the same moment."""
    program = "from tests.ports import free_port\nprint(*(free_port() for _ in range(50)))"
    words = [sys.executable, "-c", program]
    root = Path(__file__).parents[2]
    with ThreadPoolExecutor(3) as pool:
        said = pool.map(lambda _: run(words, cwd=root, capture_output=True, text=True, check=True).stdout, range(3))
        given = [port for line in said for port in line.split()]
    assert len(set(given)) == 150


def test_what_is_taken_is_passed_over_and_the_end_comes_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port with a listener is given to nobody; after the last comes the first."""
    first = ports.free_port()
    monkeypatch.setattr(ports, "FIRST", first + 1)
    monkeypatch.setattr(ports, "LAST", first + 3)
    with socket.create_server(("127.0.0.1", first + 2)):
        assert [ports.free_port() for _ in range(3)] == [first + 1, first + 3, first + 1]

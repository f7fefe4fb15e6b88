"""Logs of Seaway's own parts are moved aside when they are too large."""

from __future__ import annotations

from pathlib import Path

import pytest

from seaway.router import running
from seaway.supervisor import processes


def test_logs_of_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One older file is kept; who has the log open writes on."""
    monkeypatch.setattr(processes, "LOG_LIMIT", 10)
    path = tmp_path / "control.log"
    with path.open("a") as log:
        for text in ("first " * 9, "second " * 9, "third"):
            log.write(text)
            log.flush()
            processes.rotate(path)
    assert path.read_text() == "third"
    assert path.with_suffix(".log.1").read_text().startswith("second")
    assert len(list(tmp_path.iterdir())) == 2


def test_logs_of_routers(tmp_path: Path) -> None:
    """As many older files as are to be kept, the newest first."""
    path = tmp_path / "access.log"
    for number in range(5):
        path.write_text(f"{number}" * 9)
        assert not running.rotate(path, 9, 2)
        assert running.rotate(path, 8, 2)
    found = sorted((file.name, file.read_text()[0]) for file in tmp_path.iterdir())
    assert found == [("access.log.1", "4"), ("access.log.2", "3")]

"""Logs beside a failure: what was written during the test, from where it lay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.told import Logs

pytest_plugins = ["pytester"]

FAILING = """
def test_it(tmp_path):
    (tmp_path / "control.log").write_text("one\\ntwo\\n")
    assert False
"""


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    logs = Logs()
    logs.begin()
    (tmp_path / "old.log").write_text("before\n")
    os.utime(tmp_path / "old.log", (logs.began - 10, logs.began - 10))
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "new.log").write_text("first\nsecond\nthird\n")
    return logs


def test_the_end_of_what_is_new_is_shown(logs: Logs, tmp_path: Path) -> None:
    """The last lines of logs written since the test began; nothing once nobody shows the folder."""
    with logs.shown(tmp_path, lines=2):
        assert logs.read() == f"--- {tmp_path}/deep/new.log\nsecond\nthird\n"
    assert logs.read() == ""


def test_the_words_of_apps_are_shown_too(logs: Logs, tmp_path: Path) -> None:
    """What an app said last often tells more than what the platform knows of it."""
    (tmp_path / "logs" / "shop").mkdir(parents=True)
    (tmp_path / "logs" / "shop" / "00000001.jsonl").write_text('{"message": "stopped"}\n')
    with logs.shown(tmp_path):
        assert logs.read().endswith('00000001.jsonl\n{"message": "stopped"}\n')


def test_a_fixture_that_fails_leaves_its_logs(logs: Logs, tmp_path: Path) -> None:
    """Its folder is gone when the failure is reported; the next test shows nothing of it."""
    with pytest.raises(ZeroDivisionError), logs.shown(tmp_path):
        raise ZeroDivisionError
    assert "third" in logs.read()
    logs.begin()
    assert logs.read() == ""


def test_a_failure_shows_logs(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the report itself, by the plugin that all tests here share."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    pytester.makepyfile(FAILING)
    done = pytester.runpytest_subprocess("-p", "tests.conftest", "-p", "no:schemathesis")
    done.stdout.fnmatch_lines(["*- Logs -*", "--- *control.log", "one", "two"])

"""`make test` itself: what it hides, what it runs again, what it says in the end."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
LUCK = """
from pathlib import Path
def test_luck():
    mark = Path({mark!r})
    again, _ = mark.exists(), mark.touch()
    assert again
def test_well():
    pass
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("running_tests", ROOT / "scripts/test.py")
    assert spec
    assert spec.loader
    module = sys.modules["running_tests"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pytest_of(folder: Path, name: str, text: str) -> list[str]:
    (folder / name).write_text(text)
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:schemathesis", "--rootdir", str(folder), name]


def test_what_passes_alone_is_flaky_and_breaks_nothing(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named with where both outputs lie, and counts as passed."""
    command = pytest_of(tmp_path, "test_luck.py", LUCK.format(mark=str(tmp_path / "mark")))
    total = script.run_tiers([script.Tier("luck", ((command,),))], script.Runner(tmp_path / "out", tmp_path))
    script.tell(total, 1, whole=False)
    assert total.good
    assert "assert again" in (tmp_path / "out/01.txt").read_text()
    assert "1 passed" in (tmp_path / "out/02.txt").read_text()
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if line.startswith("flaky: ")] == [
        f"flaky: test_luck.py::test_luck (failed: {tmp_path}/out/01.txt, passed: {tmp_path}/out/02.txt)"
    ]
    assert said[-1] == "2 passed, 0 failed, 0 skipped"


def test_what_fails_again_is_broken_and_hides_nothing(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tiers after it run; the last lines name it."""
    bad = pytest_of(tmp_path, "test_bad.py", "def test_bad():\n    assert 0\n")
    good = pytest_of(tmp_path, "test_good.py", "def test_good():\n    pass\n")
    tiers = [script.Tier("bad", ((bad,),)), script.Tier("good", ((good,),))]
    total = script.run_tiers(tiers, script.Runner(tmp_path / "out", tmp_path))
    script.tell(total, 1, whole=False)
    said = capsys.readouterr().out
    assert not total.good
    assert "== good: ok" in said
    assert said.splitlines()[-3:] == [
        f"failed: test_bad.py::test_bad ({tmp_path}/out/01.txt)",
        "took 1 s",
        "1 passed, 1 failed, 0 skipped",
    ]


@pytest.mark.parametrize("text", ["import nosuch\n", "import os\ndef test_it():\n    os._exit(3)\n"])
def test_a_run_that_breaks_otherwise_is_no_flake(script: ModuleType, tmp_path: Path, text: str) -> None:
    """What can't be collected, and a pytest that ends half-way."""
    command = pytest_of(tmp_path, "test_broken.py", text)
    total = script.run_tiers([script.Tier("broken", ((command,),))], script.Runner(tmp_path / "out", tmp_path))
    assert not total.good
    assert not total.flaky


def test_nothing_runs_without_what_is_needed(script: ModuleType, tmp_path: Path) -> None:
    """Lint and types: whoever breaks them mends them first."""
    tiers = [script.Tier("lint", ((["false"],),), needed=True), script.Tier("next", ((["touch", "next"],),))]
    assert not script.run_tiers(tiers, script.Runner(tmp_path / "out", tmp_path)).good
    assert not (tmp_path / "next").exists()


def test_every_file_of_tests_is_in_a_tier(script: ModuleType) -> None:
    """One that none names would pass for ever."""
    tiers = (*script.TIERS, *script.SOAK)
    named = {word for tier in tiers for lane in tier.lanes for command in lane for word in command}
    files = [path.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py")]
    assert [str(path) for path in files if not named & {str(path), *map(str, path.parents)}] == []

"""Commands that tests have forked are as those that a user starts: output, exit code, input, environment, time."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.command_line import COMMANDS
from tests.e2e.harness import SEAWAY, wait_until


@pytest.mark.parametrize(
    "args", [["--version"], ["--help"], ["apps"], ["apps", "-o", "json"], ["nosuch"], ["ps", "scale", "-a", "x"], []]
)
def test_they_say_what_the_installed_program_says(args: list[str], tmp_path: Path) -> None:
    """Every byte of both outputs, and the exit code."""
    env = os.environ | {"SEAWAY_HOME": str(tmp_path)}
    forked = COMMANDS.run(args, env=env, cwd=tmp_path)
    started = subprocess.run(
        [SEAWAY, *args], env=env, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    seen = [(done.returncode, done.stdout, done.stderr) for done in (forked, started)]
    assert seen[0] == seen[1]


def test_one_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    """Its process is gone soon after the one who waited for it has given up."""
    (tmp_path / "settings.json").write_text("{}")
    os.mkfifo(tmp_path / "cluster.json")  # it is read first of all, and nobody ever writes it
    with pytest.raises(subprocess.TimeoutExpired):
        COMMANDS.run(["apps"], env=os.environ | {"SEAWAY_HOME": str(tmp_path)}, cwd=tmp_path, timeout=0.5)

    def runs_there(folder: Path) -> bool:
        try:
            return (folder / "cwd").readlink() == tmp_path
        except OSError:  # it has ended, or is somebody else's
            return False

    wait_until(lambda: not any(runs_there(folder) for folder in Path("/proc").glob("[0-9]*")), "it is gone")

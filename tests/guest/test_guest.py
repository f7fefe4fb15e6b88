"""What needs control groups of version 2 with their controllers, on Debian 12's own kernel: scripts/guest.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packages import GUEST, can_install, list_missing, list_packages

ROOT = Path(__file__).resolve().parents[2]
CONTRACTS = ("sandbox", "local_process", "limits")
PROOFS = [*(f"tests/contract/test_{name}.py" for name in CONTRACTS), "tests/guest/delegated.py"]
LACKING = [] if can_install() else list_missing(list_packages([GUEST]))
LONGEST = 900  # seconds for one file, emulated; it takes 100 on two idle cores, 200 beside other work

pytestmark = [
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {' '.join(LACKING)}"),
    pytest.mark.timeout(LONGEST + 300),  # the first one fetches the kernel
]


def run(limit: int, *command: str, temporary: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "scripts/guest.py", "--limit", str(limit), "--", *command]
    return subprocess.run(words, cwd=ROOT, env=os.environ | {"TMPDIR": str(temporary)}, capture_output=True, text=True)


def test_what_a_command_sees_and_what_comes_back(tmp_path: Path) -> None:
    """Its folder, and version 2 alone with controllers; output and exit code come back, and nothing that it writes."""
    left = ROOT / ".left-by-guest"
    sees = "pwd; grep -o ' cgroup[^ ]* ' /proc/mounts; cat /sys/fs/cgroup/cgroup.subtree_control"
    done = run(LONGEST, "sh", "-c", f"{sees}; touch {left.name} && exit 7", temporary=tmp_path)
    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout.split() == [str(ROOT), "cgroup2", "cpu", "memory", "pids"]
    assert not left.exists()


def test_what_takes_too_long_is_ended(tmp_path: Path) -> None:
    """With the exit code of timeout(1); nothing of it stays."""
    done = run(1, "true", temporary=tmp_path)
    assert done.returncode == 124, done.stderr
    assert "did not end within 1 s" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", PROOFS)
def test_it_holds_on_version_2(tmp_path: Path, path: str) -> None:
    """As root; nothing is skipped."""
    pytest_there = [sys.executable, "-m", "pytest", "-q", "-ra", "-p", "no:schemathesis", "-p", "no:cacheprovider"]
    done = run(LONGEST, *pytest_there, path, temporary=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout, done.stdout

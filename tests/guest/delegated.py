"""An ordinary user whose service of systemd has `Delegate=yes`: a group of its own, with what is above it closed.

Only where control groups are of version 2 alone: test_guest.py runs this in the guest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

USER = 1000
GROUP = Path("/sys/fs/cgroup/user-1000.slice/user@1000.service/app.slice/seaway.service")
PROGRAM = """
import json, subprocess, sys
from pathlib import Path
from seaway.home import Home
from seaway.model import Limits
from seaway.sandbox.cgroups import ENTER, Cgroups
from seaway.sandbox.standing import come_first, step_back

home = Home(Path(sys.argv[1])).create()
before = Cgroups.open(home.root).list_lacking()
come_first(home)
cgroups = Cgroups.open(home.root)
greedy = "x = bytearray(b'1') * (100 << 20)"
words = ["/bin/sh", "-c", f'{ENTER}; exec "$@"', cgroups.make("x", Limits(memory=48 << 20))]
code = subprocess.run([*words, sys.executable, "-c", greedy]).returncode
own = Path("/proc/self/cgroup").read_text().strip()
memory = cgroups.read_memory("x")
found = [cgroups.list_lacking(), code, memory.killed, memory.is_own, cgroups.read_ceiling()]
cgroups.close()
step_back(home)
print(json.dumps([before, own, found]))
"""


@pytest.fixture
def service() -> Iterator[Path]:
    """The group that systemd would have made, and given away."""
    GROUP.mkdir(parents=True)
    for folder in reversed([GROUP, *list(GROUP.parents)[:3]]):
        (folder.parent / "cgroup.subtree_control").write_text("+memory +cpu +pids")
    for name in ("", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
        os.chown(GROUP / name, USER, USER)
    (GROUP / "memory.max").write_text(str(512 << 20))
    yield GROUP
    for left, _, _ in os.walk(GROUP, topdown=False):
        Path(left).rmdir()


def test_what_was_given_away_is_divided(service: Path, tmp_path: Path) -> None:
    """Seaway's own parts move below, or nothing could be limited; a limit of the service counts as the machine's."""
    for folder in (Path.home(), tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)  # of the guest's copy: the interpreter may be below
    (home := tmp_path / "home").mkdir()
    os.chown(home, USER, USER)
    words = ["/bin/sh", "-c", 'echo 0 >"$0"; exec "$@"', str(service / "cgroup.procs")]
    words += ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--inh-caps=-all"]
    done = subprocess.run([*words, sys.executable, "-c", PROGRAM, str(home)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, own, found = json.loads(done.stdout)
    assert before == ["memory", "processor time", "number of processes"], "as long as it is in there itself"
    assert own.startswith(f"0::/{service.relative_to('/sys/fs/cgroup')}/seaway/")
    assert own.endswith(".parts")
    assert found == [[], -9, 1, True, 512 << 20]

"""One process group of the local engine, without an agent around it: held by a control group, or by a subreaper."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from seaway.engine.local import kin as kin_module
from seaway.engine.local import process
from seaway.engine.local.kin import Kin
from seaway.engine.local.process import STREAMS, Group, LeaderIndex, exit_file, launch
from seaway.engine.local.state import Launched
from seaway.logs.intake import open_pipe
from seaway.sandbox.cgroups import Cgroups
from seaway.sandbox.procs import Stat, send

SLOW_START = ": >trapped; i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done\n"
"""Keeps the leader busy without a child, after its traps are set and before it starts the command."""

NAP = f"9473.{os.getpid()}"  # seconds for which everything sleeps that a test here starts

LEAVING = {
    "a session of its own": "(setsid sleep {0} &)",
    "no environment": "(env -i setsid sleep {0} &)",
    "another's environment": "(env SEAWAY_INSTANCE=other setsid sleep {0} &)",
    "a daemon's children": "(env -i setsid sh -c 'trap : TERM; sleep {0} & sleep {0} & wait; wait' &)",
}
"""What processes do to be nobody's; each runs a `sleep` of that many seconds."""

RUNAWAY = """\
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open("away", "w").close()
while True:
    if os.fork():
        os._exit(0)
    os.setsid()
"""
"""Is always another process than the one that somebody has just seen."""


@pytest.fixture(params=["cgroups", "subreaper"])
def kin(request: pytest.FixtureRequest, tmp_path: Path) -> Kin:
    if request.param == "subreaper":
        return Kin(tmp_path)
    found = Cgroups.open(tmp_path)
    if found is None and os.geteuid() != 0:
        pytest.skip("this user may make no control groups")
    assert found is not None, "root may not make control groups here: is /sys/fs/cgroup mounted read-only?"
    return Kin(tmp_path, found)


@pytest.fixture(autouse=True)
async def nothing_is_left(kin: Kin, tmp_path: Path) -> AsyncIterator[None]:
    yield
    for sleeper in find_sleepers():
        with suppress(psutil.NoSuchProcess):  # it has just ended
            sleeper.kill()
    kin.close()
    assert kin.cgroups is None or not kin.cgroups.base.exists()


def find_sleepers() -> list[psutil.Process]:
    """Return what runs of LEAVING and RUNAWAY."""
    found = []
    for running in psutil.process_iter():
        try:
            if running.status() != psutil.STATUS_ZOMBIE and NAP in running.cmdline():
                found.append(running)
        except psutil.Error:
            continue
    return found


async def eventually(look: object) -> None:
    assert callable(look)
    async with asyncio.timeout(20):
        while not look():
            await asyncio.sleep(0.005)


def start(kin: Kin, folder: Path, command: str) -> Group:
    for stream in STREAMS:
        os.close(open_pipe(folder, stream))
    env = os.environ | {"SEAWAY_INSTANCE": folder.name, "TMPDIR": str(folder)}
    return Group(folder, launch(folder, 1, command, folder, env, admission=kin.admit(folder.name)), kin)


async def test_a_stop_right_after_the_start_reaches_the_command(
    kin: Kin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM waits for the command: the leader would swallow it, and the command live on to the end of its grace."""
    traps, rest = process.WRAPPER.split("\n", 1)
    monkeypatch.setattr(process, "WRAPPER", rest.replace("exec 3>", f"{traps}\n{SLOW_START}exec 3>"))
    group = start(kin, tmp_path, "sleep 60")
    await eventually((tmp_path / "trapped").exists)
    began = time.monotonic()
    assert await group.stop(30.0, tmp_path.name)
    assert time.monotonic() - began < 20
    assert group.exit_code() == -15
    assert not kin.find(tmp_path.name, group.launched)


async def test_without_a_grace_it_is_killed(kin: Kin, tmp_path: Path) -> None:
    """No SIGTERM first: the exit code would depend on which of the two was faster."""
    for _ in range(10):
        group = start(kin, tmp_path, "sleep 60")
        assert not await group.stop(0.0, tmp_path.name)
        assert group.exit_code() == -9
        (tmp_path / "exit.1").unlink(missing_ok=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="without root all apps are one user")
@pytest.mark.parametrize(("user", "is_leader"), [(1999999999, False), (0, True)])
async def test_an_app_that_calls_itself_a_leader_is_none(tmp_path: Path, user: int, is_leader: bool) -> None:
    """Where apps are users of their own: an agent would adopt it, and signal whom it says."""
    words = ["/bin/sh", "-c", "read end", "seaway-instance", "x", "/", str(exit_file(tmp_path, 1)), os.devnull, "1"]
    impostor = await asyncio.create_subprocess_exec(*words, stdin=asyncio.subprocess.PIPE, user=user)
    group = LeaderIndex(Kin(tmp_path)).adopt(tmp_path, Launched(run=1))
    if group is not None:
        group.detach()
    await impostor.communicate(b"")
    assert (group is not None) == is_leader


@pytest.mark.parametrize("way", LEAVING)
async def test_what_left_is_told_to_end_and_does(kin: Kin, tmp_path: Path, way: str) -> None:
    """However it left: SIGTERM reaches it, the grace is its, too, and nothing of it stays."""
    group = start(kin, tmp_path, f"{LEAVING[way].format(NAP)}; exec sleep {NAP}")
    await eventually(lambda: len(find_sleepers()) >= 2)
    began = time.monotonic()
    assert await group.stop(30.0, tmp_path.name)
    assert time.monotonic() - began < 20
    assert find_sleepers() == []
    assert group.exit_code() == -15


@pytest.mark.parametrize("way", LEAVING)
async def test_the_end_of_the_command_is_seen_though_something_stays(kin: Kin, tmp_path: Path, way: str) -> None:
    """At once, with its exit code; then what stays is cleared away."""
    group = start(kin, tmp_path, f"{LEAVING[way].format(NAP)}; until [ -e go ]; do sleep 0.05; done; exit 7")
    await eventually(find_sleepers)
    (tmp_path / "go").touch()
    async with asyncio.timeout(10):
        await group.wait()
    assert group.exit_code() == 7
    assert find_sleepers() != []
    await group.stop(0.0, tmp_path.name)
    assert find_sleepers() == []


async def test_what_is_slow_to_die_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if nothing tells any more whose it was: its environment is empty, its session its own, its parent dead."""

    def send_late(number: int, stats: list[Stat]) -> None:
        late = {process.pid for process in find_sleepers()}
        send(number, [stat for stat in stats if stat.pid not in late])
        asyncio.get_running_loop().call_later(0.2, send, number, [stat for stat in stats if stat.pid in late])

    monkeypatch.setattr(kin_module, "send", send_late)
    group = start(kin := Kin(tmp_path), tmp_path, f"env -i setsid sleep {NAP} & exec cat /dev/zero >/dev/null")
    await eventually(find_sleepers)
    await group.stop(0.0, tmp_path.name)
    assert find_sleepers() == []
    kin.close()


async def test_the_end_of_the_command_is_seen_by_another_agent(kin: Kin, tmp_path: Path) -> None:
    """Which finds it over already, or sees it end; what stayed is cleared away all the same."""
    for first in (True, False):
        group = start(kin, tmp_path, f"(env -i setsid sleep {NAP} &); until [ -e go ]; do sleep 0.05; done; exit 7")
        await eventually(find_sleepers)
        group.detach()
        if first:
            (tmp_path / "go").touch()
            await eventually((tmp_path / "exit.1").exists)
        adopted = LeaderIndex(kin).adopt(tmp_path, group.launched)
        if kin.cgroups is None or not first:
            assert adopted is not None
            (tmp_path / "go").touch()
            async with asyncio.timeout(10):
                await adopted.wait()
            assert adopted.exit_code() == 7
            await adopted.stop(0.0, tmp_path.name)
        else:  # the leader went with its command: whoever comes later clears away by the name alone
            assert adopted is None
            await kin.sweep(tmp_path.name)
        assert find_sleepers() == []
        (tmp_path / "go").unlink()
        (tmp_path / "exit.1").unlink()


async def test_a_killed_leader_is_seen(kin: Kin, tmp_path: Path) -> None:
    """Its signal is the exit code; with a control group what it leaves is found all the same."""
    group = start(kin, tmp_path, f"sleep {NAP}")
    await eventually(find_sleepers)
    os.kill(group.pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        await group.wait()
    assert group.exit_code() == -9
    await group.stop(0.0, tmp_path.name)
    assert find_sleepers() == []


@pytest.mark.parametrize("kin", ["cgroups"], indirect=True)  # a subreaper's agent can only look
async def test_what_forks_without_end_is_killed(tmp_path: Path, kin: Kin) -> None:
    """Faster than anybody can look: the control group is killed as a whole."""
    (tmp_path / "runaway.py").write_text(RUNAWAY)
    group = start(kin, tmp_path, f"(env -i python3 runaway.py {NAP} &); exec sleep {NAP}")
    await eventually((tmp_path / "away").exists)
    assert not await group.stop(1.0, tmp_path.name)
    assert find_sleepers() == []
    assert not kin.find(tmp_path.name, group.launched)


async def test_another_home_may_use_the_same_ids(kin: Kin, tmp_path: Path) -> None:
    """What is there of it is nobody's here, while it runs and when all of ours has gone."""
    ours, theirs = tmp_path / "ours" / "one", tmp_path / "theirs" / "one"
    for folder in (ours, theirs):
        folder.mkdir(parents=True)
    other = Kin(theirs.parent, Cgroups.open(theirs.parent) if kin.cgroups is not None else None)
    kin = Kin(ours.parent, Cgroups.open(ours.parent) if kin.cgroups is not None else None)
    group, stays = start(kin, ours, f"sleep {NAP}"), start(other, theirs, f"sleep {NAP}")
    await eventually(lambda: len(find_sleepers()) == 2)
    await group.stop(0.0, "one")
    await kin.sweep("one")
    assert len(find_sleepers()) == 1
    assert not stays.ended
    await stays.stop(0.0, "one")
    for each in (kin, other):
        each.close()

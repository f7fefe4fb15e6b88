"""The supervisor with real processes and no platform: adoption, restart delays, stop order, the guard."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from seaway.home import Home, Settings
from seaway.sandbox import hanging
from seaway.supervisor import guard, processes, pulse, supervise
from seaway.supervisor.guard import is_stopping, mark_stopping, start_guard
from seaway.supervisor.locks import Held, acquire, find_holder, lock_path
from seaway.supervisor.running import PlatformError, check_startable, list_states
from tests.ports import free_port

PARTS = ("node", "control", "router-0")
PART = """\
import os, signal, sys, time
from seaway.home import Home
from seaway.supervisor.locks import acquire
name, home = {"supervise": "supervisor"}.get(sys.argv[1], sys.argv[1]), Home.find()
def note(word, file="story"):
    os.write(os.open(home.root / file, os.O_WRONLY | os.O_APPEND | os.O_CREAT), word.encode())
def leave(*_):
    note(f"stopped {name}\\n")
    os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if (home.root / f"{name}.deaf").exists() else leave)
beats = (home.root / f"{name}.beats").exists()
lock = acquire(home, name, beats=beats)
if name != "node" and (home.run / "stopping").exists():  # started by somebody who saw the mark too late
    os._exit(0)
note(f"{time.monotonic()}\\n", f"{name}.times")
note(f"started {name}\\n")
if (home.root / f"{name}.broken").exists():
    os._exit(3)
while not beats:
    signal.pause()
while True:
    if not (home.root / f"{name}.silent").exists():
        os.utime(lock, ns=(time.monotonic_ns(),) * 2)
    time.sleep(0.01)
"""
"""A process that does what the supervisor sees of a part: it holds the lock, and ends on SIGTERM."""


def command_of(part: str) -> list[str]:
    return [sys.executable, "-c", PART, part]


async def wait_for(condition: Callable[[], object], what: str, timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout} s"
        await asyncio.sleep(0.02)


async def nothing_left() -> list[str]:
    """Nothing that the parts had started is left."""
    return []


def start_node() -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command_of("node"), start_new_session=True)
    process.returncode = 0  # the supervisor reaps it, not this object
    return process


def story(home: Home) -> list[str]:
    path = home.root / "story"
    return path.read_text().splitlines() if path.exists() else []


def pid_of(home: Home, part: str) -> int:
    holder = find_holder(home, part)
    return holder.pid if holder else 0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    home = Home(tmp_path / "home").create()
    monkeypatch.setenv("SEAWAY_HOME", str(home.root))
    monkeypatch.setattr(processes, "command_of", command_of)
    yield home
    mark_stopping(home)  # guards end: none may start the real supervisor once the patch is undone
    for thread in threading.enumerate():
        if thread.name == "guard":
            if pid := pid_of(home, "supervisor"):
                os.kill(pid, signal.SIGKILL)
            thread.join(20)
    for part in (*PARTS, "supervisor"):
        if (pid := pid_of(home, part)) and pid != os.getpid():
            os.kill(pid, signal.SIGKILL)


@contextlib.asynccontextmanager
async def supervising(home: Home) -> AsyncIterator[asyncio.Task[None]]:
    """Run a supervisor in this process; stop it by SIGTERM at the end."""

    async def stop_apps() -> None:
        with (home.root / "story").open("a") as file:
            file.write("stopped apps\n")

    task = asyncio.create_task(
        supervise.Supervisor(home, Settings(routers=1), supervise.Endings(stop_apps, nothing_left)).run()
    )
    try:
        await wait_for(lambda: task.done() or all(pid_of(home, part) for part in PARTS), "every part runs")
        yield task
    finally:
        if not task.done():
            os.kill(os.getpid(), signal.SIGTERM)
        await task


async def test_parts_start_and_stop_in_order(home: Home) -> None:
    """Routers finish first; the control plane ends before the apps do, as it would decide upon that; nothing stays."""
    async with supervising(home):
        pass
    told = [line for line in story(home) if line.startswith("stopped")]
    assert told == ["stopped router-0", "stopped control", "stopped apps", "stopped node"]
    assert not any(pid_of(home, part) for part in (*PARTS, "supervisor"))
    assert is_stopping(home)


async def test_a_part_that_runs_is_adopted(home: Home) -> None:
    """A supervisor that finds parts running starts no second one, and brings an adopted one back when it dies."""
    running = start_node()
    await wait_for(lambda: pid_of(home, "node") == running.pid, "it runs")
    async with supervising(home):
        assert pid_of(home, "node") == running.pid
        assert story(home).count("started node") == 1
        os.kill(running.pid, signal.SIGKILL)
        await wait_for(lambda: story(home).count("started node") == 2, "it comes back")


async def test_a_part_that_keeps_dying_is_started_ever_more_slowly(home: Home) -> None:
    """Delays double from 0.1 s; the others run on meanwhile."""
    async with supervising(home):
        others = {part: pid_of(home, part) for part in ("node", "router-0")}
        (home.root / "control.broken").touch()
        os.kill(pid_of(home, "control"), signal.SIGKILL)
        await wait_for(lambda: story(home).count("started control") >= 6, "five more starts")
        begins = [float(line) for line in (home.root / "control.times").read_text().splitlines()]  # by its own clock
        assert begins[5] - begins[1] >= 0.2 + 0.4 + 0.8 + 1.6
        assert {part: pid_of(home, part) for part in others} == others
        (home.root / "control.broken").unlink()
        await wait_for(lambda: pid_of(home, "control"), "it runs once it can")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at parts more often than once in a second."""
    for module in (supervise, guard, pulse):
        monkeypatch.setattr(module, "INTERVAL", 0.05)


@pytest.fixture
def looks(quick: None, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the supervisor has looked at each part."""
    counts = Counter[str]()

    def count(home: Home, part: str, pid: int, seen: hanging.Pulse) -> str:
        fault = pulse.look(home, part, pid, seen)
        counts[part] += 1
        return fault

    monkeypatch.setattr(supervise, "look", count)
    return counts


async def wait_for_looks(looks: Counter[str]) -> None:
    """Return when every part was looked at twice as often as it takes to find that one is silent."""
    looks.clear()
    await wait_for(lambda: all(looks[part] >= 2 * hanging.SILENT for part in PARTS), "they are looked at")


@pytest.mark.parametrize("how", ["stopped", "silent"])
async def test_a_part_that_hangs_is_replaced(home: Home, quick: None, how: str) -> None:
    """Its lock is held, so it is not dead; the others run on."""
    (home.root / "control.beats").touch()
    async with supervising(home):
        others = {part: pid_of(home, part) for part in ("node", "router-0")}
        hung = pid_of(home, "control")
        if how == "stopped":
            os.kill(hung, signal.SIGSTOP)
            await wait_for(lambda: states(home)["control"] == "it is stopped, by SIGSTOP or a terminal", "it is seen")
        else:
            (home.root / "control.silent").touch()
        await wait_for(lambda: pid_of(home, "control") not in (0, hung), "another one runs")
        (home.root / "control.silent").unlink(missing_ok=True)
        assert {part: pid_of(home, part) for part in others} == others
        await wait_for(lambda: states(home)["control"] == "", "it is well")


def states(home: Home) -> dict[str, str]:
    return {state.name: state.fault for state in list_states(home)}


async def test_one_that_goes_on_or_never_says_so_is_left_alone(home: Home, looks: Counter[str]) -> None:
    """As an older Seaway's parts, which run when a newer supervisor finds them."""
    (home.root / "control.beats").touch()
    async with supervising(home):
        before = {part: pid_of(home, part) for part in PARTS}
        await wait_for_looks(looks)
        assert {part: pid_of(home, part) for part in PARTS} == before


async def test_a_disk_that_takes_nothing_makes_nobody_hang(
    home: Home, looks: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken one, or read-only: nobody can say there that it goes on, so nobody is killed for its silence."""
    for part in PARTS:
        (home.root / f"{part}.beats").touch()
    async with supervising(home):
        before = {part: pid_of(home, part) for part in PARTS}
        with monkeypatch.context() as broken:
            broken.setattr(os, "utime", refuse)
            for part in PARTS:
                (home.root / f"{part}.silent").touch()
            await wait_for_looks(looks)
            assert {part: pid_of(home, part) for part in PARTS} == before
            os.kill(before["node"], signal.SIGSTOP)
            await wait_for(lambda: pid_of(home, "node") not in (0, before["node"]), "one that is stopped is seen still")
        await wait_for(lambda: pid_of(home, "control") not in (0, before["control"]), "silence counts again")
        for part in PARTS:
            (home.root / f"{part}.silent").unlink()


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


WANTS = (errno.ENOSPC, errno.EMFILE, errno.ENOMEM, errno.EIO)


def failing(code: int, counts: Counter[str], work: Callable[..., Any], times: int = 5) -> Callable[..., Any]:
    """Return `work`, which fails by `code` the first times."""

    def attempt(*args: Any, **options: Any) -> Any:
        counts["tries"] += 1
        if counts["tries"] <= times:
            raise OSError(code, os.strerror(code))
        return work(*args, **options)

    return attempt


@pytest.mark.parametrize("code", WANTS, ids=errno.errorcode.get)
@pytest.mark.parametrize("what", ["find_holder", "spawn", "open_pidfd", "look"])
async def test_parts_are_kept_running_where_the_machine_lacks_something(
    home: Home, quick: None, monkeypatch: pytest.MonkeyPatch, what: str, code: int
) -> None:
    """For a moment; each is there in the end, once, and comes back when it is killed."""
    counts = Counter[str]()
    monkeypatch.setattr(supervise, "LAST_DELAY", 0.1)
    monkeypatch.setattr(supervise, what, failing(code, counts, getattr(supervise, what)))
    async with supervising(home):
        await wait_for(lambda: counts["tries"] > 5, "all have failed")
        await wait_for(lambda: count_starts(home) == dict.fromkeys(PARTS, 1), "each is there")
        os.kill(pid_of(home, "control"), signal.SIGKILL)
        await wait_for(lambda: count_starts(home)["control"] > 1, "it comes back")
        assert count_starts(home) == {**dict.fromkeys(PARTS, 1), "control": 2}


def count_starts(home: Home) -> dict[str, int]:
    return {part: story(home).count(f"started {part}") for part in PARTS}


@pytest.mark.parametrize("code", WANTS, ids=errno.errorcode.get)
@pytest.mark.parametrize("what", ["find_holder", "spawn_orphan", "is_stopping"])
async def test_a_guard_goes_on_where_the_machine_lacks_something(
    home: Home, quick: None, monkeypatch: pytest.MonkeyPatch, what: str, code: int
) -> None:
    """For a moment; it brings the supervisor back all the same."""
    counts = Counter[str]()
    monkeypatch.setattr(guard, what, failing(code, counts, getattr(guard, what)))
    thread = start_guard(home)
    await wait_for(lambda: counts["tries"] > 5 and pid_of(home, "supervisor"), "it runs")
    assert thread.is_alive()


async def test_the_supervisor_says_that_it_goes_on(home: Home, quick: None) -> None:
    """So that guards can tell."""
    async with supervising(home):
        path = lock_path(home, "supervisor")
        first = path.stat().st_mtime_ns
        await wait_for(lambda: path.stat().st_mtime_ns > first, "the next beat")
        holder = find_holder(home, "supervisor")
        assert holder is not None
        assert holder.beats


@pytest.mark.parametrize("how", ["stopped", "silent"])
async def test_a_supervisor_that_hangs_is_replaced(home: Home, quick: None, how: str) -> None:
    """By any part's guard."""
    (home.root / "supervisor.beats").touch()
    thread = start_guard(home)
    await wait_for(lambda: story(home), "the guard starts one")
    first = pid_of(home, "supervisor")
    if how == "stopped":
        os.kill(first, signal.SIGSTOP)
    else:
        (home.root / "supervisor.silent").touch()
    await wait_for(lambda: pid_of(home, "supervisor") not in (0, first), "another one")
    assert thread.is_alive()


async def test_ctrl_z_does_not_stop_the_supervisor(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Its parts would take it for one that hangs."""
    async with supervising(home):
        os.kill(os.getpid(), signal.SIGTSTP)
        told = ""

        def is_told() -> bool:
            nonlocal told
            told += capsys.readouterr().out
            return "`seaway up -d` runs it in the background" in told

        await wait_for(is_told, "it says what to do")


async def test_a_stopped_part_ends_when_told(home: Home) -> None:
    """In its own way, as if it had not been stopped."""
    async with supervising(home):
        os.kill(pid_of(home, "router-0"), signal.SIGSTOP)
    assert story(home).count("stopped router-0") == 1


async def test_a_part_that_just_begins_is_ended_too(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no lock yet by which it could be found."""
    monkeypatch.setattr(
        processes, "command_of", lambda part: ["sleep", "60"] if part == "control" else command_of(part)
    )
    supervisor = supervise.Supervisor(
        home, Settings(routers=1), supervise.Endings(lambda: asyncio.sleep(0), nothing_left)
    )
    task = asyncio.create_task(supervisor.run())
    await wait_for(lambda: pid_of(home, "node") and pid_of(home, "router-0"), "the others run")
    (starting,) = supervisor._children - {pid_of(home, part) for part in ("node", "router-0")}
    os.kill(os.getpid(), signal.SIGTERM)
    await task
    with pytest.raises(ProcessLookupError):
        os.kill(starting, 0)


async def test_a_part_deaf_to_sigterm_is_killed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopping ends."""
    monkeypatch.setattr(supervise, "PART_STOP_LIMIT", 0.3)
    (home.root / "node.deaf").touch()
    async with supervising(home):
        deaf = pid_of(home, "node")
    assert "stopped node" not in story(home)
    with pytest.raises(ProcessLookupError):
        os.kill(deaf, 0)


async def test_apps_are_stopped_by_an_agent_even_if_it_was_away(home: Home) -> None:
    """`stop_parts` starts the agent first when it is gone, and stops it after the apps."""
    seen = []

    async def stop_apps() -> None:
        await wait_for(lambda: pid_of(home, "node"), "the agent is there for the apps")
        seen.append(pid_of(home, "node"))

    await supervise.stop_parts(home, supervise.Endings(stop_apps, nothing_left))
    assert seen[0]
    assert not pid_of(home, "node")
    await asyncio.to_thread(os.waitpid, seen[0], 0)


async def test_parts_are_stopped_when_stopping_the_apps_fails(home: Home) -> None:
    """An error on the way leaves no part behind; then what is left of the apps is ended without the agent."""
    node = start_node()
    await wait_for(lambda: pid_of(home, "node"), "it runs")

    async def fail() -> None:
        raise RuntimeError("the agent does not answer")

    async def sweep() -> list[str]:
        assert not pid_of(home, "node")
        with (home.root / "story").open("a") as file:
            file.write("swept\n")
        return ["shop-v1-web-abc234"]

    await supervise.stop_parts(home, supervise.Endings(fail, sweep))
    assert "swept" in story(home)
    await asyncio.to_thread(os.waitpid, node.pid, 0)
    assert "stopped node" in story(home)


async def test_a_second_supervisor_is_told_who_holds_the_home(home: Home) -> None:
    """By the lock, by pid; what runs is not touched."""
    async with supervising(home):
        before = [pid_of(home, part) for part in PARTS]
        with pytest.raises(Held) as held:
            acquire(home, "supervisor")
        assert held.value.pid == os.getpid()
        with pytest.raises(PlatformError, match=rf"pid {os.getpid()}.*seaway down.*SEAWAY_HOME"):
            check_startable(home, Settings(http_port=free_port(), api_port=free_port()))
        assert [pid_of(home, part) for part in PARTS] == before


async def test_the_guard_brings_the_supervisor_back_until_it_is_stopped_on_purpose(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed: another one. Marked as stopping: none, and the guard ends."""
    monkeypatch.setattr(guard, "START_LIMIT", 1.0)  # the first may die before the guard has seen it
    thread = start_guard(home)
    await wait_for(lambda: pid_of(home, "supervisor"), "the guard starts one")
    first = pid_of(home, "supervisor")
    await wait_for(lambda: story(home), "it has said so")
    told = len(story(home))
    os.kill(first, signal.SIGKILL)
    await wait_for(lambda: pid_of(home, "supervisor") not in (0, first), "another one")
    await wait_for(lambda: len(story(home)) > told, "it has said so")
    started = story(home).count("started supervisor")
    mark_stopping(home)
    os.kill(pid_of(home, "supervisor"), signal.SIGKILL)
    await asyncio.to_thread(thread.join, 5)
    assert not thread.is_alive()
    await wait_for(lambda: not pid_of(home, "supervisor"), "the lock of the dead one is free")
    assert story(home).count("started supervisor") == started


async def test_who_looks_for_the_holder_keeps_nobody_from_being_it(home: Home) -> None:
    """Guards look all the time; a supervisor that starts meanwhile is not told that another one runs."""
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            find_holder(home, "supervisor")

    threads = [threading.Thread(target=look) for _ in range(3)]
    os.close(acquire(home, "supervisor"))
    for thread in threads:
        thread.start()
    try:
        for _ in range(200):
            os.close(acquire(home, "supervisor"))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


async def test_many_guards_bring_back_one_supervisor(home: Home) -> None:
    """Each part has a guard; whoever comes second finds the lock taken and leaves."""
    threads = [start_guard(home) for _ in range(5)]
    await wait_for(lambda: pid_of(home, "supervisor"), "one runs")
    await wait_for(lambda: len(story(home)) >= 1, "it says so")
    assert guard.is_stopping(home) is False
    mark_stopping(home)
    os.kill(pid_of(home, "supervisor"), signal.SIGKILL)
    for thread in threads:
        await asyncio.to_thread(thread.join, 15)
    assert story(home).count("started supervisor") == 1

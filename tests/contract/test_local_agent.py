"""The node agent as a process: killed at any moment, it finds everything again and loses or doubles no line."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from seaway.engine.base import EngineUnavailable
from seaway.engine.local import agent
from seaway.engine.local.state import TaskRecord
from seaway.model import InstanceState
from tests.contract.engine_kit import ProcessKit, eventually, find_app, make_task, running

S = InstanceState


@pytest.fixture(params=["as the agent can", "as an ordinary user"])
async def kit(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ProcessKit]:
    async with running(ProcessKit(tmp_path, as_ordinary_user=request.param != "as the agent can")) as made:
        yield made


async def read_numbers(kit: ProcessKit) -> list[int]:
    """Return the numbers of the counting app's lines, sorted (two streams)."""
    messages = [line["message"] for line in await kit.read_logs()]
    return sorted(int(m.removeprefix("line ")) for m in messages if m.startswith("line "))


async def test_killed_agent_adopts_and_loses_no_line(kit: ProcessKit) -> None:
    """Agents killed again and again: the same process goes on, ready throughout, every line is there once."""
    workload = kit.workload("count")
    await kit.engine.apply(workload)
    before = await kit.await_serving()
    pid = find_app(before.id).pid
    for pause in (0.05, 0.3, 0.11):
        kit.kill_agent()
        with pytest.raises(EngineUnavailable):
            await kit.engine.observe()
        await kit.start()
        (now,) = await kit.list_living()
        assert now.serving, now
        assert (now.id, now.port, now.restarts) == (before.id, before.port, 0)
        await asyncio.sleep(pause)  # agents die at different points of their work
    assert find_app(before.id).pid == pid
    await kit.engine.remove(workload.key)
    await kit.await_instance(lambda i: i.state is S.STOPPED)
    numbers = await read_numbers(kit)
    assert len(numbers) > 500
    assert numbers == list(range(len(numbers)))


async def test_sigterm_leaves_instances_running(kit: ProcessKit) -> None:
    """SIGTERM ends the agent alone; a watch goes on by itself with the next agent."""
    await kit.engine.apply(kit.workload("serve"))
    before = await kit.await_serving()
    seen: list[str] = []

    async def follow() -> None:
        async for name in kit.engine.watch():
            seen.append(name)  # noqa: PERF401 - it never ends

    async def look(begin: int, name: str, count: int) -> bool:
        return seen[begin:].count(name) >= count

    task = asyncio.create_task(follow())
    await eventually(lambda: look(0, "", 1))
    begin = len(seen)
    await kit.end_agent()
    pid = find_app(before.id).pid
    await kit.start()
    await eventually(lambda: look(begin, "", 2))  # gone, back
    begin = len(seen)
    await kit.engine.apply(kit.workload("serve", release=2))
    await eventually(lambda: look(begin, "shop", 1))
    assert find_app(before.id).pid == pid
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_exit_while_away(kit: ProcessKit) -> None:
    """What ended while the agent was away is started again, with its exit code."""
    await kit.engine.apply(kit.workload("serve"))
    before = await kit.await_serving()
    kit.kill_agent()
    app = find_app(before.id)
    app.send_signal(signal.SIGTERM)
    app.wait(10)
    await kit.start()
    after = await kit.await_instance(lambda i: i.serving and i.restarts == 1)
    assert (after.id, after.exit_code) == (before.id, -signal.SIGTERM)


async def test_exit_after_adoption(kit: ProcessKit) -> None:
    """The exit code of an adopted process, nobody's child any more, is still known."""
    await kit.engine.apply(kit.workload("serve"))
    before = await kit.await_serving()
    kit.kill_agent()
    await kit.start()
    await kit.kill(before)
    after = await kit.await_instance(lambda i: i.serving and i.restarts == 1)
    assert after.exit_code == -signal.SIGKILL


async def test_stop_goes_on(kit: ProcessKit) -> None:
    """A stop that an agent began, the next one completes."""
    workload = kit.workload("deaf", stop_grace=3.0)
    await kit.engine.apply(workload)
    await kit.await_serving()
    await kit.engine.remove(workload.key)
    await kit.await_instance(lambda i: i.state is S.STOPPING)
    kit.kill_agent()
    await kit.start()
    stopped = await kit.await_instance(lambda i: i.state is S.STOPPED)
    assert stopped.exit_code == -signal.SIGKILL


async def test_task_survives(kit: ProcessKit) -> None:
    """A task outlives its agent, runs once, and its code and output are there afterwards."""
    await kit.engine.start_task(make_task("shop-run-7", "echo begin; sleep 1.5; echo end; exit 5"))

    async def look() -> bool:
        return len(await kit.read_logs()) == 1

    await eventually(look)
    kit.kill_agent()
    await kit.start()
    done = await kit.await_task()
    assert done.exit_code == 5
    assert [line["message"] for line in await kit.read_logs(instance="shop-run-7")] == ["begin", "end"]


async def test_a_task_that_never_started_is_not_started_by_the_next_agent(kit: ProcessKit) -> None:
    """Its image could not be had. The agent dies before its last write; what was wanted is forgotten by then."""
    task = make_task("shop-run-8", "echo ran", env={"NEEDED": "1"})
    await kit.engine.start_task(task.model_copy(update={"image": "sha256:none"}))
    done = await kit.await_task()
    kit.kill_agent()
    path = kit.home.node / "tasks" / task.id / "record.json"
    record = TaskRecord.model_validate_json(path.read_bytes())
    held = record.task.model_copy(update={"image": task.image})  # it is there now
    before = record.model_copy(update={"task": held, "state": record.state.model_copy(update={"done": False})})
    path.write_text(before.model_dump_json())
    await kit.start()
    again = await kit.await_task()
    assert again == done
    assert "needs containers" in again.reason
    assert await kit.read_logs(instance=task.id) == []


async def test_unknown_pid_is_adopted(kit: ProcessKit) -> None:
    """A process whose pid the killed agent had no time to write down is adopted, not started twice."""
    await kit.engine.apply(kit.workload("serve"))
    before = await kit.await_serving()
    app = find_app(before.id)
    kit.kill_agent()
    path = kit.home.node / "instances" / before.id / "record.json"
    from seaway.engine.local.state import Launched, Record

    record = Record.model_validate_json(path.read_bytes())
    path.write_text(record.model_copy(update={"launched": Launched(run=1)}).model_dump_json())
    await kit.start()
    after = await kit.await_serving()
    assert after.restarts == 0
    assert find_app(before.id).pid == app.pid


DIES_WHILE_IT_STARTS_SOMETHING = """\
import fcntl, os, subprocess, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(fd, fcntl.LOCK_EX)
os.write(fd, str(os.getpid()).encode())
print(subprocess.Popen(["sleep", sys.argv[2]], pass_fds=[fd], stdout=-3, stderr=-3).pid)  # -3: to nowhere
"""


def leave_lock(lock: Path, seconds: float) -> int:
    """Have a dead agent's lock held on by a child; return the child's pid."""
    words = [sys.executable, "-c", DIES_WHILE_IT_STARTS_SOMETHING, str(lock), str(seconds)]
    return int(subprocess.run(words, check=True, capture_output=True).stdout)


def test_the_lock_of_a_dead_agent_is_waited_for(tmp_path: Path) -> None:
    """A child that it was just starting has it for an instant more."""
    lock = tmp_path / "node.lock"
    leave_lock(lock, 0.5)
    os.close(agent._take_lock(lock))


def test_a_lock_that_is_not_let_go_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "STARTING_LIMIT", 0.2)
    lock = tmp_path / "node.lock"
    child = leave_lock(lock, 60)
    try:
        with pytest.raises(RuntimeError, match="another node agent"):
            agent._take_lock(lock)
    finally:
        os.kill(child, signal.SIGKILL)

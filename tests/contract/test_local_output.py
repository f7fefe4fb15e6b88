"""What instances write, with the agent as a process: bounded, harmless, and kept for an agent that is away."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from seaway.logs.segments import Limits
from seaway.model import Check, Health, InstanceState
from tests.contract.engine_kit import ProcessKit, eventually, find_members, make_task, make_workload, running
from tests.depth import choose
from tests.disk import measure_files
from tests.pace import Stopwatch

FLOODS = {
    "lines": "exec yes",
    "no end of a line": "exec tr '\\0' x </dev/zero",
    "zeros": "exec cat /dev/zero",
    "both streams": "yes >&2 & exec yes",
}
SECONDS = choose(8, 60)


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[ProcessKit]:
    async with running(ProcessKit(tmp_path)) as made:
        yield made


async def list_messages(kit: ProcessKit, instance: str) -> list[str]:
    """Return what it wrote to standard output."""
    return [line["message"] for line in await kit.read_logs(instance=instance) if line["stream"] == "stdout"]


def list_living(instance: str) -> list[psutil.Process]:
    found = []
    for process in find_members(instance):
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


async def test_floods_harm_nobody(kit: ProcessKit) -> None:
    """Instances and a one-off that write as fast as they can: files are bounded, the agent answers, others are well."""
    check = Check(http="/", interval=0.2, unhealthy_after=2)
    await kit.engine.apply(kit.workload("serve", health=Health(readiness=check)))
    quiet = await kit.await_serving()
    for name, command in FLOODS.items():
        await kit.engine.apply(make_workload(command, process=name.replace(" ", "-"), stop_grace=0.5))
    await kit.engine.start_task(make_task("shop-run-1", "yes"))
    limits, until, largest = Limits(), time.monotonic() + SECONDS, 0
    while time.monotonic() < until:
        watch = Stopwatch(kit.process.pid)
        seen = {i.id: i for i in (await kit.engine.observe()).instances}
        assert watch.took() < 2
        assert seen[quiet.id].ready, seen[quiet.id].reason
        largest = max([largest, *measure_files(kit.home.node, "std*").values()])
        assert largest < limits.backlog_bytes + (1 << 20)
        logs = measure_files(kit.home.logs / "shop", "*.jsonl")
        assert sum(logs.values()) < (limits.segments + 1) * limits.segment_bytes
        await asyncio.sleep(0.1)
    assert {i.restarts for i in seen.values()} == {0}
    stopped = Stopwatch(kit.process.pid)
    for key in {i.key for i in seen.values()} - {quiet.key}:
        await kit.engine.remove(key)
    await kit.engine.remove_task("shop-run-1")

    async def have_stopped() -> bool:
        states = [i.state for i in (await kit.engine.observe()).instances if i.id != quiet.id]
        return set(states) == {InstanceState.STOPPED}

    await eventually(have_stopped, limit=30)
    assert stopped.took() < 20
    lost = [line for line in await kit.read_logs() if line.get("log.flags") == ["lost"]]
    assert {line["labels.process"] for line in lost} >= {"lines", "both-streams"}
    assert all(line["event.lost"] > 0 for line in lost if line["labels.process"] in {"lines", "both-streams", "run"})


async def test_last_words_wait_for_the_next_agent(kit: ProcessKit) -> None:
    """What an instance wrote while nobody was there to read it, to its end, is in the logs afterwards."""
    words = "trap 'echo last words; printf unfinished; exit 3' TERM; echo begun; while :; do sleep 0.01; done"
    await kit.engine.apply(make_workload(words, process="worker"))
    before = await kit.await_serving()
    kit.kill_agent()
    for process in find_members(before.id):
        with suppress(psutil.NoSuchProcess):  # its naps are short
            process.send_signal(signal.SIGTERM)

    async def only_waits() -> bool:
        return (kit.home.node / "instances" / before.id / "exit.1").exists() and len(list_living(before.id)) == 1

    await eventually(only_waits)
    await kit.start()
    await kit.await_instance(lambda i: i.restarts == 1)
    assert (await list_messages(kit, before.id))[:3] == ["begun", "last words", "unfinished"]


async def test_who_writes_much_waits_for_the_next_agent(kit: ProcessKit) -> None:
    """Once the pipe is full its writer waits; then it goes on, and no line is missing."""
    count = (
        "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); echo line $i of a good many of such lines; done; exec sleep 1000"
    )
    await kit.engine.apply(make_workload(count, process="worker"))
    before = await kit.await_serving()
    kit.kill_agent()
    await kit.start()

    async def read_all() -> bool:
        return len(await list_messages(kit, before.id)) >= 60000

    await eventually(read_all, limit=60, every=0.5)
    assert await list_messages(kit, before.id) == [f"line {n} of a good many of such lines" for n in range(1, 60001)]
    assert (await kit.await_serving()).restarts == 0


async def test_instances_have_the_usual_number_of_files(kit: ProcessKit) -> None:
    """However many the agent may have open: some programs use select(), which ends at 1024."""
    await kit.engine.start_task(make_task("shop-run-1", "ulimit -S -n"))
    await kit.await_task()
    limits = psutil.Process(kit.process.pid).rlimit(psutil.RLIMIT_NOFILE)
    assert limits[0] == limits[1]
    assert await list_messages(kit, "shop-run-1") == [str(psutil.Process().rlimit(psutil.RLIMIT_NOFILE)[0])]

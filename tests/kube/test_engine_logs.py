"""Logs of apps in a cluster: in order, of what crashed too, followed from pod to pod, and the end of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from seaway.logs.base import LogLine, LogQuery
from seaway.logs.kubernetes import KubernetesLogReader
from seaway.model import InstanceState
from tests.contract.engine_kit import eventually
from tests.kube.engine_kit import KubernetesKit

S = InstanceState
COUNTING = "i=0; while true; do echo line $i of $SEAWAY_INSTANCE; i=$((i+1)); sleep 0.1; done"


@pytest.fixture
async def reader(engine_kit: KubernetesKit) -> AsyncIterator[KubernetesLogReader]:
    made = KubernetesLogReader(engine_kit.client, engine_kit.settings.namespace_prefix)
    yield made
    await made.close()


async def read(reader: KubernetesLogReader, **query: object) -> list[LogLine]:
    return [line async for line in reader.read(LogQuery.model_validate({"app": "shop", **query}))]


async def gather_lines(reader: KubernetesLogReader, seen: list[LogLine], **query: object) -> None:
    asked = LogQuery.model_validate({"app": "shop", "follow": True, **query})
    async with aclosing(reader.read(asked)) as lines:  # type: ignore[type-var]
        async for line in lines:
            seen.append(line)  # noqa: PERF401 - it never ends


async def test_tail_of_two_instances(engine_kit: KubernetesKit, reader: KubernetesLogReader) -> None:
    """The last lines of all instances, in the order they were written, in the shape of docs/logs.md."""
    await engine_kit.engine.apply(engine_kit.shell(COUNTING, count=2))
    both = await engine_kit.await_serving(2)

    async def look() -> list[LogLine] | None:
        found = await read(reader, tail=20)
        return found if len({line["service.node.name"] for line in found}) == 2 and len(found) == 20 else None

    found = await eventually(look, 20)
    times = [line["@timestamp"] for line in found]
    assert times == sorted(times)
    assert {line["service.node.name"] for line in found} == {i.id for i in both}
    last = found[-1]
    assert (last["service.name"], last["service.version"], last["labels.process"]) == ("shop", "v1", "worker")
    assert last["host.name"].startswith("node")
    one = await read(reader, instance=both[0].id, tail=3)
    assert {line["service.node.name"] for line in one} == {both[0].id}
    assert len(one) == 3
    assert await read(reader, process="web") == []
    assert await read(reader, release=2) == []


async def test_what_crashed_is_still_read(engine_kit: KubernetesKit, reader: KubernetesLogReader) -> None:
    """The output of the last container that ended is there while nothing runs (stdout and stderr are stamped apart)."""
    await engine_kit.engine.apply(engine_kit.shell("echo run; echo the database is not there >&2; exit 1"))
    await engine_kit.await_instance(S.CRASHING, "exited with code 1")
    messages = [line["message"] for line in await read(reader)]
    assert set(messages[-2:]) == {"run", "the database is not there"}


async def test_follow_goes_on_to_new_pods_and_runs(engine_kit: KubernetesKit, reader: KubernetesLogReader) -> None:
    """No line is lost or doubled when the container ends and starts again, and a new instance joins."""
    seen: list[LogLine] = []
    following = asyncio.create_task(gather_lines(reader, seen))
    short = "i=0; while [ $i -lt 20 ]; do echo $SEAWAY_INSTANCE $i; i=$((i+1)); sleep 0.1; done"
    await engine_kit.engine.apply(engine_kit.shell(short))

    async def look() -> bool:
        return len(seen) >= 45  # two runs whole, one begun

    await eventually(look, 60)
    await engine_kit.engine.apply(engine_kit.shell(short, count=2))

    async def joined() -> bool:
        return len({line["service.node.name"] for line in seen}) == 2

    await eventually(joined, 30)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    first = [line["message"] for line in seen if line["service.node.name"] == seen[0]["service.node.name"]]
    counted = [int(message.split()[1]) for message in first]
    assert counted == [n % 20 for n in range(len(counted))]


async def test_a_task_is_followed_to_its_end(engine_kit: KubernetesKit, reader: KubernetesLogReader) -> None:
    """What a one-off wrote is read by its id, whoever came first, and after its end too."""
    seen: list[LogLine] = []
    following = asyncio.create_task(gather_lines(reader, seen, instance="shop-run-1"))
    await engine_kit.engine.start_task(engine_kit.task("shop-run-1", 0, "echo hello; sleep 0.3; echo bye"))

    async def look() -> bool:
        return [line["message"] for line in seen] == ["hello", "bye"]

    await eventually(look, 30)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    again = await read(reader, instance="shop-run-1")
    assert [line["message"] for line in again] == ["hello", "bye"]
    assert again[0]["labels.process"] == "run"

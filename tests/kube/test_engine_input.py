"""What a one-off reads from standard input, on a real cluster."""

from __future__ import annotations

import random
from base64 import b64encode
from hashlib import sha256

import pytest

from seaway.engine.base import EngineError
from seaway.model import Task, TaskState
from tests.contract.engine_kit import eventually
from tests.kube.engine_kit import KubernetesKit

pytestmark = pytest.mark.timeout(180)

CONTENT = bytes(range(256)) * 1024 + random.Random(7).randbytes(256 * 1024)  # 512 KiB, the most that the API takes
RESTRICTED = '[ "$(id -u)" != 0 ] && ! touch /here 2>/dev/null && ! cp /bin/sh /run/seaway-input/ 2>/dev/null'


def reader(kit: KubernetesKit, command: str, content: bytes = CONTENT) -> Task:
    task = kit.task("shop-run-1", 0, command)
    return task.model_copy(update={"stdin": b64encode(content).decode()})


async def await_end(kit: KubernetesKit) -> TaskState:
    async def look() -> TaskState | None:
        return next((t for t in (await kit.engine.observe()).tasks if t.done), None)

    return await eventually(look, 60)


async def list_inputs(kit: KubernetesKit) -> list[str]:
    found = await kit.get("secrets", "-l", "seaway.dev/kind=input")
    return [secret["metadata"]["name"] for secret in found]


async def await_no_input(kit: KubernetesKit) -> None:
    async def gone() -> bool:
        return not await list_inputs(kit)

    await eventually(gone, 30, every=0.3)


async def test_input_reaches_the_command_whole(engine_kit: KubernetesKit) -> None:
    """Every byte, to a pod as restricted as any; nobody else sees it, and it goes when the command has ended."""
    check = f'[ "$(sha256sum)" = "{sha256(CONTENT).hexdigest()}  -" ] && {RESTRICTED} && sleep 3'
    task = reader(engine_kit, check)
    await engine_kit.engine.start_task(task)
    await engine_kit.engine.start_task(task)  # again: it is left as it is
    (name,) = await list_inputs(engine_kit)
    shown = await engine_kit.kubectl("get", "jobs,pods", "-o", "json")
    assert task.stdin is not None
    assert name in shown
    assert task.stdin[:100] not in shown
    done = await await_end(engine_kit)
    assert (done.exit_code, done.reason) == (0, "exited with code 0")
    assert len(await engine_kit.get("pods")) == 1
    await await_no_input(engine_kit)
    assert len((await engine_kit.engine.observe()).tasks) == 1  # how it ended can still be asked


async def test_no_input_is_the_end_at_once(engine_kit: KubernetesKit) -> None:
    """An empty one, too."""
    await engine_kit.engine.start_task(reader(engine_kit, '[ -z "$(cat)" ]', b""))
    await engine_kit.engine.start_task(engine_kit.task("shop-run-2", 0, '[ -z "$(cat)" ]'))

    async def look() -> bool:
        found = (await engine_kit.engine.observe()).tasks
        return len(found) == 2 and all(task.exit_code == 0 for task in found)

    await eventually(look, 60)


async def test_input_goes_with_a_command_that_is_killed(engine_kit: KubernetesKit) -> None:
    await engine_kit.engine.start_task(reader(engine_kit, "sleep 600"))
    await engine_kit.await_task_reason("running")
    assert len(await list_inputs(engine_kit)) == 1
    await engine_kit.engine.remove_task("shop-run-1")
    await await_no_input(engine_kit)


async def test_without_its_input_a_command_does_not_run(engine_kit: KubernetesKit) -> None:
    """The cluster takes no Secret: an error says so, and neither Job nor pod is left."""
    await engine_kit.engine.start_task(engine_kit.task("shop-run-0", 0, "true"))  # makes the namespace
    await engine_kit.kubectl("create", "quota", "none", "--hard=count/secrets=0")
    await engine_kit.await_counted("none")
    with pytest.raises(EngineError, match="exceeded quota: none"):
        await engine_kit.engine.start_task(reader(engine_kit, "true"))
    assert [task.id for task in (await engine_kit.engine.observe()).tasks] == ["shop-run-0"]

    async def gone() -> bool:
        found = await engine_kit.get("jobs,pods")
        return all("shop-run-1" not in item["metadata"]["name"] for item in found)

    await eventually(gone, 30, every=0.3)

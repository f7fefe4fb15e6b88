"""What an instance may take: limits by the real kernel, by whichever version of control groups has the controllers."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from seaway.home import Home
from seaway.model import Instance, InstanceState, Limits, Workload
from seaway.sandbox.cgroups import BUILDS, ENTER, Cgroups
from seaway.sandbox.controllers import KINDS
from seaway.sandbox.standing import step_back
from tests.contract.engine_kit import FAST, LocalKit, eventually, find_members, make_task, make_workload, running
from tests.disk import small_disk

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can limit what is in a control group")

MIB = 1 << 20
HOARD = "x = bytearray(b'1') * ({mib} << 20)"
HOARD_AND_STAY = f"import time; {HOARD}; time.sleep(3600)"
LOSES_CHILDREN = f"""import subprocess, sys, time
for _ in range({{count}}):
    subprocess.run([sys.executable, "-c", "{HOARD}"])
{{then}}"""
FORKS = """import subprocess, time
try:
    while True:
        subprocess.Popen(["sleep", "3600"])
except OSError as error:
    print(error.strerror, flush=True)
time.sleep(3600)"""
LEAVES = f"""import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "{HOARD_AND_STAY}"], start_new_session=True)
time.sleep(3600)"""
BURNS = "while True: pass"
WRITES = """import os, sys, time
os.chdir(os.environ.get("{where}", "{where}"))
if os.path.exists("file"):
    print("found one")
file = open("file", "wb")
{then}
try:
    while True:
        file.write(os.urandom(1 << 16))
        time.sleep({pause})
except OSError as error:
    sys.exit(error.strerror)
"""
ALIVE = (InstanceState.STARTING, InstanceState.RUNNING)
SPACE = 64 << 20  # bytes; a disk of its own has more than limits of tests, and the machine's is left alone


def python(program: str, **words: object) -> str:
    """Return the shell command that runs a program."""
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(program.format(**words))}"


@pytest.fixture
def cgroups(tmp_path: Path) -> Iterator[Cgroups]:
    """The control groups of a home; in the end those of x."""
    found = Cgroups.open(tmp_path)
    assert found is not None
    yield found
    found.kill("x")
    found.close()
    assert not found.base.exists()


def run(cgroups: Cgroups, limits: Limits, program: str) -> subprocess.Popen[bytes]:
    """Start a Python program in the group x."""
    words = ["/bin/sh", "-c", f'{ENTER}; exec "$@"', cgroups.make("x", limits), sys.executable, "-c", program]
    return subprocess.Popen(words)


def test_everything_can_be_limited_here(cgroups: Cgroups) -> None:
    """On this machine and on any that the README names; `seaway status` says so where it cannot."""
    assert cgroups.list_lacking() == []


@pytest.mark.parametrize("is_own", [True, False])
def test_a_kill_for_memory_is_told_from_one_of_the_groups_above(cgroups: Cgroups, is_own: bool) -> None:
    """The kernel counts both for the group whose process it was."""
    cgroups.limit_all(Limits(memory=None if is_own else 48 * MIB))
    process = run(cgroups, Limits(memory=(48 if is_own else 480) * MIB), HOARD.format(mib=100))
    assert process.wait() == -9
    memory = cgroups.read_memory("x")
    assert memory is not None
    assert (memory.killed, memory.is_own) == (1, is_own)


def test_within_the_limits_nothing_happens(cgroups: Cgroups) -> None:
    """What it used is known; what the kernel keeps of files it read is not counted."""
    program = "import os, sys; x = bytearray(b'1') * (30 << 20); os.write(1, b'.'); sys.stdin.read()"
    words = ["/bin/sh", "-c", f'{ENTER}; exec "$@"', cgroups.make("x", Limits(memory=64 * MIB, pids=9, cpu=1))]
    with subprocess.Popen(
        [*words, sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"."
        memory = cgroups.read_memory("x")
        assert memory is not None
        assert 30 * MIB < memory.used < 60 * MIB
        assert (memory.killed, memory.is_own) == (0, False)
        process.communicate()
    assert process.returncode == 0


def test_processor_time(cgroups: Cgroups) -> None:
    """A process that never rests gets its part, however idle the machine is."""
    process, began = run(cgroups, Limits(cpu=0.2), BURNS), time.monotonic()
    while (used := cgroups.read_cpu("x")) < 0.3:
        assert process.poll() is None
    assert used < 0.2 * (time.monotonic() - began) + 0.1, "a tenth of a second is given ahead"
    process.kill()
    process.wait()


def test_groups_of_others_are_not_instances(cgroups: Cgroups) -> None:
    """An agent ends what it does not know among its instances; builds are no instances."""
    cgroups.make(BUILDS)
    cgroups.make("x")
    assert cgroups.list_names() == ["x"]
    cgroups.close()
    assert not cgroups.has("x")
    assert cgroups.has(BUILDS), "a build may just be about to enter it"
    cgroups.leave_own()


def test_parts_that_look_at_the_same_time_do_not_disturb_each_other(cgroups: Cgroups, tmp_path: Path) -> None:
    """The agent, the supervisor and builds find out by themselves whether groups work here."""
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: Cgroups.open(tmp_path), range(40)))
    assert cgroups.list_names() == []


def test_seaways_own_parts_come_first(cgroups: Cgroups, tmp_path: Path) -> None:
    """They are in a group of their own, which no app's processes can crowd; it goes with the last of them."""
    code = "import os, sys, time; from pathlib import Path; from seaway.home import Home; "
    code += "from seaway.sandbox.standing import come_first, step_back; home = Home(Path(sys.argv[1])); "
    code += "come_first(home); print(Path('/proc/self/cgroup').read_text().split()[-1], flush=True); sys.stdin.read(); "
    code += "step_back(home)"
    own = cgroups.base.with_name(f"{cgroups.base.name}.parts")
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert f"/{own.name}" in process.stdout.readline()
        assert own.is_dir()
        process.communicate("")
    assert process.returncode == 0
    assert not own.exists()


def test_who_leaves_last_waits_for_those_that_are_leaving(cgroups: Cgroups, tmp_path: Path) -> None:
    """A supervisor that is not wanted takes a moment to find that out."""
    cgroups.enter_own()
    own = cgroups.base.with_name(f"{cgroups.base.name}.parts")
    with subprocess.Popen(["sleep", "0.5"]):
        step_back(Home(tmp_path))
        assert not own.exists()


def worker(program: str, **words: object) -> Workload:
    """Return a workload of one instance that runs the program, with limits that are among the words."""
    limits: dict[str, Any] = {name: words.pop(name) for name in Limits.model_fields if name in words}
    return make_workload(python(program, **words), process="worker", stop_grace=0.0, **limits)


async def test_a_memory_kill_is_named_with_the_limit(kit: LocalKit) -> None:
    """Where people look: it is why the instance failed."""
    await kit.engine.apply(worker(HOARD_AND_STAY, memory=48 * MIB, mib=100))
    seen = await kit.await_instance(lambda i: i.state in (InstanceState.BACKOFF, InstanceState.CRASHING))
    assert seen.exit_code == -9
    assert seen.reason.startswith("was killed after ")
    assert ": it used more memory than its limit of 48 MiB" in seen.reason


async def test_a_process_that_is_lost_is_told_while_the_others_run_on(kit: LocalKit) -> None:
    """And in the end, if that is not by the kill itself; counts begin anew with each start."""
    await kit.engine.apply(worker(LOSES_CHILDREN, memory=48 * MIB, count=2, mib=100, then="time.sleep(3600)"))
    seen = await kit.await_instance(lambda i: i.memory_kills == 2)
    assert seen.serving
    assert seen.reason == "2 processes of it were killed: it used more memory than its limit of 48 MiB"
    workload = worker(LOSES_CHILDREN, memory=48 * MIB, count=1, mib=100, then="sys.exit(3)")
    await kit.engine.apply(workload.model_copy(update={"key": workload.key.model_copy(update={"process": "other"})}))
    seen = await kit.await_instance(lambda i: i.exit_code == 3)
    assert "; a process of it was killed: it used more memory than its limit of 48 MiB" in seen.reason


async def test_a_one_off_that_is_killed_says_so(kit: LocalKit) -> None:
    """It has the limits of the web process."""
    await kit.engine.start_task(make_task("shop-run-1", python(HOARD, mib=100), limits=Limits(memory=48 * MIB)))
    done = await kit.await_task()
    assert done.exit_code == -9
    assert done.reason == "was killed: it used more memory than its limit of 48 MiB; it wrote nothing"


async def test_processes_without_end(kit: LocalKit) -> None:
    """It can start no more; neither the machine nor its neighbour notices."""
    await kit.engine.apply(worker(FORKS, pids=20))

    async def look() -> str:
        return "".join(line["message"] for line in await kit.read_logs())

    assert await eventually(look) == "Resource temporarily unavailable"
    (seen,) = await kit.list_living()
    assert len(find_members(seen.id)) <= 20
    await kit.engine.apply(kit.workload("serve"))
    await kit.await_instance(lambda i: i.key.process == "web" and i.serving)


async def test_an_adopted_instance_keeps_its_limit(kit: LocalKit) -> None:
    """The next agent sets it again, and names a kill as the first would have."""
    program = "import sys, time\nwhile not __import__('os').path.exists('go'): time.sleep(0.05)\n" + HOARD
    await kit.engine.apply(worker(program, memory=48 * MIB, mib=100))
    before = await kit.await_serving()
    await kit.end_agent()
    await kit.start()
    (kit.home.node / "instances" / before.id / "app" / "go").touch()
    seen = await kit.await_instance(lambda i: i.exit_code == -9)
    assert ": it used more memory than its limit of 48 MiB" in seen.reason


@pytest.mark.parametrize("as_ordinary_user", [False, True])
async def test_what_left_its_session_is_measured_too(tmp_path: Path, as_ordinary_user: bool) -> None:
    """All that an instance started counts, whatever way the agent has to find it."""
    async with running(LocalKit(tmp_path, as_ordinary_user=as_ordinary_user)) as kit:
        await kit.engine.apply(worker(LEAVES, mib=80))
        seen = await kit.await_instance(lambda i: (i.memory or 0) > 80 * MIB)
    assert seen.memory is not None
    assert seen.memory < 200 * MIB


async def test_what_a_node_has_left_and_does_not_limit(kit: LocalKit, tmp_path: Path) -> None:
    """Less by what apps use; where nothing can be limited it says what would help."""
    (node,) = (await kit.engine.observe()).nodes
    assert node.unlimited == ""
    assert node.available is not None
    assert 0 < node.available < node.memory
    async with running(LocalKit(tmp_path / "other", as_ordinary_user=True)) as other:
        (node,) = (await other.engine.observe()).nodes
    assert node.unlimited.startswith(f"{', '.join(KINDS.values())}: Seaway may make no control groups here")


@asynccontextmanager
async def on_small_disk(root: Path, disk_interval: float = FAST.disk_interval) -> AsyncIterator[LocalKit]:
    """Run a local engine whose whole home has little room."""
    root.mkdir()
    with small_disk(root, str(SPACE)):
        async with running(LocalKit(root, replace(FAST, disk_interval=disk_interval))) as kit:
            yield kit


def is_over(instance: Instance) -> bool:
    """Whether it failed."""
    return instance.state in (InstanceState.BACKOFF, InstanceState.CRASHING)


def is_over_disk(process: str, instance: Instance) -> bool:
    """Whether an instance of the process failed for that."""
    return is_over(instance) and instance.over_disk and instance.key.process == process


@pytest.mark.parametrize("where", ["HOME", "TMPDIR", "."])
async def test_files_without_end(tmp_path: Path, where: str) -> None:
    """Who writes them is started again with new files, and told; its neighbour goes on."""
    async with on_small_disk(tmp_path / "disk") as kit:
        await kit.engine.apply(kit.workload("serve"))
        neighbour = await kit.await_serving()
        await kit.engine.apply(worker(WRITES, disk=8 * MIB, where=where, then="", pause=0.01))
        seen = await kit.await_instance(is_over)
        assert seen.over_disk
        assert seen.reason.startswith(
            "wrote more to its disk than the 8 MiB that it may (`disk` of [processes.worker])"
        )
        seen = await kit.await_instance(lambda i: i.id == seen.id and i.restarts > 0 and i.state in ALIVE)
        assert not seen.over_disk
        await kit.await_instance(lambda i: i.id == seen.id and i.over_disk)
        now = {i.id: i for i in await kit.list_living()}[neighbour.id]
        assert (now.restarts, now.serving, now.started_at) == (0, True, neighbour.started_at)
        assert [line for line in await kit.read_logs(process="worker") if "found" in line["message"]] == []


async def test_folders_without_end(tmp_path: Path) -> None:
    """Each in the one before: neither to measure nor to remove them goes on for ever, or fails."""
    async with on_small_disk(tmp_path / "disk") as kit:
        program = "import os, time\nwhile True:\n    os.mkdir('d')\n    os.chdir('d')\n    time.sleep(0.0005)"
        await kit.engine.apply(worker(program, disk=6 * MIB))
        seen = await kit.await_instance(is_over)
        assert seen.over_disk
        await kit.await_instance(lambda i: i.restarts > 0)


async def test_a_disk_that_fills_is_looked_at_at_once(tmp_path: Path) -> None:
    """Before the time for that has come."""
    async with on_small_disk(tmp_path / "disk", disk_interval=3600.0) as kit:
        await kit.engine.apply(worker(WRITES, disk=8 * MIB, where="HOME", then="", pause=0.01))
        assert (await kit.await_instance(is_over)).over_disk


async def test_deleted_files_that_stay_open_count(tmp_path: Path) -> None:
    """No folder shows them."""
    async with on_small_disk(tmp_path / "disk") as kit:
        program = worker(WRITES, disk=8 * MIB, where="HOME", then="os.unlink('file')", pause=0.01)
        await kit.engine.apply(program)
        assert (await kit.await_instance(is_over)).over_disk


async def test_what_an_app_was_deployed_with_does_not_count(tmp_path: Path) -> None:
    """As in a cluster: only what it writes itself, also where the agent is another one by then."""
    async with on_small_disk(tmp_path / "disk") as kit:
        kit.unpacker.images = tmp_path / "images"
        (kit.unpacker.images / "image").mkdir(parents=True)
        (kit.unpacker.images / "image" / "large").write_bytes(os.urandom(12 * MIB))
        await kit.engine.apply(worker("import time; time.sleep(3600)", disk=8 * MIB))
        seen = await kit.await_serving()
        await kit.end_agent()
        await kit.start()
        own = kit.home.node / "instances" / seen.id
        assert (own / "app" / "large").stat().st_size > 8 * MIB
        (own / "home" / "more").write_bytes(os.urandom(6 * MIB))
        (own / "app" / "more").write_bytes(os.urandom(1 * MIB))
        assert (await kit.await_serving()).restarts == 0
        (own / "tmp" / "more").write_bytes(os.urandom(2 * MIB))
        assert (await kit.await_instance(is_over)).over_disk


async def test_a_one_off_that_writes_without_end(tmp_path: Path) -> None:
    """It is killed, and its reason says why."""
    async with on_small_disk(tmp_path / "disk") as kit:
        command = python(WRITES, where="HOME", then="", pause=0.01)
        await kit.engine.start_task(make_task("shop-run-1", command, limits=Limits(disk=8 * MIB)))
        done = await kit.await_task()
        assert done.exit_code == -9
        assert done.reason == "wrote more to its disk than the 8 MiB that it may (`disk` of [processes.web])"


async def test_all_of_an_app_begin_again_where_its_tmp_is_too_full(tmp_path: Path) -> None:
    """Nobody can tell which of them it was; they begin with an empty one, and other apps go on."""
    async with on_small_disk(tmp_path / "disk") as kit:
        other = kit.workload("serve", disk=MIB)
        await kit.engine.apply(other.model_copy(update={"key": other.key.model_copy(update={"app": "other"})}))
        neighbour = await kit.await_serving()
        await kit.engine.apply(kit.workload("serve", disk=4 * MIB))
        await kit.await_instance(lambda i: i.key.app == "shop" and i.serving)
        await kit.engine.apply(worker(WRITES, disk=8 * MIB, where="/var/tmp", then="", pause=0.01))
        why = "was ended with all of its app here: they wrote more to /tmp than the 8 MiB that they may"
        for process in ("web", "worker"):
            seen = await kit.await_instance(partial(is_over_disk, process))
            assert seen.reason.startswith(why)
        await kit.await_instance(lambda i: i.key.app == "shop" and i.restarts > 0 and i.serving)
        now = {i.id: i for i in await kit.list_living()}[neighbour.id]
        assert (now.restarts, now.serving) == (0, True)

        async def look() -> bool:
            return list((kit.home.node / "tmp" / ".old").iterdir()) == []

        await eventually(look)
        assert [line for line in await kit.read_logs(process="worker") if "found" in line["message"]] == []


async def test_a_tmp_is_looked_at_while_nobody_runs_who_writes_there(tmp_path: Path) -> None:
    """What crashes again and again leaves more each time."""
    async with on_small_disk(tmp_path / "disk") as kit:
        program = (
            "import tempfile, sys\ntempfile.NamedTemporaryFile(dir='/var/tmp', delete=False).write(b'x' * (2 << 20))"
        )
        await kit.engine.apply(worker(program, disk=8 * MIB))
        seen = await kit.await_instance(partial(is_over_disk, "worker"))
        assert " wrote more to /tmp than the 8 MiB that they may" in seen.reason
        assert seen.restarts >= 3

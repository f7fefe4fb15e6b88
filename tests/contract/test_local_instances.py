"""The local engine beyond the contract: real processes under an agent in this process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from base64 import b64encode
from functools import partial
from hashlib import sha256
from pathlib import Path

import httpx2
import psutil
import pytest
import structlog

from seaway.engine.base import EngineError, EngineUnavailable
from seaway.engine.local.base import RunRoot, Timings
from seaway.engine.local.client import LocalEngine
from seaway.engine.local.ports import FIRST, LAST
from seaway.engine.local.probe import Prober, Target
from seaway.home import Home
from seaway.logs.base import LogQuery
from seaway.model import Check, Health, Instance, InstanceState, Mount
from tests.contract.engine_kit import LocalKit, eventually, find_app, find_members, make_task, make_workload, running
from tests.pace import Stopwatch
from tests.shared_place import find_shared
from tests.wants import without_descriptors

S = InstanceState


async def test_start_is_fast_and_answers(kit: LocalKit) -> None:
    """A web process is ready soon after it listens, on a port of the range, and serves there."""
    await kit.engine.apply(kit.workload("serve"))
    seen = await kit.await_serving()
    assert seen.port is not None
    assert FIRST <= seen.port <= LAST
    async with httpx2.AsyncClient() as http:
        assert (await http.get(f"http://{seen.address}:{seen.port}/")).status_code == 200


async def test_environment(kit: LocalKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instances get PORT, SEAWAY_* and their config on a clean base, and nothing of the agent's own environment."""
    monkeypatch.setenv("AGENT_SECRET", "no")
    await kit.engine.apply(kit.workload("env", routed=True, env={"COLOR": "blue", "SEAWAY_APP": "forged"}))

    async def look() -> dict[str, str] | None:
        return next((line["seen"] for line in await kit.read_logs() if "seen" in line), None)

    env = await eventually(look)
    (instance,) = await kit.list_living()
    assert env["PORT"] == str(instance.port)
    assert (env["COLOR"], env["HOST"], env["LANG"], env["PYTHONUNBUFFERED"]) == ("blue", "127.0.0.1", "C.UTF-8", "1")
    assert (env["SEAWAY_APP"], env["SEAWAY_RELEASE"], env["SEAWAY_PROCESS"]) == ("shop", "v1", "web")
    assert (env["SEAWAY_INSTANCE"], env["SEAWAY_NODE"]) == (instance.id, "node-1")
    assert Path(env["HOME"]).is_dir()
    assert Path(env["TMPDIR"]).is_dir()
    assert "AGENT_SECRET" not in env
    assert "SEAWAY_HOME" not in env


async def test_secrets_stay_out_of_argv_and_open_files(kit: LocalKit) -> None:
    """A config value is in no command line, and every file of the node is for its owner only."""
    await kit.engine.apply(kit.workload("serve", env={"TOKEN": "s3cr3t-value"}))
    seen = await kit.await_serving()
    assert not [p.pid for p in find_members(seen.id) if "s3cr3t-value" in " ".join(p.cmdline())]
    holding = [path for path in kit.home.node.rglob("*.json") if "s3cr3t-value" in path.read_text()]
    assert holding
    assert all(path.stat().st_mode & 0o077 == 0 for path in holding)


async def test_crash_says_last_output(kit: LocalKit) -> None:
    """The reason of a crashing instance holds its exit code and its last lines of output, without values of config."""
    await kit.engine.apply(kit.workload("crash", env={"TOLD": "about to"}))
    seen = await kit.await_instance(lambda i: i.state is S.CRASHING)
    assert "exited with code 1 after" in seen.reason
    assert "$TOLD fail | the database is not there" in seen.reason


async def test_command_not_found(kit: LocalKit) -> None:
    """A command that is not there is named in plain words."""
    workload = kit.workload("serve")
    process = workload.process.model_copy(update={"command": "nonesuch --serve"})
    await kit.engine.apply(workload.model_copy(update={"process": process}))
    seen = await kit.await_instance(lambda i: i.exit_code is not None)
    assert "code 127 (command not found)" in seen.reason
    assert "nonesuch: not found" in seen.reason


async def test_listens_elsewhere(kit: LocalKit) -> None:
    """An app that ignores PORT is told where it listens instead."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    health = Health(start_timeout=1.0)
    await kit.engine.apply(kit.workload("elsewhere", env={"ELSEWHERE": str(port)}, health=health))
    seen = await kit.await_instance(lambda i: i.state is S.CRASHING)
    assert f"did not listen on PORT {seen.port} within 1 s (it listens on 127.0.0.1:{port})" in seen.reason


async def test_a_start_says_what_it_lacks_while_there_is_time(kit: LocalKit) -> None:
    """Where it listens instead, and after a while what it wrote last; a restart keeps the reason of the failure."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    workload = kit.workload("elsewhere", env={"ELSEWHERE": str(port)}, health=Health(start_timeout=4.0))
    command = f"echo hello; exec {workload.process.command}"
    process = workload.process.model_copy(update={"command": command})
    await kit.engine.apply(workload.model_copy(update={"process": process}))
    seen = await kit.await_instance(lambda i: "listens on" in i.reason)
    said = f"starting: it listens on 127.0.0.1:{port} and not on PORT {seen.port} so far; let it listen on $PORT"
    assert (seen.state, seen.reason) == (S.STARTING, said)
    seen = await kit.await_instance(lambda i: "last output" in i.reason)
    assert (seen.state, seen.reason) == (S.STARTING, f"{said}; last output: hello")
    seen = await kit.await_instance(lambda i: i.state is S.STARTING and i.restarts == 1)
    assert seen.reason.startswith("starting again; before that it did not listen on PORT")


async def test_checks_name_the_apps_own_host(kit: LocalKit) -> None:
    """An app that answers only to its own name passes; one that goes by another is quoted."""
    check, env = Check(http="/", interval=0.1), {"ONLY_HOST": "shop.localhost"}
    health = Health(readiness=check, start_timeout=3.0)
    await kit.engine.apply(kit.workload("serve", health=health, env=env, host="shop.localhost"))
    await kit.await_serving()
    await kit.engine.apply(kit.workload("serve", release=2, health=health, env=env, host="other.localhost"))
    seen = await kit.await_instance(lambda i: i.state is S.CRASHING)
    assert f"GET / on port {seen.port} answered 400: <h1>Bad Request</h1> no such host" in seen.reason


@pytest.mark.skipif(os.geteuid() != 0, reason="without root all apps are one user")
async def test_port_is_taken_by_another_user(kit: LocalKit) -> None:
    """Whoever answers there instead of the app gets no traffic."""
    await kit.engine.apply(kit.workload("silent", process="web", health=Health(start_timeout=1.0)))
    starting = await kit.await_instance(lambda i: i.state is S.STARTING and i.port is not None)
    assert starting.port is not None
    with socket.create_server(("127.0.0.1", starting.port)):
        seen = await kit.await_instance(lambda i: i.state is S.CRASHING)
    assert f"port {starting.port} is held by another user's process (user id 0)" in seen.reason


async def test_image_cannot_run(kit: LocalKit) -> None:
    """An image that cannot run here makes the instance say why."""
    await kit.engine.apply(kit.workload("serve").model_copy(update={"image": "sha256:other"}))
    seen = await kit.await_instance(lambda i: i.state is S.CRASHING)
    assert seen.reason == "image sha256:other needs containers: this engine cannot run it"


async def test_ignores_sigterm(kit: LocalKit) -> None:
    """An app that ignores SIGTERM is killed after its grace, and the reason says so."""
    workload = kit.workload("deaf", stop_grace=0.3)
    await kit.engine.apply(workload)
    await kit.await_serving()
    await kit.engine.remove(workload.key)
    stopped = await kit.await_instance(lambda i: i.state is S.STOPPED)
    assert stopped.reason.endswith("killed: it ignored SIGTERM for 0.3 s")
    assert stopped.exit_code == -signal.SIGKILL


async def test_grace_is_for_the_app_behind_a_shell(kit: LocalKit) -> None:
    """A shell that dies of SIGTERM at once does not cut the app's grace short."""
    workload = kit.workload("slow-end", stop_grace=10.0)
    process = workload.process.model_copy(update={"command": "true && python app.py slow-end && true"})
    workload = workload.model_copy(update={"process": process})
    await kit.engine.apply(workload)
    await kit.await_serving()
    await kit.engine.remove(workload.key)
    await kit.await_instance(lambda i: i.state is S.STOPPED)
    assert "finished in peace" in [line["message"] for line in await kit.read_logs()]


async def test_nothing_of_a_family_remains(kit: LocalKit) -> None:
    """Children, also those in sessions of their own, go with their instance; so do its files."""
    workload = kit.workload("family")
    await kit.engine.apply(workload)
    seen = await kit.await_serving()
    assert len(find_members(seen.id)) >= 4  # leader, app, two children
    await kit.engine.remove(workload.key)
    await kit.await_instance(lambda i: i.state is S.STOPPED)
    assert [p for p in find_members(seen.id) if p.status() != psutil.STATUS_ZOMBIE] == []
    assert not (kit.home.node / "instances" / seen.id).exists()
    assert not list((kit.home.node / "workloads").iterdir())


async def test_exit_is_seen_at_once(kit: LocalKit) -> None:
    """The death of an app reaches a watcher without waiting for any check or poll."""
    await kit.engine.apply(kit.workload("serve", health=Health(readiness=Check(tcp=True, interval=600.0))))
    seen = await kit.await_serving()
    watched, heard = asyncio.Event(), asyncio.Event()

    async def follow() -> None:
        async for name in kit.engine.watch():
            if not name:
                watched.set()
            elif any(i.restarts or not i.serving for i in await kit.list_living()):
                heard.set()

    task = asyncio.create_task(follow())
    await watched.wait()
    pid = find_app(seen.id).pid
    killed = Stopwatch()
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        await heard.wait()
    took = killed.took()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert took < 0.5


async def test_killed_leader_is_healed(kit: LocalKit) -> None:
    """kill -9 of the wrapper takes its orphaned app away and starts the instance again on its port."""
    await kit.engine.apply(kit.workload("serve"))
    seen = await kit.await_serving()
    (leader,) = [p for p in find_members(seen.id) if p.name() == "sh"]  # the app has replaced its own shell
    app = find_app(seen.id)
    leader.kill()
    healed = await kit.await_instance(lambda i: i.serving and i.restarts == 1)
    assert healed.port == seen.port
    assert find_app(seen.id).pid != app.pid


async def test_readiness_flips(kit: LocalKit) -> None:
    """A failing HTTP readiness check takes an instance out and a good one puts it back; it is not restarted."""
    seen, fault = (place / "fault" for place in find_shared(kit.home.root, "shop"))
    check = Check(http="/healthz", interval=0.05, unhealthy_after=2)
    await kit.engine.apply(kit.workload("serve", health=Health(readiness=check), env={"FAULT": str(seen)}))
    before = await kit.await_serving()
    fault.touch()
    out = await kit.await_instance(lambda i: not i.ready)
    assert out.state is S.RUNNING
    assert out.reason.startswith(f"not ready: GET /healthz on port {out.port} answered 503 (2 times")
    fault.unlink()
    after = await kit.await_serving()
    assert after.started_at == before.started_at


async def test_liveness_restarts(kit: LocalKit) -> None:
    """A failing liveness check restarts the instance and says which check."""
    seen, fault = (place / "fault" for place in find_shared(kit.home.root, "shop"))
    check = Check(http="/", interval=0.05, unhealthy_after=2)
    await kit.engine.apply(kit.workload("serve", health=Health(liveness=check), env={"FAULT": str(seen)}))
    await kit.await_serving()
    fault.touch()
    failed = await kit.await_instance(lambda i: i.state is S.BACKOFF)
    assert "liveness check failed 2 times in a row: GET / on port" in failed.reason
    fault.unlink()
    assert (await kit.await_instance(lambda i: i.serving)).restarts >= 1


async def test_command_check(kit: LocalKit) -> None:
    """A command check runs in the instance's folder and environment; its last words are in the reason."""
    seen, flag = (place / "flag" for place in find_shared(kit.home.root, "shop"))
    check = Check(command='test -f app.py && test -e "$FLAG" || { echo no flag; exit 7; }', interval=0.1)
    health = Health(startup=check, start_timeout=20)
    await kit.engine.apply(kit.workload("silent", process="worker", health=health, env={"FLAG": str(seen)}))
    assert (await kit.await_instance(lambda i: i.state is S.STARTING)).reason == "starting"
    flag.touch()
    await kit.await_serving()
    flag.unlink()
    quick = Health(startup=check, start_timeout=0.5)
    await kit.engine.apply(kit.workload("silent", release=2, process="worker", health=quick, env={"FLAG": str(seen)}))
    failed = await kit.await_instance(lambda i: i.state is S.CRASHING)
    assert "check command ended with code 7: no flag" in failed.reason


async def test_instances_of_an_app_begin_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there are processors; those that wait say so, another app's does not wait for them."""
    monkeypatch.setattr("seaway.engine.local.starts.LEAST", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    async with running(LocalKit(tmp_path)) as kit:
        await kit.engine.apply(kit.workload("serve", count=4))
        other = kit.workload("serve")
        await kit.engine.apply(other.model_copy(update={"key": other.key.model_copy(update={"app": "blog"})}))

        async def look() -> list[Instance]:
            living = await kit.list_living()
            return [i for i in living if i.reason == "waits until others of its app have started"]

        waiting = await eventually(look)
        assert 1 <= len(waiting) <= 3
        assert {i.key.app for i in waiting} == {"shop"}

        async def all_serve() -> bool:
            return [i.serving for i in await kit.list_living()] == [True] * 5

        await eventually(all_serve, 30)


async def test_a_stopped_instance_takes_no_traffic_and_is_started_again(kit: LocalKit) -> None:
    """Its port takes connections all the same, so no check of that kind would tell."""
    await kit.engine.apply(kit.workload("serve"))
    before = await kit.await_serving()
    find_app(before.id).suspend()
    stood = await kit.await_instance(lambda i: not i.ready)
    assert stood.state is S.RUNNING
    assert stood.reason == "its processes are stopped, by SIGSTOP or a terminal"
    after = await kit.await_instance(lambda i: i.serving and i.restarts == 1)
    assert after.exit_code == -signal.SIGTERM, "it hears that it is to end, and need not be killed"


async def test_one_that_goes_on_in_time_is_ready_again(kit: LocalKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the same process, whether or not it has a check of its own."""
    monkeypatch.setattr("seaway.engine.local.standstill.LASTING", 1000)
    await kit.engine.apply(kit.workload("serve"))
    await kit.engine.apply(kit.workload("silent", process="worker"))

    async def pick(process: str, *, serving: bool) -> Instance:
        return await kit.await_instance(lambda i: i.key.process == process and i.serving == serving)

    for process in ("web", "worker"):
        before = await pick(process, serving=True)
        app = find_app(before.id)
        app.suspend()
        await pick(process, serving=False)
        app.resume()
        after = await pick(process, serving=True)
        assert (after.id, after.restarts, after.reason) == (before.id, 0, "")
        assert find_app(before.id).pid == app.pid


async def test_a_stopped_instance_ends_when_told(kit: LocalKit) -> None:
    """In its own way."""
    workload = kit.workload("slow-end")
    await kit.engine.apply(workload)
    before = await kit.await_serving()
    find_app(before.id).suspend()
    await kit.engine.remove(workload.key)
    stopped = await kit.await_instance(lambda i: i.state is S.STOPPED)
    assert (stopped.exit_code, stopped.killed) == (0, False)


async def test_told_to_stop_before_it_began(kit: LocalKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """While its image is made ready: it is gone, and nothing has failed."""
    prepare, asked, go = kit.unpacker.prepare, asyncio.Event(), asyncio.Event()

    async def prepare_later(image: str) -> RunRoot:
        asked.set()
        await go.wait()
        return await prepare(image)

    monkeypatch.setattr(kit.unpacker, "prepare", prepare_later)
    with structlog.testing.capture_logs() as logs:
        workload = kit.workload("serve", count=2)
        await kit.engine.apply(workload)
        await asked.wait()
        await kit.engine.remove(workload.key)
        go.set()
        seen = await kit.await_instance(lambda i: i.state is S.STOPPED)
    assert seen.reason == "its release was removed"
    assert [entry for entry in logs if entry["log_level"] == "error"] == []


async def test_an_agent_without_descriptors_goes_on_with_what_runs(kit: LocalKit) -> None:
    """It can neither ask nor start anything; what ended meanwhile is started again later, and the rest goes on."""
    await kit.engine.apply(kit.workload("serve", count=2))

    async def find_serving() -> list[Instance]:
        living = await kit.list_living()
        return living if len(living) == 2 and all(i.serving for i in living) else []

    first, second = await eventually(find_serving)
    pid, other = find_app(first.id).pid, find_app(second.id).pid
    with structlog.testing.capture_logs() as logs:
        with without_descriptors():
            os.kill(pid, signal.SIGKILL)
            async with asyncio.timeout(10):
                while not any("Too many open files" in str(entry) for entry in logs):
                    await asyncio.sleep(0.01)
        seen = await kit.await_instance(lambda i: i.restarts > 0 and i.serving)
    assert seen.id == first.id
    assert find_app(second.id).pid == other
    assert [entry for entry in logs if entry["event"] == "a loop of the node agent ended"] == []


async def test_worker_is_ready_after_a_moment(kit: LocalKit) -> None:
    """A process without checks and traffic counts as ready once it has run for a moment; it need not listen."""
    await kit.engine.apply(kit.workload("silent", process="worker"))
    seen = await kit.await_serving()
    assert (seen.address, FIRST <= (seen.port or 0) <= LAST) == ("127.0.0.1", True)


async def test_every_instance_has_a_port_of_its_own(kit: LocalKit) -> None:
    """Of any process: one that listens there, such as an exporter, may be asked by a check as web is."""
    workload = kit.workload("serve", 2, process="flower", health=Health(readiness=Check(http="/")))
    await kit.engine.apply(workload)

    async def look() -> list[Instance] | None:
        living = await kit.list_living()
        return living if len(living) == 2 and all(instance.serving for instance in living) else None

    seen = await eventually(look)
    assert len({instance.port for instance in seen}) == 2
    async with httpx2.AsyncClient() as http:
        for instance in seen:
            assert (await http.get(f"http://127.0.0.1:{instance.port}/")).status_code == 200


async def test_usage(kit: LocalKit) -> None:
    """CPU and memory of an instance are measured over its whole group."""
    await kit.engine.apply(kit.workload("serve"))
    seen = await kit.await_instance(lambda i: (i.memory or 0) > 5_000_000)
    assert seen.cpu is not None
    assert seen.cpu >= 0


async def test_task_output_and_timeout(kit: LocalKit) -> None:
    """A task's output is in the app's logs under its id; one that takes too long is killed and says so."""
    await kit.engine.start_task(make_task("shop-run-1", "echo hello; sleep 60", timeout=0.5))
    done = await kit.await_task()
    assert done.reason == "killed: it did not end within 0.5 s; last output: hello"
    lines = await kit.read_logs(instance="shop-run-1", process="run")
    assert lines[0]["message"] == "hello"  # its shell may add a word on its end


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print('begins'); raise SystemExit('DATABASE_URL is not set')", "last output: DATABASE_URL is not set"),
        ("print('begins'); {}['DATABASE_URL']", "last output: KeyError: 'DATABASE_URL'"),
        ("print('no database here', end=''); exit(1)", "last output: no database here"),
        ("exit(1)", "it wrote nothing"),
    ],
)
async def test_a_task_that_fails_says_with_which_error(kit: LocalKit, code: str, said: str) -> None:
    """Without a traceback's body, from stderr or else from stdout."""
    await kit.engine.start_task(make_task("shop-v1-release", f'python -c "{code}"'))
    assert (await kit.await_task()).reason == f"exited with code 1; {said}"


async def test_a_task_says_what_it_wrote_into_its_copy_of_the_app(kit: LocalKit) -> None:
    """New and changed files; what it wrote elsewhere, and Python's caches, are not meant."""
    await kit.engine.start_task(make_task("shop-run-1", "true"))
    assert (await kit.await_task()).wrote == ()
    await kit.engine.remove_task("shop-run-1")
    command = "mkdir -p data __pycache__; touch data/db.sqlite3 __pycache__/x.pyc $HOME/mine $TMPDIR/scratch"
    await kit.engine.start_task(make_task("shop-run-1", command))
    assert (await kit.await_task()).wrote == ("data/db.sqlite3",)


async def test_only_the_latest_tasks_are_remembered(tmp_path: Path) -> None:
    """Of those that have ended; what others left on disk is gone."""
    kit = LocalKit(tmp_path, Timings(kept_tasks=2))
    await kit.start()
    try:
        for number in range(4):
            await kit.engine.start_task(make_task(f"shop-run-{number}", "true"))
            await eventually(partial(has_ended, kit, f"shop-run-{number}"))
        assert sorted((await kit.engine.observe()).part("shop").tasks) == ["shop-run-2", "shop-run-3"]
        assert sorted(path.name for path in (kit.home.node / "tasks").iterdir()) == ["shop-run-2", "shop-run-3"]
    finally:
        await kit.close()


async def has_ended(kit: LocalKit, task: str) -> bool:
    return (await kit.engine.observe()).part("shop").tasks[task].done


async def test_task_reads_what_it_is_given(kit: LocalKit) -> None:
    """Bytes as they are, to their end; afterwards neither they nor the config are kept."""
    given = bytes(range(256)) * 1000
    encoded = b64encode(given).decode()
    task = make_task("shop-run-1", "sha256sum", stdin=encoded, env={"KEY": "hunter2"})
    await kit.engine.start_task(task)
    await kit.await_task()
    (line,) = await kit.read_logs(instance="shop-run-1")
    assert line["message"].split()[0] == sha256(given).hexdigest()
    left = [path for path in (kit.home.node / "tasks" / "shop-run-1").iterdir() if path.is_file()]
    assert [path.name for path in left] == ["record.json"]
    assert "hunter2" not in left[0].read_text()
    assert encoded not in left[0].read_text()


async def test_bad_task_id(kit: LocalKit) -> None:
    """An id that would leave its folder is refused."""
    with pytest.raises(EngineError, match="cannot name"):
        await kit.engine.start_task(make_task("../shop", "true"))


async def test_unavailable(tmp_path: Path) -> None:
    """Without an agent every call says that the engine is away."""
    engine = LocalEngine(Home(tmp_path).create())
    with pytest.raises(EngineUnavailable, match="seaway up"):
        await engine.observe()
    await engine.close()


async def test_second_agent_is_refused(kit: LocalKit) -> None:
    """A second agent on the same home names the first and harms nothing."""
    from seaway.engine.local.agent import Agent
    from seaway.logs.collector import FileLogCollector

    other = Agent(kit.home, kit.unpacker, FileLogCollector(kit.home))
    with pytest.raises(RuntimeError, match=f"pid {os.getpid()}"):
        await other.start()
    assert await kit.engine.ping()


async def test_halt_and_return(kit: LocalKit) -> None:
    """After stop_all nothing runs; the next agent brings the same instance back on its port."""
    await kit.engine.apply(kit.workload("serve"))
    before = await kit.await_serving()
    await kit.engine.stop_all()
    assert [p for p in find_members(before.id) if p.status() != psutil.STATUS_ZOMBIE] == []
    await kit.end_agent()
    await kit.start()
    after = await kit.await_serving()
    assert (after.id, after.port, after.restarts) == (before.id, before.port, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="without root all apps are one user")
@pytest.mark.parametrize("check", [Check(http="/", interval=0.1), Check(command="test -w app.py", interval=0.1)])
async def test_what_runs_since_before_apps_were_users_serves_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: Check
) -> None:
    """An agent that gives apps user ids adopts what one started as root: that passes its checks, until it ends."""
    async with running(LocalKit(tmp_path, as_ordinary_user=True)) as kit:
        await kit.engine.apply(kit.workload("serve", health=Health(readiness=check, start_timeout=20)))
        before = await kit.await_serving()
        pid = find_app(before.id).pid
        await kit.end_agent()
        answers = note_answers(monkeypatch)
        kit._is_ordinary = False
        await kit.start()
        since = (await kit.await_serving()).ready_since
        answers.clear()

        async def is_asked() -> bool:
            return len(answers) > 2 * check.unhealthy_after

        await eventually(is_asked)
        now = await kit.await_serving()
        assert now.ready_since == since, answers
        assert (now.id, now.restarts, find_app(before.id).pid) == (before.id, 0, pid)
        await kit.kill(before)
        after = await kit.await_instance(lambda i: i.serving and i.restarts == 1)
        assert find_app(after.id).uids().real != 0


def note_answers(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Return a list that grows by each answer to a check from now on: what is wrong, or None."""
    answers, ask = list[str | None](), Prober.ask

    async def note(prober: Prober, check: Check, target: Target) -> str | None:
        answers.append(await ask(prober, check, target))
        return answers[-1]

    monkeypatch.setattr(Prober, "ask", note)
    return answers


async def test_own_files(kit: LocalKit) -> None:
    """What an instance writes to its app folder, home or scratch folder is its own and gone with its next start."""
    shared = sorted((path, path.stat().st_mtime_ns) for path in kit.unpacker.images.joinpath("image").iterdir())
    command = "ls -A . ~ $TMPDIR; echo mine | tee note.txt ~/note.txt $TMPDIR/note.txt >>app.py; exec sleep 1000"
    workload = make_workload(command, 2, process="worker", stop_grace=0.5)
    await kit.engine.apply(workload)

    async def all_wrote() -> bool:
        living = await kit.list_living()
        return len(living) == 2 and all(
            (kit.home.node / "instances" / i.id / folder / "note.txt").exists()
            and read_app_file(kit, i).endswith("mine\n")
            for i in living
            for folder in ("app", "home", "tmp")
        )

    await eventually(all_wrote)
    (victim, _) = await kit.list_living()
    own = kit.home.node / "instances" / victim.id
    leader = min(find_members(victim.id), key=lambda process: process.pid)
    os.kill(leader.pid, signal.SIGKILL)
    await kit.await_instance(lambda i: i.id == victim.id and i.restarts == 1)
    await eventually(all_wrote)
    assert read_app_file(kit, victim).count("mine") == 1
    assert "note.txt" not in {line["message"] for line in await kit.read_logs()}
    assert sorted((path, path.stat().st_mtime_ns) for path in kit.unpacker.images.joinpath("image").iterdir()) == shared
    await kit.engine.remove(workload.key)
    await kit.await_instance(lambda i: i.id == victim.id and i.state is S.STOPPED)
    assert not own.exists()


async def test_persistent_folders(kit: LocalKit) -> None:
    """What a one-off writes there is seen by instances of any release, and by no other app; the rest is gone."""
    mounts = (Mount(name="db", path="var/data"),)
    write = "echo written > var/data/file; echo written > file"
    await kit.engine.start_task(make_task("shop-run-a", write, mounts=mounts))
    done = await kit.await_task()
    assert (done.exit_code, " ".join(done.wrote)) == (0, "file")
    read = "cat file 2>/dev/null; cat var/data/file; echo more >> var/data/file; echo done; exec sleep 100"

    async def await_lines(release: int) -> list[str]:
        async def look() -> list[str]:
            lines = [line["message"] for line in await kit.read_logs(release=release, process="worker")]
            return lines if "done" in lines else []

        await kit.engine.apply(make_workload(read, release=release, process="worker", mounts=mounts))
        return await eventually(look)

    assert await await_lines(2) == ["written", "done"]
    assert await await_lines(3) == ["written", "more", "done"]
    other = make_task("blog-run-a", f"ls {kit.home.mounts}; ls -A var/data; echo x > var/data/own", mounts=mounts)
    await kit.engine.start_task(other.model_copy(update={"app": "blog"}))

    async def has_ended() -> bool:
        return {"shop-run-a", "blog-run-a"} == {t.id for t in (await kit.engine.observe()).tasks if t.done}

    await eventually(has_ended)
    assert (kit.home.mounts / "shop/db/file").read_text() == "written\nmore\nmore\n"
    assert [path.name for path in (kit.home.mounts / "blog/db").iterdir()] == ["own"]
    if os.geteuid() == 0:
        query = LogQuery(app="blog", tail=None)
        assert {line["message"] async for line in kit.reader.read(query)} == {"blog"}, "its own alone is shown"


def read_app_file(kit: LocalKit, instance: Instance) -> str:
    """Return the instance's own copy of app.py."""
    return (kit.home.node / "instances" / instance.id / "app" / "app.py").read_text()


@pytest.mark.parametrize(
    "command",
    [
        "sleep 1000; true",
        "true && sleep 1000",
        "sleep 1000 | cat",
        "sleep 1000 & wait",
        "(sleep 1000; true)",
        "if true; then sleep 1000; fi; true",
        "sh -c 'sleep 1000; true'; true",
        "bash -c 'sleep 1000; true'",
        "trap '' TERM; sleep 1000; sleep 1000",
    ],
)
async def test_shells_keep_quiet(kit: LocalKit, command: str) -> None:
    """Whatever shells stand between Seaway and the app, none writes "Terminated" or "Killed" to its output."""
    workload = make_workload(f"echo begun; {command}", process="worker", stop_grace=0.3)
    await kit.engine.apply(workload)

    async def sleeps() -> bool:
        living = await kit.list_living()
        return any(p.name() == "sleep" for i in living for p in find_members(i.id))

    await eventually(sleeps)
    await kit.engine.remove(workload.key)
    await kit.await_instance(lambda i: i.state is S.STOPPED)
    assert [line["message"] for line in await kit.read_logs()] == ["begun"]


async def test_images_are_released(kit: LocalKit) -> None:
    """Once a workload is gone its image is no longer named as in use."""
    workload = kit.workload("serve")
    await kit.engine.apply(workload)
    await kit.await_serving()
    kit.unpacker.in_use = {"unset"}
    await kit.engine.remove(workload.key)

    async def look() -> bool:
        return kit.unpacker.in_use == set()

    await eventually(look)

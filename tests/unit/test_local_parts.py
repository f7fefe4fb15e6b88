"""The parts of the local engine that need no process: ports, delays, reasons, checks over time, state on disk."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from seaway.engine.base import EngineError
from seaway.engine.local.base import RunRoot, Timings
from seaway.engine.local.changes import Changes
from seaway.engine.local.files import copy_tree, put_in_place
from seaway.engine.local.health import Checks, await_dead, await_passing, follow_readiness
from seaway.engine.local.ports import PortPool, is_free
from seaway.engine.local.probe import Prober, Target, Unknown
from seaway.engine.local.process import exec_plain
from seaway.engine.local.reasons import describe_exit, describe_starting, describe_unstarted, read_last_lines
from seaway.engine.local.state import Desired, NodeState, Record
from seaway.engine.local.written import find_written
from seaway.model import Check, Health, Instance, InstanceState, Process, Workload, WorkloadKey
from seaway.sandbox.removing import remove_tree
from tests.wants import without_descriptors

KEY = WorkloadKey(app="shop", release=1, process="web")


async def tell_nobody(_: str, __: float) -> None:
    """A start of which nobody wants to know."""


def test_ports_rest() -> None:
    """A released port is not given out again before its rest is over."""
    now = 0.0
    pool = PortPool(60.0, 20000, 20001, clock=lambda: now, free=lambda _: True)
    first = pool.take()
    pool.release(first)
    assert pool.take() != first
    with pytest.raises(EngineError, match="no free port in 20000-20001"):
        pool.take()
    now = 61.0
    assert pool.take() == first


def test_ports_that_others_hold() -> None:
    """A port on which somebody listens is not free; a restarted instance then gets another."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert not is_free(port)
        kept = PortPool(0.0, 20000, 20100).keep(port)
        assert kept != port
    assert is_free(port)


def test_delays_grow_to_a_limit() -> None:
    """Restarts wait 0.5, 1, 2, 4 ... 60 seconds."""
    assert [Timings().delay(n) for n in (1, 2, 3, 4, 8, 9, 500)] == [0.5, 1, 2, 4, 60, 60, 60]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0, "exited with code 0 (it is meant to run on)"),
        (3, "exited with code 3"),
        (-9, "ended by SIGKILL (killed, perhaps for lack of memory)"),
        (-64, "ended by SIGRTMAX"),
        (None, "ended while nobody was there to see its exit code"),
    ],
)
def test_exit_in_words(code: int | None, said: str) -> None:
    """Exit codes and signals have names and meanings."""
    assert describe_exit(code) == said


def test_unstarted_in_words() -> None:
    """What is said of a process that never became healthy depends on where it listens and how the check failed."""
    refused = "port 20011 refused the connection"
    longer = "if it needs longer, raise `start_timeout` of [processes.web.health]"
    assert describe_unstarted("web", 20011, refused, 60, ["0.0.0.0:5000"]) == (
        "did not listen on PORT 20011 within 60 s (it listens on 0.0.0.0:5000); let it listen on $PORT"
    )
    silent = describe_unstarted("web", 20011, refused, 60, [])
    assert silent.endswith(f"(it listens on no port); let it listen on $PORT, or {longer}")
    assert describe_unstarted("web", 20011, refused, 60, ["[::1]:20011"]).endswith(
        f"(it listens on [::1]:20011); {longer}"
    )
    assert describe_unstarted("web", 20011, "GET / answered 500", 5, ["127.0.0.1:20011"]) == (
        f"did not become healthy within 5 s: GET / answered 500; {longer}"
    )


def test_what_a_start_still_lacks_names_other_ports() -> None:
    refused = "port 20011 refused the connection"
    assert describe_starting(20011, refused, ["0.0.0.0:5000"]) == (
        "starting: it listens on 0.0.0.0:5000 and not on PORT 20011 so far; let it listen on $PORT"
    )
    assert describe_starting(20011, refused, []) == "starting: it does not listen on PORT 20011 yet"
    assert describe_starting(20011, refused, ["[::1]:20011"]) == f"starting: {refused} (it listens on [::1]:20011)"
    assert describe_starting(20011, "GET / answered 500", ["[::1]:20011"]) == "starting: GET / answered 500"


def test_last_lines_of_this_run(tmp_path: Path) -> None:
    """Only what this run wrote is quoted, errors last, blank lines left out, long ones cut."""
    (tmp_path / "stderr").write_text("old\n" + "x" * 300 + "\n\nnew\n")
    (tmp_path / "stdout").write_text("hello\n")
    lines = read_last_lines(tmp_path, {"stderr": 4})
    assert [len(line) for line in lines] == [5, 200, 3]
    assert lines[-1] == "new"


def test_files_that_were_written_are_told_from_copies(tmp_path: Path) -> None:
    """New, changed and replaced ones, the first few by name; no cache, and no link, such as one to a mount."""
    image, own = tmp_path / "image", tmp_path / "own"
    (image / "lib").mkdir(parents=True)
    for name in ("app.py", "lib/a.py", "lib/b.py"):
        (image / name).write_text("x")
    (image / "link").symlink_to("app.py")
    copy_tree(image, own)
    assert find_written(own, image) == ()
    (own / "__pycache__").mkdir()
    (own / "__pycache__" / "app.pyc").write_text("x")
    (own / "lib" / "b.py").write_text("longer")
    (own / "lib" / "a.py").unlink()
    (own / "lib" / "a.py").write_text("y")
    (own / "data").symlink_to(tmp_path)
    (own / "new\x1b").mkdir()
    (own / "new\x1b" / "db").write_text("x")
    assert find_written(own, image) == ("lib/a.py", "lib/b.py", "new\\x1b/db")
    (own / "before").write_text("x")
    (own / "empty").mkdir()
    assert find_written(own, image) == ("before", "lib/a.py", "lib/b.py")


@pytest.mark.parametrize("command", ["python app.py", "gunicorn -b :$PORT app:wsgi", "./run.sh 'a b'"])
def test_plain_commands_replace_their_shell(command: str) -> None:
    """One program is exec'd."""
    assert exec_plain(command) == f"exec {command}"


@pytest.mark.parametrize(
    "command", ["a && b", "A=1 python x", "exit 3", "cd x; y", "a | b", "exec x", "(a)", "a\nb", " "]
)
def test_other_commands_keep_their_shell(command: str) -> None:
    """Anything that needs the shell is left as it is."""
    assert exec_plain(command) == command


def test_default_checks() -> None:
    """A routed process must accept connections; any other is fine as long as it runs."""
    tcp = Check(tcp=True)
    assert Checks.of(Process(command="x"), routed=True) == Checks(tcp, tcp, None)
    assert Checks.of(Process(command="x"), routed=False) == Checks(None, None, None)
    http = Check(http="/up")
    assert Checks.of(Process(command="x", health=Health(readiness=http)), routed=True) == Checks(http, http, None)
    assert not Checks.of(Process(command="x", health=Health(liveness=Check(command="y"))), routed=False).need_port


class Script:
    """Answers checks from a list, then with its last entry."""

    def __init__(self, *answers: str | Unknown | None) -> None:
        self.answers = list(answers)

    async def __call__(self, check: Check) -> str | None:
        await asyncio.sleep(0)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Unknown):
            raise answer
        return answer


QUICK = Check(tcp=True, interval=0.001, healthy_after=2, unhealthy_after=3)


async def test_passing_needs_answers_in_a_row() -> None:
    """Start-up passes after `healthy_after` good answers in a row; else the last fault comes back at the limit."""
    timings = Timings(first_probe=0.001)
    script = Script(None, "no", None, None)
    assert await await_passing(QUICK, script, 5.0, timings, tell_nobody) is None
    assert len(script.answers) == 1
    assert await await_passing(QUICK, Script("refused"), 0.05, timings, tell_nobody) == "refused"


async def test_a_start_that_takes_long_is_told_of_more_and_more_rarely() -> None:
    """From the first word on each has twice the time of the one before."""
    told: list[tuple[str, float]] = []

    async def tell(fault: str, waited: float) -> None:
        told.append((fault, waited))

    timings = Timings(first_probe=0.001, slowest_start_probe=0.001, first_word=0.01)
    await await_passing(QUICK, Script("refused"), 0.3, timings, tell)
    assert 1 <= len(told) <= 5
    assert all(fault == "refused" and waited >= 0.01 * 2**n for n, (fault, waited) in enumerate(told))


async def test_readiness_thresholds() -> None:
    """Two bad answers are not enough to go out when three are asked for."""
    told: list[bool] = []
    script = Script("a", "b", None, "c", "d", "e", None, None, None)
    task = asyncio.create_task(follow_readiness(QUICK, script, True, lambda ready, _: told.append(ready)))
    async with asyncio.timeout(5):
        while len(told) < 2:
            await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert told == [False, True]


async def test_liveness_threshold() -> None:
    """The restart is asked for at the third bad answer in a row, with its fault."""
    said = await await_dead(QUICK, Script("a", "b", None, "c", "d", "e"))
    assert said == "liveness check failed 3 times in a row: e"


async def test_what_is_unknown_is_neither_good_nor_bad() -> None:
    """Whatever is counted, answers that say nothing are left out of the row."""
    unknown = Unknown("the node agent was too busy to ask")
    assert await await_passing(QUICK, Script(None, unknown, None), 5.0, Timings(first_probe=0.001), tell_nobody) is None
    assert await await_passing(QUICK, Script(unknown), 0.05, Timings(first_probe=0.001), tell_nobody) == str(unknown)
    said = await await_dead(QUICK, Script("a", unknown, "b", unknown, unknown, None, "c", "d", unknown, "e"))
    assert said == "liveness check failed 3 times in a row: e"
    told: list[bool] = []
    script = Script("a", unknown, "b", *[unknown] * 10, None, "c", unknown, "d", "e")
    task = asyncio.create_task(follow_readiness(QUICK, script, True, lambda ready, _: told.append(ready)))
    async with asyncio.timeout(5):
        while not told:
            await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert script.answers == ["e"]


async def test_a_check_that_the_agent_made_too_late_is_unknown() -> None:
    """A server that answers nothing fails in time; the same while the loop stood still says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = Target(silent.getsockname()[1], Path(), {})
        prober = Prober()
        pulse = asyncio.create_task(prober.lag.watch())
        check = Check(http="/", timeout=1.0)
        said = await prober.ask(check, target)
        assert said is not None
        assert said.endswith("got no answer within 1 s")
        asyncio.get_running_loop().call_later(0.1, time.sleep, 0.6)
        with pytest.raises(Unknown, match="too busy"):
            await prober.ask(check, target)
        pulse.cancel()
        await asyncio.gather(pulse, return_exceptions=True)
        await prober.close()


@pytest.mark.parametrize("check", [Check(tcp=True), Check(http="/"), Check(command="true")], ids=["tcp", "http", "cmd"])
async def test_a_check_that_cannot_be_made_says_nothing(tmp_path: Path, check: Check) -> None:
    """An agent without descriptors takes no instance out of rotation; a refused connection is a fault all the same."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        writer.close()

    prober = Prober()
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        target = Target(server.sockets[0].getsockname()[1], tmp_path, {})
        assert await prober.ask(check, target) is None
        with without_descriptors(), pytest.raises(Unknown, match="could not ask: Too many open files"):
            await prober.ask(check, target)
        assert await prober.ask(check, target) is None
    if check.command is None:
        assert await prober.ask(check, target) is not None
    await prober.close()


def test_what_cannot_be_kept_now_is_kept_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removals, too; one that still cannot be done holds up no other."""
    state, broken = NodeState(tmp_path), {"a.v1.web.json", ".b.v1.web.json.new"}
    wanted = {
        app: Desired(
            workload=Workload(
                key=WorkloadKey(app=app, release=1, process="web"), team="t", count=1, image="i",
                process=Process(command="x"), env={},
            )
        )
        for app in ("a", "b", "c")
    }  # fmt: skip
    state.write_desired(wanted["a"])
    unlink, opened = Path.unlink, os.open

    def refuse(path: object) -> None:
        if Path(str(path)).name in broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def refuse_unlink(path: Path, missing_ok: bool = False) -> None:
        refuse(path)
        unlink(path, missing_ok)

    def refuse_open(path: str, flags: int, mode: int = 0o777) -> int:
        refuse(path)
        return opened(path, flags, mode)

    monkeypatch.setattr(Path, "unlink", refuse_unlink)
    monkeypatch.setattr(os, "open", refuse_open)
    state.delete_desired(wanted["a"].workload.key)
    state.write_desired(wanted["b"])
    state.write_desired(wanted["c"])
    assert state.read_desired() == [wanted["a"], wanted["c"]]
    broken.remove(".b.v1.web.json.new")
    with pytest.raises(OSError, match="Input/output"):
        state.catch_up()
    assert state.read_desired() == [wanted["a"], wanted["b"], wanted["c"]]
    broken.clear()
    state.catch_up()
    assert state.read_desired() == [wanted["b"], wanted["c"]]


def test_folders_are_named_where_an_image_has_them() -> None:
    """In all that the image's environment says of them, and nowhere else."""
    env = {"PATH": "/r/venv/bin:/usr/bin", "VIRTUAL_ENV": "/r/venv", "OTHER": "/r/venv2:/x/r/venv"}
    root = RunRoot(Path("/r/app"), env, (Path("/r/venv"),), ((Path("/r/venv"), "/opt/venv"),))
    assert put_in_place(root).env == {
        "PATH": "/opt/venv/bin:/usr/bin", "VIRTUAL_ENV": "/opt/venv", "OTHER": "/r/venv2:/x/r/venv",
    }  # fmt: skip


async def test_changes_coalesce() -> None:
    """A slow watcher gets each changed name once; none is lost from the first word on."""
    changes = Changes()
    watch = changes.watch(0.01)
    assert await anext(watch) == [""]
    changes.notify("shop")
    assert await anext(watch) == ["shop"]
    assert await anext(watch) == []
    for _ in range(1000):
        changes.notify("shop")
    changes.notify("blog")
    assert await anext(watch) == ["shop", "blog"]
    await watch.aclose()


def test_state_is_private_and_survives_damage(tmp_path: Path) -> None:
    """Files are 0600; a damaged one is reported and left, the others are read; unsafe names are refused."""
    state = NodeState(tmp_path)
    workload = Workload(key=KEY, team="t", count=1, image="i", process=Process(command="x"), env={"A": "b"})
    state.write_desired(Desired(workload=workload))
    (state.workloads / "damaged.json").write_text("{")
    assert [d.workload for d in state.read_desired()] == [workload]
    assert (state.workloads / "shop.v1.web.json").stat().st_mode & 0o777 == 0o600
    assert (state.workloads / "damaged.json").exists()
    with pytest.raises(EngineError, match="cannot name"):
        state.instance_folder("../../etc")


def test_records_round_trip(tmp_path: Path) -> None:
    """Records come back as written; a folder that never got one is swept away."""
    state = NodeState(tmp_path)
    now = datetime.now(UTC)
    record = Record(
        instance=Instance(id="shop-v1-web-1", key=KEY, node="n", state=InstanceState.PENDING, created_at=now)
    )
    state.instance_folder(record.instance.id).mkdir()
    state.write_record(record)
    (empty := state.instance_folder("shop-v1-web-2")).mkdir()
    assert list(state.read_records()) == [record]
    assert not empty.exists()


def test_folders_that_resist_go_too(tmp_path: Path) -> None:
    """What an app made unreadable is removed; what its links point to is not touched."""
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    folder = tmp_path / "instance"
    (folder / "closed" / "deep").mkdir(parents=True)
    (folder / "link").symlink_to(outside)
    (folder / "closed").chmod(0)
    remove_tree(folder)
    assert not folder.exists()
    assert outside.stat().st_mode & 0o777 == 0o755
    remove_tree(folder)


def test_folders_deeper_than_any_path_go_too(tmp_path: Path) -> None:
    """An app makes them in a moment; Python's own way to remove them runs out of stack."""
    folder = tmp_path / "instance"
    code = "import os, sys\nfor _ in range(3000):\n    os.mkdir('x' * 9)\n    os.chdir('x' * 9)"
    folder.mkdir()
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    remove_tree(folder)
    assert not folder.exists()

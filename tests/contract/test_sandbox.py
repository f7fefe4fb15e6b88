"""Commands as users of their own, begun by the real kernel; the guard of ports, likewise."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from seaway.engine.local.guard import OURS, Op, PortGuard, assemble
from seaway.home import Home
from seaway.sandbox.cgroups import ENTER, Cgroups
from seaway.sandbox.sandbox import ORDINARY, Sandbox, TrialError, open_sandbox
from seaway.sandbox.view import View, enter, make_place
from tests.disk import FILLER, as_root, fill, small_disk
from tests.ports import free_port

USER = 1999999999
CONNECTS = "socket.create_connection(('{host}', {port}), 3)"
BINDS = "socket.socket(socket.AF_INET{version}).bind(('{host}', {port}))"


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    made, why = open_sandbox(Home(tmp_path / "home").create())
    assert made is not None, why
    return made


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that all users may enter."""
    with TemporaryDirectory(dir="/run", prefix="seaway-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def run(view: View, command: str, workdir: Path = Path("/"), **env: str) -> subprocess.CompletedProcess[str]:
    fd = view.seal(["/bin/sh", "-c", command], workdir, {"PATH": os.defpath, **env})
    try:
        return subprocess.run(enter(fd), pass_fds=(fd,), env={}, capture_output=True, text=True, timeout=30)
    finally:
        os.close(fd)


def make_view(sandbox: Sandbox, folder: Path) -> View:
    (folder / "own").mkdir(parents=True)
    view = sandbox.make_view("app/shop", folder, [folder / "own"], [Path(sys.base_prefix)])
    os.chown(folder / "own", view.user, view.user)
    return view


@as_root
def test_what_a_command_is_and_sees(sandbox: Sandbox, tmp_path: Path) -> None:
    """A user with a name and no rights, whose own folders alone can be written to; of the home only those are there."""
    folder = tmp_path / "home" / "node" / "x"
    view = make_view(sandbox, folder)
    (tmp_path / "home" / "admin.token").write_text("secret")
    done = run(view, "id -un; id -u; id -G; ls .; touch own/file /tmp/file && cat ../../admin.token", folder)
    assert done.stdout.split() == ["app", str(view.user), str(view.user), "own"]
    assert "No such file or directory" in done.stderr
    assert (folder / "own" / "file").stat().st_uid == view.user
    assert sandbox.find_shared("app/shop").joinpath("file").exists()
    rights = run(view, "grep -E '^(Cap|NoNewPrivs|SigIgn)' /proc/self/status")
    values = dict(line.split(":\t") for line in rights.stdout.splitlines())
    assert values.pop("NoNewPrivs") == "1"
    ignored = int(values.pop("SigIgn"), 16)
    assert not any(ignored >> number - 1 & 1 for number in (signal.SIGPIPE, signal.SIGXFSZ)), "as Python does"
    assert {values[name] for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {"0" * 16}


@as_root
def test_a_folder_is_seen_where_an_image_has_it(sandbox: Sandbox, tmp_path: Path, open_folder: Path) -> None:
    """Read-only, and by this command alone; where other users cannot get, nothing can be seen."""
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "file").write_text("there")
    place = open_folder / "opt" / "venv"
    assert make_place(str(place))
    assert not make_place(str(tmp_path / "venv")), "pytest's folders are its own"
    assert not make_place("/proc/nowhere")
    view = make_view(sandbox, tmp_path / "home" / "node" / "x")
    view = replace(view, files=(*view.files, (str(tmp_path / "venv"), str(place))))
    done = run(view, f"cat {place}/file; touch {place}/own")
    assert (done.stdout, "Read-only file system" in done.stderr) == ("there", True)
    assert list(place.iterdir()) == []


@as_root
def test_shared_memory_is_bounded(sandbox: Sandbox, tmp_path: Path) -> None:
    """Each command has its own, and is told that it is full."""
    view = make_view(sandbox, tmp_path / "home" / "node" / "x")
    done = run(view, "df -B1 --output=size /dev/shm | tail -n 1; head -c 300M /dev/zero > /dev/shm/file; ls /dev/shm")
    assert done.stdout.split() == [str(256 << 20), "file"]
    assert "No space left on device" in done.stderr
    assert run(view, "ls /dev/shm").stdout == ""


@as_root
def test_a_command_that_cannot_begin_says_why(sandbox: Sandbox, tmp_path: Path) -> None:
    """With the exit code that shells have for it."""
    done = run(make_view(sandbox, tmp_path / "home" / "node" / "x"), "true", Path("/nowhere"))
    assert done.returncode == 126
    assert done.stderr == (
        "seaway: the command cannot be started as the app's own user: No such file or directory (/nowhere)\n"
    )


@as_root
def test_its_environment_is_not_that_of_what_begins_it(sandbox: Sandbox, tmp_path: Path) -> None:
    """LD_PRELOAD of an app works on the app, as the app's user, and on nothing of root's."""
    done = run(make_view(sandbox, tmp_path / "home" / "node" / "x"), "id -u", LD_PRELOAD="/nowhere.so")
    assert done.stdout.strip() != "0"
    assert done.stderr.count("/nowhere.so") == 2, "the shell and id"


@as_root
def test_a_machine_that_cannot_is_told_apart(tmp_path: Path) -> None:
    """It is tried; what the kernel refuses is the reason. Where it once could, nothing begins without it any more."""
    home = Home(tmp_path / "home").create()
    code = "import sys; from seaway.home import Home; from seaway.sandbox.sandbox import open_sandbox as o; "
    code += "sandbox, why = o(Home.find()); print(sandbox is not None, why)"
    refused = ["setpriv", "--inh-caps", "-sys_admin", "--bounding-set", "-sys_admin", sys.executable, "-c", code]

    def ask(*command: str) -> str:
        env = {**os.environ, "SEAWAY_HOME": str(home.root)}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.strip()

    why = "the command cannot be started as the app's own user: Operation not permitted (unshare)"
    assert ask(*refused) == f"False seaway: {why}"
    assert ask(sys.executable, "-c", code) == "True"
    assert ask(*refused) == "True"


@pytest.fixture
def small_home(tmp_path: Path) -> Iterator[Home]:
    """A home on a file system of 64 KiB."""
    (root := tmp_path / "home").mkdir()
    with small_disk(root, "64k"):
        yield Home(root).create()


@as_root
@pytest.mark.parametrize("want", ["of time", "of space", "of files", "of the program"])
def test_a_want_is_no_refusal(small_home: Home, want: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An app that keeps the machine busy or its disk full does not become root: it is told later."""
    said = {
        "of time": "a first command did not begin within 0.001 s", "of space": "No space left on device",
        "of files": "Too many open files", "of the program": "/nowhere.py",
    }  # fmt: skip
    with monkeypatch.context() as now:
        if want == "of time":
            now.setattr("seaway.sandbox.sandbox.PROBE_LIMIT", 0.001)
        elif want == "of space":
            fill(small_home.root)
        elif want == "of the program":
            now.setattr("seaway.sandbox.view.ENTER", Path("/nowhere.py"))
        else:
            few = ["/bin/sh", "-c", 'ulimit -n 5; exec "$@"', "few"]
            now.setattr("seaway.sandbox.sandbox.enter", lambda fd: [*few, *enter(fd)])
        with pytest.raises(TrialError, match=re.escape(said[want])):
            open_sandbox(small_home)
    (small_home.root / FILLER).unlink(missing_ok=True)
    assert open_sandbox(small_home)[0] is not None


def test_an_ordinary_user_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is told what would help."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert open_sandbox(Home(tmp_path / "home").create()) == (None, ORDINARY)


def test_jumps_are_relative() -> None:
    """To the instruction after their label, from the one after themselves."""
    code = assemble([Op(0x05, to="end"), Op(0xB7, imm=7), "end", Op(0x95)])
    assert [code[n : n + 8].hex() for n in range(0, len(code), 8)] == [
        "0500010000000000", "b700000007000000", "9500000000000000",
    ]  # fmt: skip


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Cgroups]:
    """The control groups of a home, one of them guarded and called x."""
    cgroups = Cgroups.open(tmp_path)
    assert cgroups is not None
    yield cgroups
    cgroups.remove("x")
    cgroups.close()


@as_root
@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
def test_ports_of_others(group: Cgroups, host: str) -> None:
    """An app neither binds nor reaches another's port on loopback; it reaches Seaway's, and does not bind them."""
    guard, own, others, ours, nobodys = PortGuard(), *(free_port() for _ in range(4))
    procs = group.make("x")
    guard.attach(group.create())
    for port, user in ((own, USER), (others, USER + 1), (ours, OURS)):
        guard.keep(port, user)
    guard.attach(group.create())  # as the next agent does

    def works(program: str, port: int) -> bool:
        code = "import encodings.idna, os, socket; os.setgid({user}); os.setuid({user}); " + program
        words = code.format(user=USER, host=host, port=port, version="6" if ":" in host else "")
        command = ["/bin/sh", "-c", f'{ENTER}; exec "$@"', str(procs), sys.executable, "-c", words]
        return subprocess.run(command, capture_output=True).returncode == 0

    binds = {port: works(BINDS, port) for port in (own, others, ours, nobodys)}
    assert binds == {own: True, others: False, ours: False, nobodys: True}
    everywhere = "::" if ":" in host else "0.0.0.0"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    servers = [socket.create_server((everywhere, port), family=family, dualstack_ipv6=":" in host) for port in binds]
    try:
        connects = {port: works(CONNECTS, port) for port in binds}
        assert connects == {own: True, others: False, ours: True, nobodys: True}
        guard.release(others)
        guard.release(others)
        assert works(CONNECTS, others)
    finally:
        for server in servers:
            server.close()
        guard.close()

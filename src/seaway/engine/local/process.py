"""One process group of the user's, started so that it and its exit code outlive the agent.

The group's leader is a small shell that runs the user's command and writes its exit code to a file; output goes to
named pipes that the agent's collector empties. An agent that comes back finds the leader by pid, start time and command
line. While there is none, a leader whose command has ended stays: it holds the pipes, and with them the last words.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seaway.engine.local.kin import KILL_LIMIT, POLL, Kin
from seaway.engine.local.state import Launched
from seaway.sandbox.procs import FILES, list_stats, read_stat, read_user, send
from seaway.sandbox.view import ENTER, View, enter

WRAPPER = """trap : TERM INT HUP QUIT USR1 USR2
umask 022
ulimit -S -n "$5"
cd -- "$2" || { echo 126 >"$3"; exit; }
exec 3>&2 2>/dev/null
echo 500 >/proc/self/oom_score_adj
for group in $6; do
  echo 0 >"$group" || { echo "seaway: the command cannot be put into its control group" >&3; echo 126 >"$3"; exit; }
done
(exec /bin/sh -c "$1" 2>&3 3>&- 9>&-)
echo $? >"$3"
exec 9>&-
[ -n "$6" ] || : <"$7"
: >"$4"
"""
"""The leader. It outlives signals to the group; in the command the traps are back at their defaults.

Its own remarks ("Terminated") are not the app's output: dash redirects itself while it runs a simple command, hence the
subshell. $6 is how it enters its control groups (`Kin.admit`). Without any it is a subreaper, says by closing
descriptor 9 that the command has ended, and stays until it is killed with what that left: it waits for somebody who
writes to its own named pipe ($7), which nobody ever does. The last line opens the agent's named pipe (`open_presence`),
which waits for an agent if there is none. Where a machine has no memory left, apps go before all else (choom(1)).
"""

BECOME_SUBREAPER = """import ctypes, os, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""PR_SET_CHILD_SUBREAPER outlives exec, and nothing but the process itself can set it."""

PLAIN_COMMAND = re.compile(r"[^;&|()<>`\n]+")
SHELL_WORDS = frozenset(
    """! . : [ alias bg break case cd chdir command continue do done echo elif else esac eval exec exit export false fg
    fi for getopts hash if jobs kill local printf pwd read readonly return set shift test then times trap true type
    ulimit umask unalias unset until wait while { }""".split()  # noqa: SIM905 - a list would fill the page
)
"""dash's own words; what they begin cannot be exec'd."""

STREAMS = ("stdout", "stderr")

VIEW_FD = 8  # holds what the command becomes and sees, if that is a view of its own
ENTERING = f"/{ENTER.name} {VIEW_FD}".encode()  # how it begins then
HELD, HELD_FD = "held", 9  # a named pipe that a subreaper holds open while its command runs
PIPE = os.O_RDWR  # for reading too: writing neither fails nor signals while nobody else reads
OWN_NAMES = tuple(f"SEAWAY_{name}" for name in ("APP", "RELEASE", "PROCESS", "INSTANCE", "NODE"))
"""What only the platform sets (Machine.make_env)."""

GRACE_POLL = 0.1  # between looks for processes that outlive their leader


@dataclass(frozen=True)
class Ends:
    """What a command opens as standard input, output and error: paths."""

    stdin: str
    stdout: str
    stderr: str
    is_terminal: bool = False

    @classmethod
    def of_pipes(cls, folder: Path, kind: str = "pipe", stdin: str = os.devnull) -> Ends:
        """Return the named pipes of a kind that are in a folder, and what is read besides."""
        return cls(stdin, str(folder / f"stdout.{kind}"), str(folder / f"stderr.{kind}"))

    @classmethod
    def of_terminal(cls, path: str) -> Ends:
        """Return a terminal; it becomes the one that controls the session."""
        return cls(path, path, path, is_terminal=True)

    @property
    def own(self) -> set[str]:
        """The paths that are nobody else's."""
        return {self.stdin, self.stdout, self.stderr} - {os.devnull}


def exec_plain(command: str) -> str:
    """Let a command that is one program replace its shell: signals and exit code are then the program's own."""
    first = command.split(maxsplit=1)[0] if command.strip() else "="
    plain = PLAIN_COMMAND.fullmatch(command) and first not in SHELL_WORDS and "=" not in first
    return f"exec {command}" if plain else command


def launch(
    folder: Path,
    run: int,
    command: str,
    workdir: Path,
    env: Mapping[str, str],
    *,
    ends: Ends | None = None,
    presence: str = os.devnull,
    admission: str = "",
    view: View | None = None,
) -> Launched:
    """Start the command in a session of its own; without `ends` it reads nothing and writes to the pipes in `folder`.

    They are there (OutputCollector.follow); `presence` is the agent's own (`open_presence`), `admission` what
    `Kin.admit` returned. posix_spawn and not fork: a big agent would pause for its page tables. Nothing but the
    command, the work folder and some files is in argv. With a view the leader stays ours, out of the app's reach, and
    gets none of its environment, in which LD_PRELOAD may stand.
    """
    marks = {stream: _size(folder / stream) for stream in STREAMS}
    ends = ends or Ends.of_pipes(folder)
    reads = os.O_RDWR if ends.is_terminal else os.O_RDONLY
    actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_OPEN, 0, ends.stdin, reads, 0)]
    actions += [(os.POSIX_SPAWN_OPEN, fd, path, PIPE, 0) for fd, path in ((1, ends.stdout), (2, ends.stderr))]
    argv = ["/bin/sh", "-c", WRAPPER, "seaway-instance"]
    (held := folder / HELD).unlink(missing_ok=True)
    command = exec_plain(command)
    sealed: int | None = None
    if view is not None:
        sealed = view.seal(["/bin/sh", "-c", command], workdir, env)
        actions.append((os.POSIX_SPAWN_DUP2, sealed, VIEW_FD))
        for path in ends.own:
            os.chown(path, view.user, view.user)  # it may open /dev/stdout again
        own = {name: env[name] for name in OWN_NAMES if name in env}
        command, env = f"exec {shlex.join(enter(VIEW_FD))}", {**own, "TMPDIR": str(folder / "tmp")}
    argv += [command, str(workdir), str(exit_file(folder, run)), presence, str(FILES), admission, str(held)]
    if not admission:
        os.mkfifo(held, 0o600)
        actions.append((os.POSIX_SPAWN_OPEN, HELD_FD, str(held), PIPE, 0))
        argv = [sys.executable, "-I", "-S", "-c", BECOME_SUBREAPER, *argv]
    try:
        pid = os.posix_spawn(
            argv[0], argv, dict(env), file_actions=actions, setsid=True,
            setsigmask=[], setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT, signal.SIGHUP],
        )  # fmt: skip
    finally:
        if sealed is not None:
            os.close(sealed)
    stat = read_stat(pid)
    return Launched(run=run, pid=pid, birth=stat.birth if stat else None, marks=marks)


def open_presence(path: Path) -> int:
    """Let leaders go whose command has ended, now and as long as the descriptor is open; it closes with the agent."""
    if not path.is_fifo():
        path.unlink(missing_ok=True)
        os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def exit_file(folder: Path, run: int) -> Path:
    """Return where the leader of this run writes the exit code."""
    return folder / f"exit.{run}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _read_leader(pid: int) -> list[bytes]:
    """Return the argv of a leader (or of its fork that has not yet become the command); [] for any other process.

    An app may call itself so, too; where it has a user id of its own, that tells.
    """
    argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    is_leader = len(argv) > 8 and argv[3] == b"seaway-instance" and read_user(pid) == os.geteuid()
    return argv if is_leader else []


class LeaderIndex:
    """Leaders that run now by their exit file: finds one whose pid a killed agent had no time to write down."""

    def __init__(self, kin: Kin) -> None:
        self._kin = kin
        self._found: dict[str, tuple[int, bool]] = {}
        for stat in list_stats():
            with suppress(OSError):
                argv = _read_leader(stat.pid)
                if argv:
                    self._found[os.fsdecode(argv[6])] = stat.pid, argv[4].endswith(ENTERING)

    @property
    def pids(self) -> frozenset[int]:
        """The leaders there were, of whatever home."""
        return frozenset(pid for pid, _ in self._found.values())

    def adopt(self, folder: Path, launched: Launched) -> Group | None:
        """Return the group of that run if its leader lives."""
        pid, confined = self._found.get(str(exit_file(folder, launched.run)), (None, True))
        if pid is None:
            return None
        stat = read_stat(pid)
        if stat is None or (launched.pid == pid and launched.birth not in (None, stat.birth)):
            return None
        with suppress(ProcessLookupError):
            return Group(
                folder, launched.model_copy(update={"pid": pid, "birth": stat.birth}), self._kin, confined=confined
            )
        return None


class Group:
    """A started process group. Its command's end is noticed at once, be its leader our child or not.

    `confined`: whether it was started with a view, if the agent gives any.
    """

    def __init__(self, folder: Path, launched: Launched, kin: Kin, *, confined: bool = True) -> None:
        assert launched.pid is not None
        self.folder = folder
        self.launched = launched
        self.pid: int = launched.pid
        self.confined = confined
        self._kin = kin
        self._status: int | None = None
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        self._pidfd: int | None = os.pidfd_open(self.pid)
        loop.add_reader(self._pidfd, self._on_end)
        self._held: int | None = None
        with suppress(FileNotFoundError):
            self._held = os.open(folder / HELD, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            loop.add_reader(self._held, self._on_released)
            loop.call_soon(self._on_released)  # where it was let go before, nothing tells of it

    def _on_released(self) -> None:
        """A subreaper may have let go: its command has ended, whatever that left."""
        if self._held is None:
            return
        with suppress(BlockingIOError):
            if os.read(self._held, 1) == b"":
                self._let_go()
                if exit_file(self.folder, self.launched.run).exists():  # else it was killed, which its end tells
                    self._note_end()

    def _on_end(self) -> None:
        self.detach()
        with suppress(ChildProcessError):  # adopted: somebody else's child
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        self._note_end()

    def _note_end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _let_go(self) -> None:
        if self._held is not None:
            asyncio.get_running_loop().remove_reader(self._held)
            os.close(self._held)
            self._held = None

    def detach(self) -> None:
        """Stop watching; the group runs on."""
        self._let_go()
        if self._pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    @property
    def ended(self) -> bool:
        """Whether the command has ended."""
        return self._ended.done()

    async def wait(self) -> None:
        """Return once the command has ended."""
        await asyncio.shield(self._ended)

    def exit_code(self) -> int | None:
        """Return the command's exit code (-N: signal N); None if nobody was there to see it."""
        code = read_exit_code(self.folder, self.launched.run)
        return code if code is not None else self._status if self._status and self._status < 0 else None

    async def _await_command(self) -> None:
        """Return once the leader has started the command (or is gone): a signal before that is lost in its traps."""
        while not self.ended:
            for stat in list_stats():
                with suppress(OSError):
                    if stat.parent == self.pid and not _read_leader(stat.pid):
                        return
            await asyncio.sleep(POLL)

    def signal(self, number: int) -> None:
        """Send a signal to the group, if it is still there."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    async def stop(self, grace: float, instance_id: str) -> bool:
        """SIGTERM, wait up to `grace` seconds, then SIGKILL what is left; return whether it ended by itself.

        Without a grace, SIGKILL alone: how the command ends is then no race between the two. The grace is for every
        process: a shell in between may die of SIGTERM before the app has finished.
        """
        gentle = True
        if not self.ended:
            try:
                async with asyncio.timeout(grace):
                    if grace <= 0:
                        raise TimeoutError
                    await self._await_command()
                    self.signal(signal.SIGTERM)
                    others = self._kin.find(instance_id, self.launched)
                    send(signal.SIGTERM, (member for member in others if member.group != self.pid))
                    send(signal.SIGCONT, others)  # as systemd does: what is stopped hears it, too
                    await self.wait()
                    while not self._kin.is_over(instance_id, self.launched):
                        await asyncio.sleep(GRACE_POLL)
            except TimeoutError:
                gentle = False
                self._status = -signal.SIGKILL  # unless the leader has written otherwise
        await self._kin.sweep(instance_id, self.launched)
        if not self.ended:
            with suppress(TimeoutError):
                async with asyncio.timeout(KILL_LIMIT):
                    await self.wait()
        return gentle


def read_exit_code(folder: Path, run: int) -> int | None:
    """Return the exit code that the leader wrote; codes over 128 that stand for a signal become -N."""
    try:
        text = exit_file(folder, run).read_text().strip()
    except FileNotFoundError:
        return None
    if not text.isdigit():
        return None
    code = int(text)
    return 128 - code if 128 < code <= 128 + 64 else code

"""seaway run: one command with an app's image and config."""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import shlex
import signal
import stat
import struct
import sys
import termios
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Annotated, NoReturn

import typer

from seaway.cli.client import FIRST_PAUSE, LONGEST_PAUSE, Api, Doc, Patience, cancelling
from seaway.cli.errors import ApiError, CliError, ExitCode, Unreachable, UsageError
from seaway.cli.logline import is_partial, own_text
from seaway.cli.session import AppOption, OutputOption, command, connect, parse_seconds
from seaway.cli.show import Output, dig, print_json, print_json_line, print_note, print_text, seconds_text, version
from seaway.cli.streaming import CommandOutput
from seaway.cli.target import find_app
from seaway.cli.waiting import POLL
from seaway.model.quoting import MARK

SILENCE = 8.0  # seconds without a sign of life until a leader counts as hung; it sends one every 2 s
KILL_LIMIT = 2.0  # seconds for an interrupted request to start the command to be answered, so that it can be killed
PATIENT = 5.0  # seconds for which nobody is told why a command has not started yet
LONGEST_STDIN = 512 * 1024  # bytes; the API's own limit
SIGNAL_BASE = 128  # a command ended by signal N exits with 128 + N, as in a shell


def add(root: typer.Typer) -> None:
    """Add `run` to the root command; options after CMD are CMD's own."""
    settings = {"allow_interspersed_args": False, "ignore_unknown_options": False}
    root.command("run", context_settings=settings)(run)


@command
async def run(
    words: Annotated[list[str], typer.Argument(metavar="CMD...", help="A command, or one quoted shell line.")],
    *,
    app: AppOption = None,
    stdin: Annotated[
        bool, typer.Option("--stdin", "-i", help="Read standard input to its end, at most 512 KiB, and pass it on.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Print its id and return; it runs on, at most as long as --timeout.")
    ] = False,
    timeout: Annotated[
        float,
        typer.Option("--timeout", parser=parse_seconds, metavar="TIME", help="Kill it after this long (90, 5m, 1h)."),
    ] = 600.0,
    output: OutputOption = Output.TEXT,
) -> None:
    """Run a command with image and config of the release that serves, or of the newest if none does.

    The exit code is the command's own.

    Its output is streamed, standard error apart from standard output. It ends with this command line, however that
    ends: by Ctrl-C, with the terminal or whoever reads its output (`| head`), even by kill -9. Options come before CMD.
    """
    app = find_app(app)
    line = words[0] if len(words) == 1 else shlex.join(words)
    body: Doc = {"command": line, "timeout": timeout, "attached": not detach}
    if stdin:
        body["stdin"] = b64encode(_read_stdin()).decode()
    elif _has_input():
        print_note("seaway: standard input is not passed on to the command; with -i it is")
    async with connect() as api:
        with _ended_by(signal.SIGTERM, signal.SIGHUP):
            try:
                task = await _start(api, f"/apps/{app}/run", body)
                if task.get("serves") is False:
                    print_note(
                        f"seaway: no release of {app} serves; it runs with the newest, {version(task['release'])}"
                    )
                if detach:
                    _print_detached(app, task, timeout, output)
                    return
                state = await _Run(api, app, str(task["id"]), output).follow()
            except asyncio.CancelledError as error:
                raise CliError(f"killed {line!r}", exit_code=ExitCode.INTERRUPTED, code="killed") from error
            except BrokenPipeError:
                _leave_closed_output()
    _finish(state, output)


async def _start(api: Api, path: str, body: Doc) -> Doc:
    """Start the command; if that is interrupted, kill what may have been started."""
    starting = asyncio.create_task(api.post(path, body))
    try:
        answer: Doc = await asyncio.shield(starting)
    except asyncio.CancelledError:
        with suppress(CliError, TimeoutError):
            async with asyncio.timeout(KILL_LIMIT):
                await api.call("DELETE", f"{path}/{(await starting)['id']}")
        raise
    return answer


def _print_detached(app: str, task: Doc, timeout: float, output: Output) -> None:
    if output is Output.JSON:
        print_json(task)
        return
    name = task["id"]
    print_text(name)
    print_note(
        f"seaway: it runs on, for at most {seconds_text(timeout)}; `seaway logs -f -a {app} --instance {name}` shows "
        f"its output, `seaway ps stop {name} -a {app}` kills it"
    )


def _read_stdin() -> bytes:
    data = sys.stdin.buffer.read(LONGEST_STDIN + 1)
    if len(data) > LONGEST_STDIN:
        hint = "put it where the command can fetch it, or send it in parts"
        raise UsageError(f"standard input is larger than {LONGEST_STDIN // 1024} KiB", hint=hint, field="stdin")
    return data


def _has_input() -> bool:
    """Whether somebody has piped something in that would be lost; a terminal and an idle pipe have nothing."""
    try:
        found = os.fstat(0)
        if stat.S_ISREG(found.st_mode):
            return found.st_size > os.lseek(0, 0, os.SEEK_CUR)
        return stat.S_ISFIFO(found.st_mode) and struct.unpack("i", fcntl.ioctl(0, termios.FIONREAD, b"\0" * 4))[0] > 0
    except OSError:
        return False


@contextmanager
def _ended_by(*numbers: signal.Signals) -> Iterator[None]:
    """Let these signals do what Ctrl-C does, unless they are ignored (nohup)."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    numbers = tuple(number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN)
    for number in numbers:
        loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _is_output_closed() -> bool:
    """Whether nobody can read any more what standard output is: the other end of the pipe is gone."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _leave_closed_output() -> NoReturn:
    """Exit as a command does that writes to a closed pipe, and say nothing more there."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    raise typer.Exit(SIGNAL_BASE + signal.SIGPIPE)


class _Run:
    """One task that is followed: its output is printed as it comes, each line once."""

    def __init__(self, api: Api, app: str, task: str, output: Output) -> None:
        self.api = api
        self.app = app
        self.path = f"/apps/{app}/run/{task}"
        self.output = output
        self.written = CommandOutput(api, app, {"instance": task}, self._print, Patience(print_note))
        self.patience = Patience(print_note)
        self.began = time.monotonic()
        self.waits_for = ""  # why it has not started yet
        self.told = ""  # which such reason was told last

    async def follow(self) -> Doc:
        """Return the task's last state, when it is done and all its output is printed.

        Raises BrokenPipeError once nobody reads that any more. The command is killed if this does not come to its end.
        """
        try:
            async with (
                cancelling(asyncio.create_task(self.written.follow())),
                cancelling(asyncio.create_task(self._hold())) as held,
            ):
                while not held.done():
                    if _is_output_closed():
                        raise BrokenPipeError
                    self._tell_waiting()
                    await asyncio.wait({held}, timeout=POLL)
            await self.patience.ask(self.written.show_rest)
            state: Doc = held.result()
            return state
        except (asyncio.CancelledError, BrokenPipeError):
            await self._kill()
            raise

    async def _hold(self) -> Doc:
        """Hold the command by a stream until it is done, and return its last state."""
        pause = FIRST_PAUSE
        while True:
            try:
                async with aclosing(self.api.stream(f"{self.path}/attach", silence=SILENCE)) as states:
                    async for item in states:
                        pause, state = FIRST_PAUSE, item.json()
                        self.patience.answered()
                        if dig(state, "done", False):
                            return dict(state)
                        self.waits_for = dig(state, "reason", "") if dig(state, "started_at") is None else ""
            except ApiError as error:
                if error.exit_code == ExitCode.NOT_FOUND:
                    raise self._explain_gone() from error
                if not error.passing:
                    raise
                self.patience.outage()
            except Unreachable:
                self.patience.outage()
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _explain_gone(self) -> CliError:
        hint = f"`seaway events -a {self.app}` says why"
        return CliError("the command is gone: somebody killed it, or the platform did", hint=hint, code="killed")

    def _tell_waiting(self) -> None:
        """Say once why a command that should have started by now has not, and again when that changes."""
        why = self.waits_for
        if why and why != self.told and time.monotonic() - self.began >= PATIENT:
            self.told = why
            print_note(f"seaway: it has not started yet: {why}")

    async def _kill(self) -> None:
        """Kill the command now; where that cannot be said, it ends because nobody holds it any more."""
        with suppress(CliError, TimeoutError):
            async with asyncio.timeout(KILL_LIMIT):
                await self.api.call("DELETE", self.path)

    def _print(self, line: Doc) -> None:
        if self.output is Output.JSON:
            print_json_line(line)
            return
        stream = sys.stderr if line.get("stream") == "stderr" else sys.stdout
        stream.write(own_text(line) + ("" if is_partial(line) else "\n"))
        stream.flush()


def _finish(state: Doc, output: Output) -> None:
    """Exit with the command's own code."""
    if output is Output.JSON:
        print_json_line({"task": state})
    code, reason = dig(state, "exit_code"), dig(state, "reason", "")
    if code is None:
        raise CliError(f"the command did not run: {reason}", code="not-run")
    if output is Output.TEXT and (wrote := dig(state, "wrote", [])):
        print_note(f"seaway: it wrote {', '.join(wrote)} into its own copy of the app, which is gone now")
    if code < 0 and output is Output.TEXT:
        why = reason.partition(f"; {MARK}")[0]  # what it wrote was printed
        print_note(f"seaway: {why or f'ended by signal {-code}'}")
    raise typer.Exit(SIGNAL_BASE - code if code < 0 else code)

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
from contextlib import aclosing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Annotated

import typer

from seaway.cli.attached import ByteLink, Link, LogLink, describe_terminal, has_terminal, passing_all_on
from seaway.cli.client import FIRST_PAUSE, LONGEST_PAUSE, Api, Doc, Patience, cancelling
from seaway.cli.errors import ApiError, CliError, ExitCode, Unreachable, UsageError
from seaway.cli.session import AppOption, OutputOption, command, connect, parse_seconds
from seaway.cli.show import Output, dig, print_json, print_json_line, print_note, print_text, seconds_text, version
from seaway.cli.target import find_app
from seaway.cli.waiting import POLL
from seaway.model.quoting import MARK

SILENCE = 8.0  # seconds without a sign of life until a leader counts as hung; it sends one every 2 s
KILL_LIMIT = 2.0  # seconds for an interrupted request to start the command to be answered, so that it can be killed
TIMEOUT, TERMINAL_TIMEOUT = 600.0, 86_400.0  # seconds until a command is killed that was not given a time
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
    stdin: Annotated[bool, typer.Option("--stdin", "-i", help="Pass standard input on to it, to the end.")] = False,
    terminal: Annotated[
        bool | None,
        typer.Option(
            "--tty/--no-tty",
            "-t/-T",
            help="Give it this terminal; left out: if input and output are one.",
            show_default=False,
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Print its id and return; it runs on, at most as long as --timeout.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            parser=parse_seconds,
            metavar="TIME",
            show_default=False,
            help="Kill it after this long (90, 5m, 1h); left out: after 10m, with a terminal 24h.",
        ),
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Run a command with image and config of the release that serves, or of the newest if none does.

    The exit code is the command's own. On a terminal it has that: a shell, a console or a prompt for a password work.

    Its output is streamed byte by byte, standard error apart from standard output unless it has a terminal. It ends
    with this command line, however that ends: by Ctrl-C, with the terminal or whoever reads its output (`| head`), even
    by kill -9. Options come before CMD.
    """  # fmt: skip
    app = find_app(app)
    line = words[0] if len(words) == 1 else shlex.join(words)
    call = _Call(line, detach=detach, output=output, stdin=stdin, terminal=_choose_terminal(terminal, detach, output))
    async with connect() as api:
        with _ended_by(signal.SIGTERM, signal.SIGHUP):
            try:
                task, streams = await call.start(api, f"/apps/{app}/run", timeout)
                if task.get("serves") is False:
                    print_note(
                        f"seaway: no release of {app} serves; it runs with the newest, {version(task['release'])}"
                    )
                if detach:
                    _print_detached(app, task, timeout or TIMEOUT, output)
                    return
                state = await _follow(api, app, str(task["id"]), streams, output)
            except asyncio.CancelledError as error:
                raise CliError(f"killed {line!r}", exit_code=ExitCode.INTERRUPTED, code="killed") from error
            except BrokenPipeError as error:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing more is said there
                if call.terminal:  # it was closed: SIGHUP is on its way
                    raise CliError(f"killed {line!r}", exit_code=ExitCode.INTERRUPTED, code="killed") from error
                raise typer.Exit(SIGNAL_BASE + signal.SIGPIPE) from error  # as who writes to a closed pipe
    _finish(state, output)


def _choose_terminal(wanted: bool | None, detach: bool, output: Output) -> bool:
    """Return whether the command gets this terminal. UsageError if it was said that it should and there is none."""
    possible = has_terminal() and not detach and output is Output.TEXT
    if not wanted:
        return wanted is None and possible
    if detach or output is Output.JSON:
        raise UsageError("-t is for somebody who sits there and types: not with -d, nor with -o json", field="tty")
    if not possible:
        hint = "leave -t out; -i passes on what is piped in"
        raise UsageError("standard input and output are no terminal", hint=hint, field="tty")
    return True


@dataclass(frozen=True)
class _Call:
    """A command to start, and what it is to be connected with."""

    line: str
    detach: bool
    output: Output
    stdin: bool
    terminal: bool

    async def start(self, api: Api, path: str, timeout: float | None) -> tuple[Doc, Doc | None]:
        """Start it; return what the API said and the streams that it has, None if its output is in the logs alone."""
        body: Doc = {"command": self.line, "attached": not self.detach}
        body["timeout"] = timeout or (TERMINAL_TIMEOUT if self.terminal else TIMEOUT)
        if not self.stdin and not self.terminal and _has_input():
            print_note("seaway: standard input is not passed on to the command; with -i it is")
        if self.detach or self.output is Output.JSON:
            return await _start(api, path, body | self._read_input()), None
        streams: Doc = {"reads": self.stdin or self.terminal}
        streams |= {"terminal": describe_terminal()} if self.terminal else {}
        try:
            task = await _start(api, path, body | {"streams": streams})
        except ApiError as error:
            if error.code != "no-streams":
                raise
            print_note(f"seaway: {error.message}")
            task = await _start(api, path, body | {"timeout": timeout or TIMEOUT} | self._read_input())
        return task, streams if task.get("streams") else None

    def _read_input(self) -> Doc:
        return {"stdin": b64encode(_read_stdin()).decode()} if self.stdin else {}


async def _follow(api: Api, app: str, task: str, streams: Doc | None, output: Output) -> Doc:
    """Return the last state of a command that was started, when all is printed."""
    terminal = streams.get("terminal") if streams is not None else None

    def say(text: str) -> None:
        print_note(f"\r\n{text}\r" if terminal else text)

    patience = Patience(say)
    link: Link
    if streams is None:
        link = LogLink(api, app, task, output, patience)
    else:
        link = ByteLink(api, f"/apps/{app}/run/{task}", patience, reads=streams["reads"], terminal=terminal)
    with passing_all_on() if terminal else nullcontext():
        return await _Run(api, app, task, link, patience).follow()


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


class _Run:
    """One task that is followed to its end."""

    def __init__(self, api: Api, app: str, task: str, link: Link, patience: Patience) -> None:
        self.api = api
        self.app = app
        self.path = f"/apps/{app}/run/{task}"
        self.link = link
        self.patience = patience
        self.began = time.monotonic()
        self.begun = asyncio.Event()
        self.waits_for = ""  # why it has not started yet
        self.told = ""  # which such reason was told last

    async def follow(self) -> Doc:
        """Return the task's last state, when it is done and all its output is printed.

        Raises BrokenPipeError once nobody reads that any more. The command is killed if this does not come to its end.
        """
        try:
            async with (
                cancelling(asyncio.create_task(self.link.work(self.begun))),
                cancelling(asyncio.create_task(self._hold())) as held,
            ):
                while not held.done():
                    if _is_output_closed():
                        raise BrokenPipeError
                    self._tell_waiting()
                    await asyncio.wait({held}, timeout=POLL)
            state: Doc = held.result()
            await self.link.finish(state)
            return state
        except (asyncio.CancelledError, BrokenPipeError):
            await self._kill()
            raise

    async def _hold(self) -> Doc:
        """Hold the command by a stream until it is done and the stream has ended; return its last state."""
        pause, last = FIRST_PAUSE, None
        while True:
            try:
                attached = self.api.stream(f"{self.path}/attach", silence=SILENCE, **self.link.query)
                async with aclosing(attached) as items:
                    async for item in items:
                        pause, found = FIRST_PAUSE, item.json()
                        self.patience.answered()
                        if item.event == "state":
                            last = self._note(found)
                        else:
                            self.link.take(found)
                if last is not None and dig(last, "done", False):
                    return last
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

    def _note(self, state: Doc) -> Doc:
        has_begun = dig(state, "started_at") is not None
        self.waits_for = "" if has_begun else dig(state, "reason", "")
        if has_begun:
            self.begun.set()
        return dict(state)

    def _explain_gone(self) -> CliError:
        hint = f"`seaway events -a {self.app}` says why"
        return CliError("the command is gone: somebody killed it, or the platform did", hint=hint, code="killed")

    def _tell_waiting(self) -> None:
        """Say once why a command that should have started by now has not, and again when that changes."""
        why = self.waits_for
        if why and why != self.told and time.monotonic() - self.began >= PATIENT:
            self.told = why
            self.patience.say(f"seaway: it has not started yet: {why}")

    async def _kill(self) -> None:
        """Kill the command now; where that cannot be said, it ends because nobody holds it any more."""
        with suppress(CliError, TimeoutError):
            async with asyncio.timeout(KILL_LIMIT):
                await self.api.call("DELETE", self.path)


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

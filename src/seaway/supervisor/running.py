"""What `seaway up`, `down` and `status` do on this machine."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psutil

from seaway.disk import NO_ROOM, read_disk
from seaway.home import Home, Settings
from seaway.sandbox.standing import step_back
from seaway.supervisor.guard import mark_stopping, unmark_stopping
from seaway.supervisor.locks import Held, Holder, acquire, find_holder
from seaway.supervisor.processes import list_parts, log_path, send, spawn_orphan, wait_gone
from seaway.supervisor.pulse import explain
from seaway.supervisor.supervise import SUPERVISOR, Endings, run_supervisor, stop_parts

LONGEST_LINE = 300  # characters shown of a line of a log, from its end: errors are there
START_LIMIT = 60.0  # seconds for every part to be there


class PlatformError(Exception):
    """It can't be done; the message says why and what to do."""


@dataclass(frozen=True)
class PartState:
    """One part as this machine sees it; `since` in seconds since the epoch, `fault`: why it does nothing."""

    name: str
    pid: int | None
    since: float | None
    fault: str = ""


def list_states(home: Home) -> list[PartState]:
    """Return the supervisor and every part that should be there, running or not."""
    names = (SUPERVISOR, *list_parts(home.read_settings().routers))
    return [_state(home, name, find_holder(home, name)) for name in names]


def _state(home: Home, name: str, holder: Holder | None) -> PartState:
    if holder is None:
        return PartState(name, None, None)
    return PartState(name, holder.pid, holder.since, explain(home, holder))


def check_startable(home: Home, settings: Settings) -> None:
    """Raise PlatformError if the platform runs already or a port is taken."""
    holder = find_holder(home, SUPERVISOR)
    if holder is not None:
        raise PlatformError(
            f"Seaway runs already on {home.root} (pid {holder.pid}): "
            "`seaway status` shows it, `seaway down` stops it, SEAWAY_HOME names another home"
        )
    if any(find_holder(home, part) for part in list_parts(settings.routers)):
        return  # parts of a dead supervisor hold the ports; the new one adopts them
    for option, port in (("--http-port", settings.http_port), ("--api-port", settings.api_port)):
        _check_port(settings.bind, port, option)


def _check_port(host: str, port: int, option: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError:
            raise PlatformError(f"port {port} needs root; choose one above 1023 with {option}") from None
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise PlatformError(f"port {port} is taken{_name_owner(port)}; choose another with {option}") from None


def _name_owner(port: int) -> str:
    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.pid and not connection.raddr:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return ""


def start_detached(home: Home, settings: Settings) -> None:
    """Start the supervisor in the background."""
    check_startable(home, settings)
    _prepare(home, settings)
    spawn_orphan(home, "supervise")


def run_foreground(home: Home, settings: Settings, endings: Endings) -> int:
    """Run the supervisor in this process until Ctrl-C; everything stops with it."""
    check_startable(home, settings)
    _prepare(home, settings)
    return asyncio.run(run_supervisor(home, endings))


def _prepare(home: Home, settings: Settings) -> None:
    """Write down that it is to run, and how; raise PlatformError if that cannot be."""
    try:
        home.create()
        home.write_settings(settings)
        unmark_stopping(home)
    except OSError as error:
        where = f": {read_disk(home.root)}; free some space, then start it again" if error.errno in NO_ROOM else ""
        raise PlatformError(f"cannot write to {home.root} ({error.strerror}){where}") from error


def wait_started(home: Home, is_ready: Callable[[], str], tell: Callable[[str], None]) -> None:
    """Wait until `is_ready` returns "" (else what it waits for); raise PlatformError with the log's end."""
    deadline = time.monotonic() + START_LIMIT
    said = ""
    while waiting := is_ready():
        if waiting != said:
            tell(waiting)
            said = waiting
        if time.monotonic() > deadline:
            raise PlatformError(
                f"gave up after {START_LIMIT:g} s: {waiting}\n{_read_ends(home)}\n{_name_running(home)}"
            )
        time.sleep(0.05)


def _name_running(home: Home) -> str:
    """Say what a start that did not succeed leaves behind, and how to end it."""
    left = ", ".join(f"{state.name} (pid {state.pid})" for state in list_states(home) if state.pid)
    if not left:
        return "Nothing of it runs any more; correct the cause and start it again"
    return f"Still running, and trying on: {left}; `seaway status` shows them, `seaway down` stops them"


def _read_ends(home: Home) -> str:
    found = []
    for name in (SUPERVISOR, *list_parts(home.read_settings().routers)):
        with suppress(FileNotFoundError):
            lines = log_path(home, name).read_text(errors="replace").splitlines()[-5:]
            found += [f"{log_path(home, name)}:", *(f"  {line[-LONGEST_LINE:]}" for line in lines)]
    return "\n".join(found)


def stop(home: Home, endings: Endings, timeout: float) -> bool:
    """Stop everything; return whether there was anything. Raises PlatformError if it takes longer than `timeout`."""
    with suppress(OSError):  # a bad disk; what brings the supervisor back ends with its part
        mark_stopping(home)
    states = list_states(home)
    if not any(state.pid for state in states):
        swept = asyncio.run(endings.sweep())
        step_back(home)
        return bool(swept)
    deadline = time.monotonic() + timeout
    while any(state.pid for state in list_states(home)):
        left = max(0.1, deadline - time.monotonic())
        holder = find_holder(home, SUPERVISOR)
        if holder is not None:
            send(holder.pid, signal.SIGTERM)
            send(holder.pid, signal.SIGCONT)  # one that is stopped hears it, too
            if not wait_gone(holder.pid, left):
                raise PlatformError(
                    f"the supervisor (pid {holder.pid}) still stops the apps after {timeout:g} s; see ps"
                )
        else:
            _stop_ourselves(home, endings)
        if time.monotonic() > deadline:
            raise PlatformError(f"not everything has stopped after {timeout:g} s; `seaway status` shows what runs")
    home.remove_sockets()
    return True


def _stop_ourselves(home: Home, endings: Endings) -> None:
    """The supervisor is dead or died: do its work, unless another one has come meanwhile."""
    try:
        lock = acquire(home, SUPERVISOR)
    except Held:
        return
    try:
        asyncio.run(stop_parts(home, endings))
    finally:
        step_back(home)
        os.close(lock)

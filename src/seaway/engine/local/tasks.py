"""The life of a one-off: run once to the end, also if the agent is killed meanwhile; the outcome is kept."""

from __future__ import annotations

import asyncio
import math
import os
from base64 import b64decode
from contextlib import suppress
from typing import Any

import structlog

from seaway.engine.base import EngineError
from seaway.engine.local import streams
from seaway.engine.local.files import APP, discard_files, list_own, renew_files
from seaway.engine.local.footprint import Footprint
from seaway.engine.local.machine import Machine, find_disk, utc_now, with_defaults
from seaway.engine.local.overdisk import Place
from seaway.engine.local.process import Ends, Group, launch, read_exit_code
from seaway.engine.local.reasons import describe_disk, describe_end, quote_failure
from seaway.engine.local.state import RECORD, Launched, TaskRecord
from seaway.engine.local.written import find_written
from seaway.model import WEB, Task
from seaway.sandbox.removing import remove_tree

log = structlog.get_logger(__name__)

STDIN = "stdin"
STREAMLESS = "killed: the process that holds its input and output is gone"


class TaskRunner:
    """Runs one task."""

    def __init__(self, machine: Machine, record: TaskRecord) -> None:
        self.machine = machine
        self.record = record
        self.id = record.task.id
        self.folder = machine.state.task_folder(self.id)
        self._told = asyncio.Event()
        self._why = ""
        self._group: Group | None = None
        self._job: asyncio.Task[None] | None = None

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self.record.state.done

    @property
    def place(self) -> Place | None:
        """Where it may write, and how much; None while its command does not run."""
        if self._group is None or self._group.ended or self.done:
            return None
        most = find_disk(self.record.task.limits)
        why = describe_disk(most, WEB)  # whose limits it has
        return Place(self.id, list_own(self.folder), most + self.record.given, lambda: self.tell(why), self.id)

    def start(self) -> None:
        """Write it down and begin (or go on) to run it; a task that is done stays so. Raises OSError."""
        if self.done:
            return
        self.machine.state.write_task(self.record, later=False)
        if self.record.launched.run and self.record.state.ended_at is None:
            self._follow_output()
        self._job = asyncio.create_task(self._live(), name=f"task {self.id}")

    def _follow_output(self) -> None:
        task = self.record.task
        self.machine.collector.follow(
            self.id, self.folder, app=task.app, team=task.team, release=task.release, process=task.process,
            node=self.machine.node,
        )  # fmt: skip

    async def kill(self, why: str) -> None:
        """End it now if it still runs."""
        self.tell(why)
        if self._job is not None:
            await asyncio.wait([self._job])

    def tell(self, why: str) -> None:
        """Have it ended now if it still runs."""
        self._why = why
        self._told.set()

    async def end_streams(self) -> None:
        """Let nobody read any more what it has written."""
        if self.record.task.streams is not None and self.folder.exists():
            await streams.quit_now(self.folder)

    async def remove(self) -> None:
        """Kill it if it runs and forget it."""
        await self.kill("removed")
        await self.end_streams()
        if self.folder.exists():
            await asyncio.to_thread(remove_tree, self.folder)

    async def detach(self) -> None:
        """Stop looking after it; its process runs on."""
        if self._job is not None:
            self._job.cancel()
            await asyncio.wait([self._job])
        if self._group is not None:
            self._group.detach()

    def _update(self, launched: Launched | None = None, *, later: bool = True, **changes: Any) -> None:
        state = self.record.state.model_copy(update=changes)
        update: dict[str, Any] = {"state": state} if launched is None else {"state": state, "launched": launched}
        self.record = self.record.model_copy(update=update)
        self.machine.state.write_task(self.record, later=later)
        self.machine.notify(self.record.task.app)

    async def _live(self) -> None:
        try:
            code, reason = await self._run()
        except EngineError as error:
            code, reason = None, str(error)
        except OSError as error:
            code, reason = None, f"could not be started: {error.strerror or error}"
        await self.machine.kin.sweep(self.id, self._group.launched if self._group else None)
        ends = await streams.finish(self.folder) if self.record.task.streams is not None else None
        await self.machine.collector.finish(self.id)
        self._forget_secrets()
        ended, wrote = self.record.state.ended_at or utc_now(), await self._find_written()
        ends = ends or self.record.state.output_ends  # an agent that was killed in between has asked before
        self._update(exit_code=code, reason=reason, ended_at=ended, wrote=wrote, output_ends=ends)
        # an agent that is killed here still knows the end
        try:
            await asyncio.to_thread(self._discard_files)
        except OSError as error:
            log.error("what a one-off wrote stays", task=self.id, error=str(error))
        self._update(done=True)
        self.machine.collector.forget(self.id)

    async def _find_written(self) -> tuple[str, ...]:
        """Return what it left in its copy of the app, before that is discarded."""
        own = self.folder / APP
        if self.record.state.ended_at is not None or not own.exists():
            return self.record.state.wrote
        try:
            image = await self.machine.images.prepare(self.record.task.image)
        except (EngineError, OSError):
            return ()  # nothing to compare it with
        return await asyncio.to_thread(find_written, own, image.workdir)

    def _forget_secrets(self) -> None:
        task = self.record.task.model_copy(update={"env": {}, "stdin": None})
        self.record = self.record.model_copy(update={"task": task})

    def _discard_files(self) -> None:
        discard_files(self.folder)
        for path in self.folder.iterdir():
            if path.name not in {RECORD, streams.SOCKET}:  # what was not read yet can still be
                path.unlink()

    async def _run(self) -> tuple[int | None, str]:
        """Start or adopt it and wait for its end; return exit code and reason."""
        launched, state = self.record.launched, self.record.state
        if state.ended_at is not None:  # what it would run with is forgotten
            return state.exit_code, state.reason
        if launched.run:
            self._group = self.machine.leaders.adopt(self.folder, launched)
        if self._group is None and launched.run:
            code = read_exit_code(self.folder, launched.run)
            if code is not None or launched.pid is not None:
                return code, await self._explain(code)
        if self._group is None:
            self._group = await self._launch(self.record.task)
        return await self._await_end(self._group)

    async def _launch(self, task: Task) -> Group:
        image = self.machine.add_mounts(await self.machine.images.prepare(task.image), task.app, task.mounts)
        view = self.machine.make_view(task.app, self.folder, image)
        root = await asyncio.to_thread(renew_files, self.folder, image, view.user if view is not None else None)
        env = self.machine.make_env(
            root, self.folder, task.env, app=task.app, release=task.release, process=task.process, instance=task.id
        )
        if task.streams is not None and task.streams.terminal is not None:
            env["TERM"] = task.streams.terminal.kind
        self._follow_output()
        admission = self.machine.kin.admit(self.id, with_defaults(task.limits))
        given = await asyncio.to_thread(Footprint(list_own(self.folder), math.inf).finish)
        self.record = self.record.model_copy(update={"given": given})
        self._update(Launched(run=1), later=False)
        ends = self._open_ends(task)
        launched = launch(
            self.folder, 1, task.command, root.workdir, env,
            ends=ends, presence=str(self.machine.state.presence), admission=admission, view=view,
        )  # fmt: skip
        group = Group(self.folder, launched, self.machine.kin)
        self._update(launched, started_at=utc_now(), reason="running")
        return group

    def _open_ends(self, task: Task) -> Ends:
        """Return what it reads and writes. What it is to read is put into a file, which outlives the agent."""
        if task.streams is not None:
            return streams.start_shim(self.folder, task.streams)
        if task.stdin is None:
            return Ends.of_pipes(self.folder)
        path = self.folder / STDIN
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(b64decode(task.stdin))
        return Ends.of_pipes(self.folder, stdin=str(path))

    async def _await_end(self, group: Group) -> tuple[int | None, str]:
        limit = self.record.task.timeout
        passed = (utc_now() - (self.record.state.started_at or utc_now())).total_seconds()
        told, ended = asyncio.create_task(self._told.wait()), asyncio.create_task(group.wait())
        lost = asyncio.create_task(self._lose_streams())
        waits = [told, ended, lost]
        try:
            await asyncio.wait(waits, timeout=max(0.0, limit - passed), return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                code = group.exit_code()
                return code, await self._explain(code)
            if told.done() or lost.done():
                why = self._why or STREAMLESS
            else:
                why = f"killed: it did not end within {limit:g} s{await self._quote()}"
            await group.stop(0.0, self.id)
            return group.exit_code(), why
        finally:
            for task in waits:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*waits, return_exceptions=True)

    async def _lose_streams(self) -> None:
        """Return when nobody holds its streams, if it has any: it would wait for ever, or read an end that is none."""
        if self.record.task.streams is None:
            await asyncio.Event().wait()
        await streams.wait_gone(self.folder)

    async def _explain(self, code: int | None) -> str:
        if code == 0:
            return "exited with code 0"
        memory = self.machine.kin.read_memory(self.id)
        return describe_end(code, memory, self.record.task.limits.memory) + await self._quote()

    async def _quote(self) -> str:
        await self.machine.collector.drain(self.id)
        return quote_failure(self.folder)

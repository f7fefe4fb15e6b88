"""The life of one instance: start, verify, watch, restart with growing delays, stop.

One asyncio task per instance. Every step is on disk before it counts, so that a new agent goes on where a killed one
was: what runs is adopted with the readiness it had, what ended meanwhile is restarted, what was to stop is stopped.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from seaway.engine.base import EngineError
from seaway.engine.local.base import RunRoot
from seaway.engine.local.files import discard_files, list_own, locate_files, renew_files
from seaway.engine.local.footprint import Footprint
from seaway.engine.local.health import Ask, Checks, await_dead, await_passing, follow_readiness
from seaway.engine.local.machine import Machine, find_disk, utc_now, with_defaults
from seaway.engine.local.overdisk import Place
from seaway.engine.local.probe import HOST, Target, find_want
from seaway.engine.local.process import Group, exit_file, launch, read_exit_code
from seaway.engine.local.reasons import (
    describe_disk,
    describe_end,
    describe_kills,
    describe_starting,
    describe_unstarted,
    quote_output,
)
from seaway.engine.local.standstill import STANDS, Standstill
from seaway.engine.local.starts import Turn
from seaway.engine.local.state import Launched, Record
from seaway.engine.local.usage import Sample, find_listening
from seaway.model import Check, Instance, InstanceState, Workload
from seaway.model.quoting import hide_values
from seaway.sandbox.removing import remove_tree

log = structlog.get_logger(__name__)
S = InstanceState

SHORT = 0.05  # seconds of waiting that need no word
LONGEST = 5.0  # seconds between starts that fail by the machine's fault
VERY_LONG = 4  # times the first word of a start that takes long: its output is part of why from then on
PAUSE = 1.0  # seconds until something is tried again that the machine could not do
UNHEALTHY_GRACE = 10.0  # seconds at most for a process that is restarted because it is unhealthy


@dataclass(frozen=True)
class Failure:
    """Why a process has to be started again; `hopeless`: it counts as crashing at once.

    `machine`: it is the machine's fault, which lacks room on its disk or the like, and may be over in a moment.
    """

    reason: str
    exit_code: int | None = None
    hopeless: bool = False
    machine: bool = False
    over_disk: bool = False


class Unhealthy(Exception):
    """A health check asks for a restart."""


class Runner:
    """Runs one instance until told to stop. `on_end` is called once nothing of it is left."""

    def __init__(self, machine: Machine, workload: Workload, record: Record, on_end: Callable[[Runner], None]) -> None:
        self.machine = machine
        self.workload = workload
        self.record = record
        self.id = record.instance.id
        self.folder = machine.state.instance_folder(self.id)
        self.halting = False
        self._on_end = on_end
        self._told = asyncio.Event()
        self._checks = Checks.of(workload.process, routed=workload.routed)
        self._group: Group | None = None
        self._target: Target | None = None
        self._turn: Turn | None = None
        self._passing = record.instance.ready  # what its readiness check says
        self._standstill = Standstill()
        self._over = asyncio.Event()  # it wrote too much, see `_over_why`
        self._over_why = ""
        self._task: asyncio.Task[None] | None = None
        if record.stop_since is not None:
            self._told.set()

    @property
    def instance(self) -> Instance:
        """The instance as it is seen now."""
        return self.record.instance

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop for good."""
        return self.record.stop_since is not None

    @property
    def leader(self) -> int | None:
        """The pid of its leader while its command runs."""
        return self._group.pid if self._group is not None and not self._group.ended else None

    @property
    def place(self) -> Place | None:
        """Where it may write, and how much; None while its command does not run."""
        if self.leader is None:
            return None
        most, run = find_disk(self.workload.process.limits), self.record.launched.run
        why = describe_disk(most, self.workload.key.process)
        return Place(
            f"{self.id} {run}", list_own(self.folder), most + self.record.given, lambda: self.exceed(run, why), self.id
        )

    def exceed(self, run: int, why: str) -> None:
        """End it and start it again with new files: its run of that number wrote more than it may."""
        if run == self.record.launched.run:
            self._over_why = why
            self._over.set()
            if self.instance.state in (S.BACKOFF, S.CRASHING):  # it ended before that was seen
                self._update(reason=why, over_disk=True)

    def start(self) -> None:
        """Write it down and begin (or go on) to run it; the output of what runs already is followed from now on."""
        key, machine = self.workload.key, self.machine
        with suppress(OSError):  # no room: the start says so, and makes it then
            self._make_folder()
        machine.state.write_record(self.record)
        if self.record.launched.run:
            self._follow_output()
        if self.instance.port is not None:
            machine.ports.claim(self.instance.port)
        self._task = asyncio.create_task(self._live(), name=f"instance {self.id}")
        machine.notify(key.app)

    def _make_folder(self) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)

    def _follow_output(self) -> None:
        key = self.workload.key
        self.machine.collector.follow(
            self.id, self.folder, app=key.app, team=self.workload.team, release=key.release, process=key.process,
            node=self.machine.node,
        )  # fmt: skip

    def stop(self, why: str) -> None:
        """Stop for good: SIGTERM, grace, SIGKILL."""
        if not self.stopping:
            self._update(stop_since=utc_now(), stop_why=why, state=S.STOPPING, ready=False, reason=why)
            self._told.set()

    async def halt(self) -> None:
        """Stop its processes but keep the instance: the next agent starts it again."""
        self.halting = True
        self._told.set()
        await self.join()

    async def join(self) -> None:
        """Wait until it has come to its end."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def detach(self) -> None:
        """Stop looking after it; its processes run on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._group is not None:
            self._group.detach()

    def take(self, sample: Sample) -> None:
        """Note CPU and memory, neither written down nor announced; what was killed for lack of it; and a standstill."""
        memory = sample.memory
        instance = self.instance.model_copy(update={"cpu": round(sample.cores, 3), "memory": memory.used})
        self.record = self.record.model_copy(update={"instance": instance})
        changed = self._standstill.note(sample.stopped)
        if instance.state is not S.RUNNING:
            return
        if self._passing and changed:
            self._tell(not self._standstill, STANDS if self._standstill else "")
        if memory.killed > instance.memory_kills:
            self._update(memory_kills=memory.killed, reason=describe_kills(memory, self.workload.process.memory))

    def _update(self, *, later: bool = True, **changes: Any) -> None:
        """Change fields of the record or its instance, write them down, and tell the watchers.

        `later`: what cannot be written now is when there is room again; else raise OSError.
        """
        own = {name: changes.pop(name) for name in list(changes) if name in Record.model_fields}
        if self.stopping:  # checks that end late don't hide that it stops
            changes = {
                k: v for k, v in changes.items() if k not in ("ready", "reason") and v not in (S.RUNNING, S.BACKOFF)
            }
        instance = self.instance.model_copy(update=changes)
        self.record = self.record.model_copy(update={**own, "instance": instance})
        self.machine.state.write_record(self.record, later=later)
        if changes:
            self.machine.notify(self.workload.key.app)

    async def _live(self) -> None:
        try:
            await self._insist(self._run_until_told)
        except Exception:
            log.exception("instance runner failed", instance=self.id)
            self._update(state=S.CRASHING, ready=False, reason="the node agent failed on it; see logs/platform")
            await self._told.wait()
        await self._insist(self._end)

    async def _insist(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do it, again after a pause where the machine lacks something now: descriptors, memory, room on its disk."""
        while True:
            try:
                await work()
                return
            except OSError as error:
                log.warning("cannot be attended to now", instance=self.id, error=str(error), again_in=PAUSE)
            await asyncio.sleep(PAUSE)

    async def _run_until_told(self) -> None:
        failure = await self._resume()
        while True:
            if failure is not None:
                await self._back_off(failure)
            if self._told.is_set():
                return
            failure = await self._run_once()

    async def _resume(self) -> Failure | None:
        """Adopt what an earlier agent started, or say how it ended meanwhile."""
        launched = self.record.launched
        if launched.run == 0 or self._group is not None:
            return None
        self._group = self.machine.leaders.adopt(self.folder, launched)
        if self._group is not None:
            self._update(launched=self._group.launched)
            log.info("adopted", instance=self.id, pid=self._group.pid)
            return None
        code = read_exit_code(self.folder, launched.run)
        if launched.pid is None and code is None:
            return None  # it was waiting for its next start
        return await self._judge(code)

    async def _run_once(self) -> Failure | None:
        """Start it unless it was adopted, and attend to it; None once told to stop."""
        try:
            failure = await self._begin()
            return await self._attend(self._group) if failure is None and self._group is not None else failure
        finally:
            self._end_turn()

    async def _begin(self) -> Failure | None:
        """Start it unless it was adopted or told to stop; what went wrong."""
        try:
            if self._group is None:
                await self._take_turn()
                await self._launch()
            if self._group is not None:
                await self._prepare_target(locate_files)
        except EngineError as error:
            return Failure(str(error), hopeless=True, machine=bool(find_want(error)))
        except OSError as error:
            why = f"could not be started: {error.strerror or error}"
            return Failure(why, hopeless=True, machine=bool(find_want(error)))
        return None

    async def _take_turn(self) -> None:
        """Wait until it may begin, or is told to stop."""
        taking = asyncio.create_task(self.machine.starts.take(self.workload.key.app))
        told = asyncio.create_task(self._told.wait())
        try:
            done, _ = await asyncio.wait([taking, told], timeout=SHORT, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                if self.instance.state is S.PENDING:
                    self._update(reason="waits until others of its app have started")
                await asyncio.wait([taking, told], return_when=asyncio.FIRST_COMPLETED)
            if taking.done():
                self._turn = taking.result()
        finally:
            for task in (taking, told):
                task.cancel()
            await asyncio.gather(taking, told, return_exceptions=True)

    def _end_turn(self) -> None:
        if self._turn is not None:
            self._turn.end()
            self._turn = None

    async def _prepare_target(self, place: Callable[[Path, RunRoot, int | None], RunRoot]) -> None:
        """Find (or renew) folder and environment of commands; the same for the process and its command checks."""
        if self._target is None:
            image = await self.machine.images.prepare(self.workload.image)
            key, port = self.workload.key, self.instance.port
            image = self.machine.add_mounts(image, key.app, self.workload.mounts)
            confined = self._group is None or self._group.confined  # it may run since before apps were
            view = self.machine.make_view(key.app, self.folder, image) if confined else None
            self.machine.guard_port(port, view)
            root = await asyncio.to_thread(place, self.folder, image, view.user if view is not None else None)
            env = self.machine.make_env(
                root, self.folder, self.workload.env, app=key.app, release=key.release, process=key.process,
                instance=self.id, port=port,
            )  # fmt: skip
            self._target = Target(port, root.workdir, env, self._admit(), view, self.workload.host)

    def _admit(self) -> str:
        return self.machine.kin.admit(self.id, with_defaults(self.workload.process.limits))

    async def _launch(self) -> None:
        """Start it, unless it was told to stop."""
        if self._told.is_set():
            return
        port = self.machine.ports.keep(self.instance.port)
        if port != self.instance.port:
            self.machine.guard_port(self.instance.port, None)
            self._update(port=port, address=HOST)
        self._target, self._passing = None, False
        self._standstill.forget()
        self._make_folder()
        await self._prepare_target(renew_files)
        given = await asyncio.to_thread(Footprint(list_own(self.folder), math.inf).finish)
        if self._told.is_set() or self._target is None:
            return
        self._follow_output()
        run = self.record.launched.run + 1
        self._over.clear()
        self._update(later=False, launched=Launched(run=run), given=given)
        launched = launch(
            self.folder, run, self.workload.process.command, self._target.workdir, self._target.env,
            presence=str(self.machine.state.presence), admission=self._target.admission, view=self._target.view,
        )  # fmt: skip
        self._group = Group(self.folder, launched, self.machine.kin)
        again = f"starting again; before that it {self.instance.reason}" if self.record.failures else "starting"
        self._update(
            launched=launched, state=S.STARTING, ready=False, ready_since=None, started_at=utc_now(),
            restarts=self.instance.restarts + (1 if self.record.failures else 0), reason=again,
            memory_kills=0, over_disk=False,
        )  # fmt: skip

    async def _attend(self, group: Group) -> Failure | None:
        """Wait for its end, an order to stop, a failed check, or too full a disk, whichever comes first."""
        told, ended = asyncio.create_task(self._told.wait()), asyncio.create_task(group.wait())
        health, over = asyncio.create_task(self._watch_health(group)), asyncio.create_task(self._over.wait())
        try:
            await asyncio.wait([told, ended, health, over], return_when=asyncio.FIRST_COMPLETED)
            if told.done():
                return None
            if ended.done():
                return await self._judge(group.exit_code())
            return Failure(self._over_why + await self._quote(), over_disk=True) if over.done() else health.result()
        finally:
            for task in (told, ended, health, over):
                task.cancel()
            await asyncio.gather(told, ended, health, over, return_exceptions=True)

    async def _judge(self, code: int | None) -> Failure:
        lived = (utc_now() - (self.instance.started_at or utc_now())).total_seconds()
        why = describe_end(code, self.machine.kin.read_memory(self.id), self.workload.process.memory, lived)
        return Failure(f"{why}{await self._quote()}", exit_code=code)

    async def _quote(self) -> str:
        await self.machine.collector.drain(self.id)
        return hide_values(quote_output(self.folder, self.record.launched.marks), self.workload.env)

    async def _watch_health(self, group: Group) -> Failure:
        """Verify the start, then follow readiness and liveness; return when it has to be restarted."""
        if self.instance.state is not S.RUNNING:
            failure = await self._verify(group)
            self._end_turn()
            if failure is not None:
                return failure
            ready = self._checks.readiness in (None, self._checks.startup)
            self._tell_readiness(ready, "" if ready else "started, not ready yet", state=S.RUNNING)
        fault = ""
        try:
            async with asyncio.TaskGroup() as tasks:
                if self._checks.readiness is not None:
                    tasks.create_task(
                        follow_readiness(self._checks.readiness, self._ask, self._passing, self._tell_readiness)
                    )
                if self._checks.liveness is not None:
                    tasks.create_task(self._await_dead(self._checks.liveness))
                tasks.create_task(self._forget_failures())
                tasks.create_task(self._await_standstill())
        except* Unhealthy as errors:
            fault = str(errors.exceptions[0])
        return Failure(f"{fault}{await self._quote()}")

    async def _verify(self, group: Group) -> Failure | None:
        """Wait until the start has succeeded; what went wrong if it did not in time."""
        passed = (utc_now() - (self.instance.started_at or utc_now())).total_seconds()
        if self._checks.startup is None:
            await asyncio.sleep(max(0.0, self.machine.timings.settle - passed))
            return None
        limit = self.workload.process.health.start_timeout
        tell, first = partial(self._tell_starting, group), self.record.failures == 0
        fault = await await_passing(
            self._checks.startup,
            self._ask,
            max(0.1, limit - passed),
            self.machine.timings,
            tell if first else _be_silent,
        )
        if fault is None:
            return None
        listening = await self._find_listening(group)
        why = describe_unstarted(self.workload.key.process, self._checked_port, fault, limit, listening)
        return Failure(why + await self._quote(), hopeless=True)

    @property
    def _checked_port(self) -> int | None:
        """The port on which the instance has to listen to become healthy; None: it may."""
        return self.instance.port if self.workload.routed or self._checks.need_port else None

    async def _tell_starting(self, group: Group, fault: str, waited: float) -> None:
        """Say why its first start takes so long, and what it wrote last if that is very long."""
        why = describe_starting(self._checked_port, fault, await self._find_listening(group))
        if waited >= VERY_LONG * self.machine.timings.first_word:
            why += await self._quote()
        if why != self.instance.reason:
            self._update(reason=why)

    async def _find_listening(self, group: Group) -> list[str]:
        members = self.machine.kin.find(self.id, group.launched)
        return await asyncio.to_thread(find_listening, members)

    @property
    def _ask(self) -> Ask:
        async def ask(check: Check) -> str | None:
            assert self._target is not None
            return STANDS if self._standstill else await self.machine.prober.ask(check, self._target)

        return ask

    def _tell_readiness(self, ready: bool, why: str, **more: Any) -> None:
        self._passing = ready
        self._tell(ready, why, **more)

    def _tell(self, ready: bool, why: str, **more: Any) -> None:
        since: datetime | None = utc_now() if ready else None
        self._update(ready=ready, ready_since=since, reason=why, **more)

    async def _await_dead(self, check: Check) -> None:
        raise Unhealthy(await await_dead(check, self._ask))

    async def _await_standstill(self) -> None:
        await self._standstill.wait()
        raise Unhealthy(STANDS)

    async def _forget_failures(self) -> None:
        await asyncio.sleep(self.machine.timings.reset_after)
        if self.record.failures:
            self._update(failures=0)

    async def _back_off(self, failure: Failure) -> None:
        """Say what happened at once, clear away what is left, and wait for the next start."""
        timings, failures = self.machine.timings, self.record.failures + 1
        crashing = failure.hopeless or failures >= timings.crashing_after
        self._update(
            state=S.CRASHING if crashing else S.BACKOFF, failures=failures, ready=False, ready_since=None,
            reason=failure.reason, exit_code=failure.exit_code, cpu=0.0, memory=0, over_disk=failure.over_disk,
        )  # fmt: skip
        log.info("failed", instance=self.id, reason=failure.reason, failures=failures)
        await self._clear_group(min(self.workload.process.stop_grace, UNHEALTHY_GRACE))
        if failure.over_disk:
            with suppress(OSError):  # the next start tries it again, and says why it cannot be done
                await asyncio.to_thread(discard_files, self.folder)
        with suppress(TimeoutError):
            async with asyncio.timeout(min(timings.delay(failures), LONGEST if failure.machine else math.inf)):
                await self._told.wait()

    async def _clear_group(self, grace: float) -> bool:
        """Leave nothing of the process group; return whether it ended within its grace."""
        gentle = True
        if self._group is not None:
            gentle = await self._group.stop(grace, self.id)
            code = self._group.exit_code()
            if code is not None and code != self.instance.exit_code:
                self._update(exit_code=code)
            self._group = None
        else:
            await self.machine.kin.sweep(self.id)
        await self.machine.collector.flush(self.id)
        launched = self.record.launched
        self._update(launched=Launched(run=launched.run, marks=launched.marks))
        exit_file(self.folder, launched.run).unlink(missing_ok=True)
        return gentle

    async def _end(self) -> None:
        """Stop what runs with its grace, and take the instance apart (or keep it for the next agent if halting)."""
        since = self.record.stop_since or utc_now()
        grace = self.workload.process.stop_grace
        left = max(0.0, grace - (utc_now() - since).total_seconds())
        gentle = await self._clear_group(left)
        if not self.stopping:
            self._update(
                failures=0, state=S.PENDING, ready=False, ready_since=None, started_at=None, cpu=0.0, memory=0,
                reason="stopped with the platform",
            )  # fmt: skip
            return
        await self.machine.collector.finish(self.id)
        if self.instance.port is not None:
            self.machine.ports.release(self.instance.port)
            self.machine.guard_port(self.instance.port, None)
        why = self.record.stop_why + ("" if gentle else f"; killed: it ignored SIGTERM for {grace:g} s")
        stopped = {"state": S.STOPPED, "reason": why, "killed": not gentle, "ready": False, "cpu": 0.0, "memory": 0,
                   "over_disk": False}  # fmt: skip
        await asyncio.to_thread(remove_tree, self.folder)
        self.machine.collector.forget(self.id)
        self.record = self.record.model_copy(update={"instance": self.instance.model_copy(update=stopped)})
        self._on_end(self)
        self.machine.notify(self.workload.key.app)


async def _be_silent(_: str, __: float) -> None:
    """A start that follows a failure: its reason is that failure."""

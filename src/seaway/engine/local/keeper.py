"""Holds what is wanted on this node against what runs: workloads to runners, tasks to task runners."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Set
from contextlib import suppress
from functools import partial

import psutil
import structlog

from seaway.engine.base import EngineError
from seaway.engine.local.changes import Changes
from seaway.engine.local.machine import Machine, find_disk, utc_now
from seaway.engine.local.overdisk import DiskWatch, Place
from seaway.engine.local.reasons import describe_shared_disk
from seaway.engine.local.room import explain_unlimited, read_left
from seaway.engine.local.runner import Runner
from seaway.engine.local.state import Desired, Record, TaskRecord, check_name
from seaway.engine.local.tasks import TaskRunner
from seaway.engine.local.usage import Sampler
from seaway.model import Instance, InstanceState, Node, Observation, Task, TaskState, Workload, WorkloadKey
from seaway.sandbox.removing import remove_tree

log = structlog.get_logger(__name__)

ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
CATCH_UP = 1.0  # seconds between tries of what could not be done
SUFFIX = 6  # random characters of an instance id: 31^6, a billion


class Keeper:
    """The node agent's heart. All methods run in one event loop."""

    def __init__(self, machine: Machine, changes: Changes) -> None:
        self.machine = machine
        self.changes = changes
        self.halted = False
        self._desired: dict[WorkloadKey, Desired] = {}
        self._runners: dict[str, Runner] = {}
        self._tasks: dict[str, TaskRunner] = {}
        self._stopped: dict[str, tuple[float, Instance]] = {}
        self._sampler = Sampler(machine.kin)
        self._gone = asyncio.Event()

    async def load(self) -> None:
        """Read what is on disk, adopt what runs, and start what is missing."""
        for desired in self.machine.state.read_desired():
            self._desired[desired.workload.key] = desired
        for record in self.machine.state.read_records():
            known = self._desired.get(record.instance.key)
            if known is None:
                log.error("instance without workload", instance=record.instance.id)
                await self.machine.kin.sweep(record.instance.id)
                await asyncio.to_thread(remove_tree, self.machine.state.instance_folder(record.instance.id))
            else:
                self._run(known.workload, record)
        for task in self.machine.state.read_tasks():
            self._tasks[task.task.id] = TaskRunner(self.machine, task)
            self._tasks[task.task.id].start()
        for name in self.machine.kin.list_names():
            if name not in self._runners and name not in self._tasks:
                log.error("processes of an instance that is not known", instance=name)
                await self.machine.kin.sweep(name)
        for desired in list(self._desired.values()):
            self._settle(desired)
        self._gone.set()

    async def catch_up(self) -> None:
        """Write what could not be written for lack of room or the like, for ever."""
        while True:
            await asyncio.sleep(CATCH_UP)
            with suppress(OSError):
                self.machine.state.catch_up()

    def apply(self, workload: Workload) -> None:
        """See Engine.apply."""
        check_name(str(workload.key))
        desired = Desired(workload=workload)
        if self._desired.get(workload.key) != desired:
            self.machine.state.write_desired(desired)
            self._desired[workload.key] = desired
            self.machine.notify(workload.key.app)
        self._settle(desired)

    def remove(self, key: WorkloadKey) -> None:
        """See Engine.remove."""
        desired = self._desired.get(key)
        if desired is None or desired.removed:
            return
        desired = desired.model_copy(update={"removed": True})
        self.machine.state.write_desired(desired)
        self._desired[key] = desired
        self._settle(desired)
        self.machine.notify(key.app)

    def _settle(self, desired: Desired) -> None:
        """Stop what is retired, start what is missing."""
        workload = desired.workload
        mine = [runner for runner in self._runners.values() if runner.workload.key == workload.key]
        if desired.removed:
            for runner in mine:
                runner.stop("its release was removed")
            if not mine:
                self._forget(workload.key)
            return
        for runner in mine:
            runner.workload = workload
            if runner.id in workload.retire:
                runner.stop("retired")
        living = [runner for runner in mine if not runner.stopping]
        for _ in range(workload.count - len(living) if not self.halted else 0):
            self._run(workload, self._new_record(workload.key))

    def _new_record(self, key: WorkloadKey) -> Record:
        suffix = "".join(secrets.choice(ALPHABET) for _ in range(SUFFIX))
        instance = Instance(
            id=f"{key.app}-v{key.release}-{key.process}-{suffix}", key=key, node=self.machine.node,
            state=InstanceState.PENDING, created_at=utc_now(), reason="accepted",
        )  # fmt: skip
        return Record(instance=instance)

    def _run(self, workload: Workload, record: Record) -> None:
        runner = Runner(self.machine, workload, record, self._on_end)
        runner.start()
        self._runners[runner.id] = runner

    def _on_end(self, runner: Runner) -> None:
        del self._runners[runner.id]
        self._stopped[runner.id] = (time.monotonic() + self.machine.timings.show_stopped, runner.instance)
        desired = self._desired.get(runner.workload.key)
        if desired is not None and desired.removed:
            self._settle(desired)

    def _forget(self, key: WorkloadKey) -> None:
        self.machine.state.delete_desired(key)
        del self._desired[key]
        self._gone.set()

    def observe(self) -> Observation:
        """See Engine.observe."""
        now = time.monotonic()
        self._stopped = {name: (until, last) for name, (until, last) in self._stopped.items() if until > now}
        instances = [runner.instance for runner in self._runners.values()] + [
            last for _, last in self._stopped.values()
        ]
        node = Node(
            name=self.machine.node, ready=not self.halted, reason="the platform is going down" if self.halted else "",
            unprotected=self.machine.unprotected, unlimited=explain_unlimited(self.machine.kin.cgroups),
            available=read_left(self.machine.room, self.machine.kin.cgroups),
            cores=float(psutil.cpu_count() or 1), memory=psutil.virtual_memory().total,
        )  # fmt: skip
        return Observation(
            nodes=(node,),
            instances=tuple(sorted(instances, key=lambda i: (i.created_at, i.id))),
            workloads=tuple(d.workload for d in self._desired.values() if not d.removed),
            tasks=tuple(task.record.state for task in self._tasks.values()),
        )

    def start_task(self, task: Task) -> None:
        """See Engine.start_task."""
        check_name(task.id)
        if task.id in self._tasks:
            return
        if self.halted:
            raise EngineError("the platform is going down: run the command again after `seaway up`")
        self._prune_tasks()
        state = TaskState(id=task.id, app=task.app, attached=task.attached, reason="accepted")
        runner = TaskRunner(self.machine, TaskRecord(task=task, state=state))
        runner.start()
        self._tasks[task.id] = runner

    async def remove_task(self, task_id: str) -> None:
        """See Engine.remove_task."""
        runner = self._tasks.pop(task_id, None)
        if runner is not None:
            await runner.remove()
            self._gone.set()
            self.machine.notify(runner.record.task.app)

    def _prune_tasks(self) -> None:
        """Forget the tasks that ended longest ago, beyond the limit."""
        ended = [task for task in self._tasks.values() if task.done]
        for task in ended[: max(0, len(ended) - self.machine.timings.kept_tasks + 1)]:
            remove_tree(task.folder)
            del self._tasks[task.id]

    async def halt(self) -> None:
        """Stop everything with its grace, tasks at once, and keep what is wanted for the next agent."""
        self.halted = True
        tasks = [task.kill("killed: the platform was stopped") for task in self._tasks.values() if not task.done]
        await asyncio.gather(*tasks, *(runner.halt() for runner in list(self._runners.values())))
        await asyncio.gather(*(task.end_streams() for task in self._tasks.values()))
        self.machine.notify("")

    async def detach(self) -> None:
        """Let everything run on without this agent."""
        await asyncio.gather(*(r.detach() for r in self._runners.values()), *(t.detach() for t in self._tasks.values()))
        await self.machine.prober.close()

    async def sample(self) -> None:
        """Measure CPU and memory of every instance, for ever."""
        while True:
            try:
                await self._sample()
            except OSError as error:
                log.warning("instances cannot be measured now", error=str(error))
            await asyncio.sleep(self.machine.timings.sample_interval)

    async def _sample(self) -> None:
        leaders = {name: leader for name, runner in self._runners.items() if (leader := runner.leader) is not None}
        for name, sample in (await asyncio.to_thread(self._sampler.sample, leaders)).items():
            if name in self._runners:
                self._runners[name].take(sample)

    async def watch_disk(self) -> None:
        """Measure what instances, one-offs and apps wrote, for ever; end what wrote more than it may."""
        machine = self.machine
        await DiskWatch(machine.state.root, machine.kin, machine.timings.disk_interval, self._list_places).run()

    def _list_places(self) -> list[Place]:
        """Return where each that runs may write, and each app's /tmp also while those that wrote there do not run."""
        tasks = [task for task in self._tasks.values() if not task.done]
        limits = [(runner.workload.key.app, runner.workload.process.limits) for runner in self._runners.values()]
        limits += [(task.record.task.app, task.record.task.limits) for task in tasks]
        most: dict[str, int] = {}
        for app, limit in limits:
            most[app] = max(find_disk(limit), most.get(app, 0))
        shared = [
            Place(f"{app}/shared", (folder,), amount, partial(self._on_shared_over, app, amount))
            for app, amount in most.items()
            if (folder := self.machine.find_shared(app)) is not None
        ]
        own = [*(runner.place for runner in self._runners.values()), *(task.place for task in tasks)]
        return [place for place in own if place is not None] + shared

    def _on_shared_over(self, app: str, most: int) -> None:
        """End all of an app: its /tmp is that of all of them. They begin again with an empty one."""
        why = describe_shared_disk(most)
        for runner in self._runners.values():
            if runner.workload.key.app == app:
                runner.exceed(runner.record.launched.run, why)
        for task in self._tasks.values():
            if task.record.task.app == app:
                task.tell(why)
        self.machine.renew_shared(app)
        self._gone.set()

    async def collect_garbage(self) -> None:
        """Free unpacked images that nothing wants any more, and user ids of apps that are gone, for ever."""
        while True:
            await self._gone.wait()
            self._gone.clear()
            try:
                await self.machine.keep_users(self._list_apps())
                await self.machine.images.release(self._list_images)
            except OSError as error:
                log.warning("what nothing wants any more cannot be removed now", error=str(error))
                self._gone.set()
                await asyncio.sleep(CATCH_UP)

    def _list_apps(self) -> Set[str]:
        tasks = {task.record.task.app for task in self._tasks.values() if not task.done}
        return tasks | {key.app for key in self._desired}

    def _list_images(self) -> Set[str]:
        tasks = {task.record.task.image for task in self._tasks.values() if not task.done}
        return tasks | {desired.workload.image for desired in self._desired.values()}

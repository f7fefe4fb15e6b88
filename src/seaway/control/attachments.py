"""One-offs that end with whoever waits for them: `seaway run` holds its own by a stream, which the leader serves.

When the last stream of a one-off breaks, its caller may come back within a moment; then it is killed. When nobody was
there to hold a stream (another replica led, the control plane or the engine was away) everybody gets longer. Only time
in which this process ran counts: one that was frozen must not take its own absence for that of others.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime

import structlog

from seaway.control.incidents import Tell
from seaway.engine.base import Engine, EngineError
from seaway.model import App, EventSpec, TaskState
from seaway.store.base import Store, StoreError

log = structlog.get_logger()

RETURN = 1.0  # seconds for a caller whose connection broke to come back
LONG_RETURN = 20.0  # seconds for everybody after an absence of the platform's own, and for a first stream to come
TICK = 0.25  # seconds between looks while somebody is missing
LOOK_INTERVAL = 5.0  # the same while nobody is


class Attachments:
    """Who waits for which one-off, at this process."""

    def __init__(self) -> None:
        self._streams: Counter[str] = Counter()
        self._missing: dict[str, float] = {}  # one-off without a stream -> seconds that are left to it
        self._broken = asyncio.Event()

    @contextmanager
    def attach(self, task_id: str) -> Iterator[None]:
        """Hold a one-off."""
        self._streams[task_id] += 1
        self._missing.pop(task_id, None)
        try:
            yield
        finally:
            self._streams[task_id] -= 1
            if not self._streams[task_id]:
                del self._streams[task_id]
                self._missing[task_id] = RETURN
                self._broken.set()

    def is_held(self, task_id: str) -> bool:
        """Whether somebody holds it now."""
        return task_id in self._streams

    async def run(self, engine: Engine, store: Store, tell: Tell, clock: Callable[[], datetime]) -> None:
        """Kill what nobody holds any more, until cancelled: a duty of the leader."""
        self._missing.clear()
        loop = asyncio.get_running_loop()
        before = loop.time()
        while True:
            self._broken.clear()
            now = loop.time()
            self.pass_time(now - before)
            before = now
            try:
                for state in self.take_abandoned((await engine.observe()).tasks):
                    if self.is_held(state.id):  # its caller is back, while others were killed
                        continue
                    await engine.remove_task(state.id)
                    await _tell_killed(state, store, tell, clock())
            except EngineError as error:
                log.debug("the engine does not answer: nobody is missing meanwhile", error=str(error))
                self._missing.clear()
            if self._missing:
                await asyncio.sleep(TICK)
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_INTERVAL):
                        await self._broken.wait()
                    before = loop.time()  # from here on

    def pass_time(self, seconds: float) -> None:
        """Take time from all that are missing; of a long gap this process itself has missed most."""
        for task_id in self._missing:
            self._missing[task_id] -= min(seconds, 2 * TICK)

    def take_abandoned(self, tasks: tuple[TaskState, ...]) -> list[TaskState]:
        """Return the one-offs whose time is up, and note which are missing now."""
        loose = {s.id: s for s in tasks if s.attached and not s.done and not self.is_held(s.id)}
        left = {task_id: self._missing.get(task_id, LONG_RETURN) for task_id in loose}
        self._missing = {task_id: seconds for task_id, seconds in left.items() if seconds > 0}
        return [loose[task_id] for task_id, seconds in left.items() if seconds <= 0]


async def _tell_killed(state: TaskState, store: Store, tell: Tell, now: datetime) -> None:
    message = "Was killed: whoever ran it is gone (`seaway run --detach` starts one that stays)."
    log.info("a one-off was killed: its caller is gone", task=state.id)
    with suppress(StoreError):
        app = await store.get(App, state.app)
        event = EventSpec(at=now, app=state.app, about=f"task {state.id}", reason="TaskKilled", message=message)
        await tell(event, app.spec.team)

"""Waiting for builds, rollouts, scaling: polls documents, so it goes on where it was when the API comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager

from seaway.cli.client import FIRST_PAUSE, LONGEST_PAUSE, Api, Doc, Patience, cancelling
from seaway.cli.errors import ApiError, CliError, ExitCode, TimedOut, Unreachable
from seaway.cli.logline import first
from seaway.cli.progress import Progress
from seaway.cli.show import dig, seconds_text, version
from seaway.cli.streaming import CommandOutput
from seaway.model import ENDED, RELEASE_COMMAND, BuildState, InstanceState, Phase

POLL = 0.2  # seconds between looks at a document
MOST_LINES = 10_000  # of a release command's output; what is behind them is in the logs
LOG_TAIL = 5.0  # seconds a build's output may take to arrive after the build has ended

BUILD_ENDED = frozenset({BuildState.SUCCEEDED, BuildState.FAILED, BuildState.CANCELLED})
SERVES = frozenset({Phase.KEEPING, Phase.SUCCEEDED})
"""Phases in which all traffic is on the new release."""


def find_serving(app: Doc) -> int | None:
    """Return the release that serves now, if any does."""
    serves = dig(app, "status.state") not in {"empty", "down", "stopped", "destroying"}
    return dig(app, "status.current") if serves else None


@asynccontextmanager
async def limit(seconds: float, progress: Progress, *, what: str, cancel: str) -> AsyncIterator[None]:
    """Bound a wait. When it is over, or on Ctrl-C, say that `what` goes on and how to stop it."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        progress.settle()
        message = f"not done after {seconds_text(seconds)}; {what} goes on in the platform"
        raise TimedOut(message, hint=cancel) from error
    except asyncio.CancelledError as error:
        progress.settle()
        raise CliError(
            f"detached; {what} goes on in the platform", hint=cancel, exit_code=ExitCode.INTERRUPTED, code="detached"
        ) from error


class Waiter:
    """Follows what goes on with one app and tells `progress`."""

    def __init__(self, api: Api, app: str, progress: Progress) -> None:
        self.api = api
        self.app = app
        self.progress = progress
        self.patience = Patience(progress.say)

    async def get(self, path: str) -> Doc:
        """Get something of the app, as often as it takes."""
        answer: Doc = await self.patience.ask(lambda: self.api.get(f"/apps/{self.app}{path}"))
        return answer

    async def say_what_serves(self) -> str:
        """Return "; v4 still serves" for the end of a hint, or "" where nothing serves."""
        serving = find_serving(await self.get(""))
        return "" if serving is None else f"; {version(serving)} still serves"

    # Builds

    async def follow_build(self, number: int) -> Doc:
        """Show a build's output until it ends and (if it is to be deployed) has made its release; return it.

        Raises CliError if it failed or was cancelled.
        """
        async with cancelling(asyncio.create_task(self._follow_build_log(number))) as log:
            build = await self._until_built(number)
            if not log.done():
                await asyncio.wait({log}, timeout=LOG_TAIL)
            if log.done() and (error := log.exception()):
                self.progress.say(f"the build's output cannot be shown: {error}")
        state, reason = dig(build, "status.state"), dig(build, "status.reason", "")
        if state != BuildState.SUCCEEDED:
            ended = "was cancelled" if state == BuildState.CANCELLED else "failed"
            raise CliError(
                f"build b{number} of {self.app} {ended}: {reason}",
                hint=f"`seaway builds log b{number} -a {self.app}` shows its output{await self.say_what_serves()}",
                code=f"build-{state}",
            )
        return build

    async def _until_built(self, number: int) -> Doc:
        while True:
            build = await self.get(f"/builds/{number}")
            state = dig(build, "status.state")
            release_made = dig(build, "status.release") is not None or not dig(build, "spec.deploy", False)
            if state in BUILD_ENDED and (state != BuildState.SUCCEEDED or release_made):
                return build
            if state not in BUILD_ENDED:
                self.progress.phase(state, dig(build, "status.reason", ""))
            await asyncio.sleep(POLL)

    async def _follow_build_log(self, number: int) -> None:
        async for line in read_build_log(self.api, self.app, number, self.patience):
            self.progress.output(line)

    # Rollouts

    async def follow_rollout(self, number: int) -> Doc:
        """Show a rollout's phases until all traffic is on release `number` (or it ended); return the rollout.

        And what its release command writes, between the phases.
        """
        shown = 0
        paused = False
        async with aclosing(_ReleaseCommand(self, number)) as command:
            while True:
                rollout = await self._rollout_or_none(number)
                if rollout is not None:
                    shown = await self._show_history(rollout, shown, command)
                    phase = dig(rollout, "status.phase")
                    self.progress.phase(phase, dig(rollout, "status.reason", ""))
                    if phase in SERVES or phase in ENDED:
                        self.progress.settle()
                        return rollout
                    paused = self._show_pause(rollout, paused)
                await asyncio.sleep(POLL)

    async def _rollout_or_none(self, number: int) -> Doc | None:
        try:
            return await self.get(f"/rollouts/{number}")
        except ApiError as error:
            if error.exit_code != ExitCode.NOT_FOUND:
                raise
            self.progress.phase("queued", f"waiting for the rollout of {version(number)} to begin")
            await self.get("")  # the app itself is gone: this raises, and says so
            return None

    async def _show_history(self, rollout: Doc, shown: int, command: _ReleaseCommand) -> int:
        """Show the steps that were passed between two looks."""
        history = dig(rollout, "status.history", [])
        for step in history[shown:]:
            phase = dig(step, "phase", "")
            await command.finish()
            self.progress.phase(phase, dig(step, "reason", ""))
            if phase == Phase.PREPARING:
                command.begin()
        return len(history)

    def _show_pause(self, rollout: Doc, before: bool) -> bool:
        paused = bool(dig(rollout, "spec.paused", False))
        if paused and not before:
            self.progress.say(f"the rollout is paused; `seaway rollouts resume -a {self.app}` lets it go on")
        return paused

    # Scaling and destroying

    async def follow_scale(self, wanted: Mapping[str, int]) -> None:
        """Wait until as many instances of each process serve as were asked for, no more and no fewer."""
        while True:
            app = await self.get("")
            current = dig(app, "status.current")
            instances = await self.patience.ask(lambda: self.api.get(f"/apps/{self.app}/instances"))
            mine = [i for i in instances if dig(i, "key.release") == current]
            counts = {name: _count(mine, name) for name in wanted}
            self.progress.phase("scaling", ", ".join(f"{n} {counts[n]} of {wanted[n]}" for n in wanted))
            if counts == dict(wanted):
                self.progress.settle()
                return
            _raise_if_crashing(self.app, mine, wanted)
            await asyncio.sleep(POLL)

    async def follow_destroy(self) -> None:
        """Wait until the app is gone."""
        while True:
            try:
                app = await self.get("")
            except ApiError as error:
                if error.exit_code == ExitCode.NOT_FOUND:
                    self.progress.settle()
                    return
                raise
            self.progress.phase("destroying", dig(app, "status.reason", ""))
            await asyncio.sleep(POLL)


class _ReleaseCommand:
    """What a rollout's release command writes, shown while it runs. Close it."""

    def __init__(self, waiter: Waiter, number: int) -> None:
        self._progress, self._patience = waiter.progress, waiter.patience
        self._rest = f"`seaway logs -a {waiter.app} -p {RELEASE_COMMAND} --release {version(number)}`"
        self._lines = 0
        query = {"process": RELEASE_COMMAND, "release": number}
        self._output = CommandOutput(waiter.api, waiter.app, query, self._show, waiter.patience)
        self._following: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """It is about to run."""
        self._following = asyncio.create_task(self._output.follow())

    async def finish(self) -> None:
        """Show what is missing of its output if it has run: it has ended."""
        if self._following is None:
            return
        await self.aclose()
        if self._lines >= MOST_LINES:
            return
        try:
            await self._patience.ask(self._output.show_rest)
        except CliError as error:
            self._progress.say(f"the release command's output cannot be shown: {error}; try {self._rest}")

    async def aclose(self) -> None:
        """Show nothing more."""
        following, self._following = self._following, None
        if following is not None:
            async with cancelling(following):
                pass

    def _show(self, line: Doc) -> None:
        self._lines += 1
        if self._lines == MOST_LINES:
            self._progress.say(f"the release command writes very much; {self._rest} shows what it wrote last")
            if self._following is not None:
                self._following.cancel()
        if self._lines >= MOST_LINES:
            return
        for text in first(line, "message").removesuffix("\n").split("\n"):
            self._progress.output(text.removesuffix("\r"), RELEASE_COMMAND)


def _count(instances: list[Doc], process: str) -> int:
    gone = {InstanceState.STOPPING, InstanceState.STOPPED}
    mine = [
        i
        for i in instances
        if dig(i, "key.process") == process and dig(i, "state") not in gone and not dig(i, "draining", False)
    ]
    ready = [i for i in mine if dig(i, "state") == InstanceState.RUNNING and dig(i, "ready", False)]
    return len(ready) if len(ready) == len(mine) else min(len(ready), len(mine) - 1)


def _raise_if_crashing(app: str, instances: list[Doc], wanted: Mapping[str, int]) -> None:
    for instance in instances:
        if dig(instance, "key.process") in wanted and dig(instance, "state") == InstanceState.CRASHING:
            raise CliError(
                f"instance {dig(instance, 'id')} is crashing: {dig(instance, 'reason', '')}",
                hint=f"seaway logs -a {app} --instance {dig(instance, 'id')}",
                code="instance-crashing",
            )


async def read_build_log(api: Api, app: str, number: int, patience: Patience) -> AsyncGenerator[str, None]:
    """Yield the lines of a build's output until the build ends; after an outage go on behind the last line."""
    seen, pause = 0, FIRST_PAUSE
    while True:
        position = 0
        try:
            async with aclosing(api.stream(f"/apps/{app}/builds/{number}/log", follow=1)) as items:
                async for item in items:
                    if item.event == "end":
                        return
                    position += 1
                    if position > seen:
                        seen, pause = position, FIRST_PAUSE
                        yield item.line()
        except (Unreachable, ApiError) as error:
            if isinstance(error, ApiError) and not error.passing:
                raise
            patience.outage()
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)

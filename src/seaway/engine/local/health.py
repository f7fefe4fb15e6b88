"""The health of one running process: which checks apply, and what their answers add up to over time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from seaway.engine.local.base import Timings
from seaway.engine.local.probe import Unknown
from seaway.model import Check, Process

Ask = Callable[[Check], Awaitable[str | None]]
"""Run a check: None is good, else what went wrong. Unknown: ask again, nothing has been said."""

GROWTH = 1.2


@dataclass(frozen=True)
class Checks:
    """The checks that apply to a process. `startup` None: running for a moment counts as started."""

    startup: Check | None
    readiness: Check | None
    liveness: Check | None

    @classmethod
    def of(cls, process: Process, *, routed: bool) -> Checks:
        """Fill in the defaults: a routed process must accept TCP connections on its PORT."""
        health = process.health
        tcp = Check(tcp=True) if routed else None
        readiness = health.readiness or tcp
        return cls(health.startup or readiness, readiness, health.liveness)

    @property
    def need_port(self) -> bool:
        """Whether any check goes to the instance's PORT."""
        return any(c is not None and c.command is None for c in (self.startup, self.readiness, self.liveness))


Tell = Callable[[str, float], Awaitable[None]]
"""Takes what still goes wrong with a start, and the seconds it has been waited for."""


async def await_passing(check: Check, ask: Ask, limit: float, timings: Timings, tell: Tell) -> str | None:
    """Ask often until `healthy_after` answers in a row are good (None), or `limit` seconds are over: the last fault.

    A start that takes long is told of, more and more rarely.
    """
    began, told = time.monotonic(), timings.first_word
    wait = timings.first_probe
    slowest = max(wait, min(check.interval, timings.slowest_start_probe))
    passed, fault = 0, "it was not asked yet"
    try:
        async with asyncio.timeout(limit):
            while True:
                try:
                    said = await ask(check)
                except Unknown as unknown:
                    fault = str(unknown)
                else:
                    passed = passed + 1 if said is None else 0
                    if passed >= check.healthy_after:
                        return None
                    fault = said or fault
                if (waited := time.monotonic() - began) >= told:
                    await tell(fault, waited)
                    told *= 2
                await asyncio.sleep(wait)
                wait = min(wait * GROWTH, slowest)
    except TimeoutError:
        return fault


async def follow_readiness(check: Check, ask: Ask, ready: bool, tell: Callable[[bool, str], None]) -> None:
    """Ask for ever; `tell` each change of readiness with the reason."""
    good = bad = 0
    while True:
        fault = await _ask_known(check, ask)
        good, bad = (good + 1, 0) if fault is None else (0, bad + 1)
        if ready and bad >= check.unhealthy_after:
            ready = False
            tell(False, f"not ready: {fault} ({bad} times in a row)")
        elif not ready and good >= check.healthy_after:
            ready = True
            tell(True, "")
        await asyncio.sleep(check.interval)


async def await_dead(check: Check, ask: Ask) -> str:
    """Ask until `unhealthy_after` answers in a row are bad; return the last fault."""
    bad = 0
    while True:
        fault = await _ask_known(check, ask)
        bad = 0 if fault is None else bad + 1
        if fault is not None and bad >= check.unhealthy_after:
            return f"liveness check failed {bad} times in a row: {fault}"
        await asyncio.sleep(check.interval)


async def _ask_known(check: Check, ask: Ask) -> str | None:
    """Ask at the check's interval until something has been said."""
    while True:
        try:
            return await ask(check)
        except Unknown:
            await asyncio.sleep(check.interval)
